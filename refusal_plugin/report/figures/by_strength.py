"""What a larger or smaller strength would do: refusals the next token opens, of harmful and of harmless requests."""

from collections.abc import Mapping
from typing import Any

from ..charts import Curve, line_chart
from ..markup import Markup
from ..numbers_in_words import share, significant
from ..palette import colour, modality_order
from ..records import Rate, finite, mapping, records
from ..sliders import Slider
from ..svg import Axis
from ..table import html_table
from .figure import Panel, figure

SIDES = (("harmful", "harmful", "triangle"), ("harmless", "benign", "circle"))


def by_strength_figure(results: Mapping[str, Any]) -> Markup | None:
    """Both shares against the strength, one panel per modality; None where it was not measured."""
    slider, chosen = strength_slider(results), finite(results, "direction", "strength")
    if slider is None:
        return None
    stops, panels, table = slider.stops, [], []
    for name, rows in _measured(results).items():
        curves = [
            Curve.of(side, colour(hue), [(finite(row, "strength") or 0.0, Rate.of(row, side)) for row in rows], shape)
            for side, hue, shape in SIDES
        ]
        drawn = line_chart(
            f"Refusals by strength, {name}",
            curves,
            Axis.around(stops, significant, "strength of the direction", pad=0.03),
            Axis.shares(),
            right=70,
            chosen=None if chosen is None else (chosen, "priced"),
            slider=slider,
        )
        said = [", ".join(f"{side} {share(Rate.of(row, side))}" for side, _, _ in SIDES) for row in rows]
        words = [f"{stop}: {more}" for stop, more in zip(slider.words, said, strict=False)]
        panels.append(Panel.of(name, drawn, said=slider.says(words) if len(words) == len(stops) else None))
        table += [[f"{name}, strength {significant(finite(row, 'strength'))}", *_cells(row)] for row in rows]
    heads = ["", *(f"{side} refused" for side, _, _ in SIDES)]
    return figure(
        "by_strength", panels, [html_table(heads, table, caption="Share with its 95% interval.")], slider=slider
    )


def strength_slider(results: Mapping[str, Any]) -> Slider | None:
    """The slider over the strengths that were measured; None without any."""
    chosen = finite(results, "direction", "strength") or 0.0
    stops = [v for row in next(iter(_measured(results).values()), []) if (v := finite(row, "strength")) is not None]
    if len(stops) < 2:
        return None
    nearest = min(range(len(stops)), key=lambda place: abs(stops[place] - chosen))
    return Slider("strength", stops, [f"strength {significant(stop)}" for stop in stops], nearest)


def _measured(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of every modality that has some, modalities in reading order."""
    modalities = mapping(results, "modalities")
    return {name: rows for name in modality_order(modalities) if (rows := records(modalities[name], "by_strength"))}


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [share(Rate.of(row, side)) for side, _, _ in SIDES]
