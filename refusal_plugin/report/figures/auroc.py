"""Is the harm visible? AUROC of the projection on the text direction, layer by layer, one line per modality."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import Curve, line_chart
from ..markup import Markup
from ..numbers_in_words import decimal, scalar
from ..palette import colour, modality_order
from ..records import at_layer, by_layer, finite, mapping, records
from ..sliders import Slider, layer_slider
from ..svg import Axis, ticks
from ..table import html_table
from .figure import Panel, figure

# key in results.json, name at the line's end, shape of the marks, dash
KINDS = (("auroc_by_layer", "all others", "circle", None), ("auroc_near_miss_by_layer", "near-miss", "diamond", "4 3"))
COLUMNS = ("auroc_by_layer", "auroc_comprehended_by_layer", "auroc_near_miss_by_layer")


def auroc_figure(results: Mapping[str, Any]) -> Markup:
    """AUROC by layer, one panel per modality, each over the band that random directions reach there."""
    modalities, layer = mapping(results, "modalities"), finite(results, "direction", "layer")
    names = modality_order(modalities)
    bands = {name: _band(modalities[name]) for name in names}
    curves = {
        name: [
            Curve.of(said, colour(name), by_layer(modalities[name], key), shape, dash=dash)
            for key, said, shape, dash in KINDS
        ]
        for name in names
    }
    every = [v for found in curves.values() for curve in found for v in curve.ends]
    least = min([1.0, *every, *(low for band in bands.values() for _, low, _ in band)])
    lowest = 0.4 if least >= 0.4 else 0.0 if least < 0.2 else 0.2
    y = Axis(lowest, 1.0, ticks(lowest, 1.0, 5), lambda v: f"{v:.1f}")
    panels, rows, slider = [], [], layer_slider(results)
    for name, found in curves.items():
        if not any(curve.known for curve in found):
            continue
        drawn = line_chart(
            f"AUROC by layer, {name}",
            found,
            Axis.counts([p.x for curve in found for p in curve.points], "layer"),
            y,
            left=38,
            right=74,
            chosen=None if layer is None else (layer, "selected"),
            references=[(0.5, "chance")],
            nulls=[bands[name]],
            depth=0.2,
            slider=slider,
        )
        panels.append(Panel.of(name, drawn, said=None if slider is None else slider.says(_words(found, slider))))
    for name in names:
        columns = [by_layer(modalities[name], key) for key in COLUMNS]
        null = {number: f"{decimal(low)} to {decimal(high)}" for number, low, high in bands[name]}
        for number in sorted({n for column in columns for n, _ in column}):
            cells = [scalar(at_layer(column, number)) for column in columns]
            rows.append([f"{name}, layer {number}", *cells, null.get(number)])
    heads = ["", "against all others", "only items read back correctly", "against near-miss", "random directions"]
    table = html_table(heads, rows, caption="AUROC of the projection with 95% intervals.")
    return figure("auroc", panels, [table], slider=slider)


def _words(curves: Sequence[Curve], slider: Slider) -> list[str]:
    """What the curves are at every layer."""
    known = [(curve.name, {point.x: value for point, value in curve.known}) for curve in curves]
    return [
        f"{said}: " + ", ".join(f"{name} {decimal(values.get(stop))}" for name, values in known)
        for stop, said in zip(slider.stops, slider.words, strict=True)
    ]


def _band(modality: object) -> list[tuple[int, float, float]]:
    """What random directions reach: (layer, low, high)."""
    rows = [
        [finite(row, key) for key in ("layer", "low", "high")] for row in records(modality, "auroc_random_by_layer")
    ]
    return sorted(
        (int(n), low, high) for n, low, high in rows if n is not None and low is not None and high is not None
    )
