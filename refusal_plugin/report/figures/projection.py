"""Where single requests lie on the text direction: a swarm per role and modality, and the means layer by layer."""

from collections.abc import Mapping
from typing import Any

from ..charts import Curve, Lane, Row, Single, line_chart, row_chart
from ..markup import Markup
from ..numbers_in_words import decimal, scalar
from ..palette import ROLE_NAMES, ROLE_SHAPES, ROLES, colour, modality_order
from ..records import at_layer, by_layer, finite, mapping, records, sequence
from ..sliders import layer_slider
from ..svg import Axis
from ..table import html_table
from .figure import Panel, figure


def swarm_figure(results: Mapping[str, Any]) -> Markup:
    """Every test request as a point at the selected layer; 0 = mean benign text, 1 = mean harmful text.

    Where the results hold the items, points follow the layer and lead to their item.
    """
    modalities, layer = mapping(results, "modalities"), finite(results, "direction", "layer")
    names = modality_order(modalities)
    values, slider = _items(results, layer), layer_slider(results)
    if not values:
        values = {(m, r): _values(modalities[m], r) for m in names for r in ROLES}
    every = [v for found in values.values() for dot in found for v in (dot.value, *dot.stops) if v is not None]
    panels, table = [], []
    axis = Axis.around(every, lambda v: decimal(v, 1), "projection on the text direction", include=(0, 1), count=6)
    for name in names:
        rows = []
        for role in ROLES:
            rates, found, said = (
                by_layer(modalities[name], *MEANS, role),
                values.get((name, role), []),
                ROLE_NAMES[role],
            )
            mean = at_layer(rates, layer)
            stops = [at_layer(rates, stop) for stop in slider.stops] if slider else []
            title = f"{name}, {said}: {len(found)} requests, mean {scalar(mean)}"
            number = "" if mean.value is None else decimal(mean.value)
            rows.append(
                Row(
                    said,
                    [Lane(mean, colour(role), title, shape="mean", dots=found, said=number, stops=stops)],
                    colour(role),
                )
            )
            one_by_one = ", ".join(decimal(v) for v in sorted(dot.value for dot in found))
            table.append([f"{name}, {said}", scalar(mean), one_by_one or None])
        drawn = row_chart(
            f"Projection of {name} requests on the text direction",
            rows,
            axis,
            lane=52,
            pad=0,
            left=70,
            right=44,
            top=24,
            references=((0.0, "benign text"), (1.0, "harmful text")),
            slider=slider,
        )
        panels.append(Panel.of(name, drawn, said=None if slider is None else slider.says(slider.words)))
    caption = "Projection on the text direction."
    behind = html_table(["", "mean", "every request, sorted"], table, caption=caption)
    shown, at = panels if every else [], None if layer is None else int(layer)
    return figure("projection", shown, [behind], layer=at, slider=slider)


def _values(modality: object, role: str) -> list[Single]:
    return [Single(v) for v in map(finite, sequence(modality, "projection", role)) if v is not None]


def _items(results: Mapping[str, Any], layer: float | None) -> dict[tuple[str, str], list[Single]]:
    """The items of every modality and role, with the place of each in the list of answers."""
    found: dict[tuple[str, str], list[Single]] = {}
    for place, row in enumerate(records(results, "items") if layer is not None else []):
        stops = [finite(v) for v in sequence(row, "projection_by_layer", "before")]
        here = stops[int(layer or 0)] if int(layer or 0) < len(stops) else None
        if here is not None:
            found.setdefault((str(row.get("modality")), str(row.get("role"))), []).append(
                Single(here, f"item-{place}", stops)
            )
    return found


MEANS = ("projection_by_layer",)


def layers_figure(results: Mapping[str, Any]) -> Markup:
    """Mean projection by layer, one panel per modality, one line per role, on one shared scale."""
    modalities, layer = mapping(results, "modalities"), finite(results, "direction", "layer")
    names = modality_order(modalities)
    means = {name: {role: by_layer(modalities[name], *MEANS, role) for role in ROLES} for name in names}
    curves = {
        name: [Curve.of(ROLE_NAMES[r], colour(r), rates, ROLE_SHAPES[r]) for r, rates in found.items()]
        for name, found in means.items()
    }
    bounds = [v for found in curves.values() for curve in found for v in curve.ends]
    axis, slider = Axis.around(bounds, lambda v: decimal(v, 1), include=(0.0, 1.0)), layer_slider(results)
    panels, rows = [], []
    for name, found in curves.items():
        drawn = line_chart(
            f"Mean projection by layer, {name}",
            found,
            Axis.counts([p.x for curve in found for p in curve.points], "layer"),
            axis,
            height=236,
            left=38,
            right=72,
            chosen=None if layer is None else (layer, "selected"),
            references=[(0.0, ""), (1.0, "")],
            slider=slider,
        )
        panels.append(Panel.of(name, drawn))
        for number in sorted({n for rates in means[name].values() for n, _ in rates}):
            cells = [scalar(at_layer(rates, number)) for rates in means[name].values()]
            rows.append([f"{name}, layer {number}", *cells])
    behind = html_table(["", *ROLE_NAMES.values()], rows, caption="Mean projection with 95% intervals.")
    return figure("layers", panels if bounds else [], [behind], slider=slider)
