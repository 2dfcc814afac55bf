"""Is the harm visible? AUROC of the projection on the text direction, layer by layer, one line per modality."""

from collections.abc import Mapping
from typing import Any

from ..charts import Curve, line_chart
from ..markup import Markup
from ..numbers_in_words import decimal, scalar
from ..palette import colour, modality_order
from ..records import at_layer, by_layer, finite, mapping, records
from ..svg import Axis, ticks
from ..table import html_table
from .figure import Panel, figure

# key in results.json, panel title, small print
KINDS = (
    ("auroc_by_layer", "Harmful against all other requests", "benign and near-miss"),
    ("auroc_near_miss_by_layer", "Harmful against near-miss only", "same words, no harm"),
)
COLUMNS = ("auroc_by_layer", "auroc_comprehended_by_layer", "auroc_near_miss_by_layer")


def auroc_figure(results: Mapping[str, Any]) -> Markup:
    """AUROC by layer for every modality, with the band that random directions reach."""
    modalities, layer = mapping(results, "modalities"), finite(results, "direction", "layer")
    names = modality_order(modalities)
    bands = {name: _band(modalities[name]) for name in names}
    panels, rows = [], []
    for key, title, small in KINDS:
        curves = [Curve.of(name, colour(name), by_layer(modalities[name], key)) for name in names]
        every = [v for c in curves for v in c.ends]
        if not every:
            continue
        least = min([*every, *(low for band in bands.values() for _, low, _ in band)])
        lowest = 0.4 if least >= 0.4 else 0.0 if least < 0.2 else 0.2
        drawn = line_chart(
            f"AUROC by layer: {title}",
            curves,
            Axis.counts([p.x for c in curves for p in c.points], "layer"),
            Axis(lowest, 1.0, ticks(lowest, 1.0, 5), lambda v: f"{v:.1f}"),
            height=270,
            left=38,
            chosen=None if layer is None else (layer, "selected"),
            references=[(0.5, "chance")],
            nulls=[*bands.values()],
        )
        panels.append(Panel(drawn, title, small))
    for name in names:
        columns = [by_layer(modalities[name], key) for key in COLUMNS]
        null = {number: f"{decimal(low)} to {decimal(high)}" for number, low, high in bands[name]}
        for number in sorted({n for column in columns for n, _ in column}):
            cells = [scalar(at_layer(column, number)) for column in columns]
            rows.append([f"{name}, layer {number}", *cells, null.get(number)])
    heads = ["", "against all others", "only items read back correctly", "against near-miss", "random directions"]
    return figure("auroc", panels, [html_table(heads, rows, caption="AUROC of the projection with 95% intervals.")])


def _band(modality: object) -> list[tuple[int, float, float]]:
    """What random directions reach: (layer, low, high)."""
    rows = [
        [finite(row, key) for key in ("layer", "low", "high")] for row in records(modality, "auroc_random_by_layer")
    ]
    return sorted(
        (int(n), low, high) for n, low, high in rows if n is not None and low is not None and high is not None
    )
