"""Is the harm visible? AUROC of the projection on the text direction, layer by layer, one line per modality."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.curves import Curve, chosen_line, draw, layer_axis, listed
from refusal_plugin.report.figures.figure import empty, figure, panel
from refusal_plugin.report.markup import Markup
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import Rate, decimal, finite, mapping, scalar, sequence

# key in results.json, panel title, small print
KINDS = (
    ("auroc_by_layer", "Harmful against all other requests", "benign and near-miss"),
    ("auroc_near_miss_by_layer", "Harmful against near-miss only", "same words, no harm"),
)
TITLE = "Is the harm visible along the text direction?"


def auroc_figure(results: Mapping[str, Any]) -> Markup:
    """AUROC by layer for every modality, with the band that random directions reach."""
    modalities = mapping(results.get("modalities"))
    names = modality_order(modalities)
    layer = finite(mapping(results.get("direction")).get("layer"))
    panels = []
    for key, title, small in KINDS:
        curves = [Curve(name, colour(name), *listed(mapping(modalities[name]).get(key))) for name in names]
        if any(curve.known for curve in curves):
            panels.append(panel(_plot(modalities, names, curves, layer, title), title, small))
    if not panels:
        return empty("auroc", TITLE, "No AUROC could be measured in this run.")
    return figure(
        "auroc",
        TITLE,
        "The activation of every test request at the last prompt token is projected on the direction found "
        "in text; the "
        "AUROC says how well that one number tells harmful requests from the others.",
        panels,
        legend=[svg.glyph("var(--rp-control)", shape="square", label="random directions, 95% band")],
        reading="1.0: every harmful request lies further towards refusal than every other one; 0.5: no better than "
        "guessing. Coloured bands are 95% intervals, the grey band is where random directions fall, so a line must "
        "leave the grey band before it means anything. The dashed line marks the selected layer.",
        tables=[_table(modalities, names)],
    )


def _plot(
    modalities: Mapping[str, Any], names: Sequence[str], curves: Sequence[Curve], layer: float | None, title: str
) -> Markup:
    plot = svg.Plot(height=270, left=38, right=58, top=26, bottom=38)
    every = [v for c in curves for _, r, value in c.known for v in (value, r.low) if v is not None]
    bands = [_band(modalities[name]) for name in names]
    every += [row[1] for band in bands for row in band]
    lowest = 0.4 if min(every) >= 0.4 else 0.0 if min(every) < 0.2 else 0.2
    x = layer_axis(plot, sorted({n for c in curves for n in c.layers}))
    y = plot.y(lowest, 1.0)
    plot.y_axis(y, svg.ticks(lowest, 1.0, 5), lambda v: f"{v:.1f}")
    for band in bands:
        if len(band) > 1:
            lower, upper = [(x(n), y(low)) for n, low, _ in band], [(x(n), y(high)) for n, _, high in band]
            plot.add(svg.area(lower, upper, "var(--rp-control)", 0.13))
    plot.add(svg.rule(plot.left, y(0.5), plot.width - plot.right, y(0.5), "reference"))
    plot.add(svg.text(plot.width - plot.right + 6, y(0.5), "chance", class_="tick"))
    chosen_line(plot, x, layer)
    draw(plot, x, y, curves)
    ends = "; ".join(
        f"{c.name}: " + ", ".join(f"layer {n} {decimal(v)}" for n, _, v in c.known) for c in curves if c.known
    )
    return plot.render(f"AUROC by layer: {title}", ends)


def _band(modality: object) -> list[tuple[int, float, float]]:
    rows = []
    for row in sequence(mapping(modality).get("auroc_random_by_layer")):
        number, low, high = (finite(mapping(row).get(k)) for k in ("layer", "low", "high"))
        if number is not None and low is not None and high is not None:
            rows.append((int(number), low, high))
    return sorted(rows)


def _table(modalities: Mapping[str, Any], names: Sequence[str]) -> Markup:
    rows: list[list[object]] = []
    for name in names:
        found = mapping(modalities[name])
        keys = ("auroc_by_layer", "auroc_comprehended_by_layer", "auroc_near_miss_by_layer")
        columns = [dict(zip(*listed(found.get(key)), strict=True)) for key in keys]
        null = {number: f"{decimal(low)} to {decimal(high)}" for number, low, high in _band(found)}
        for number in sorted({n for column in columns for n in column}):
            cells = [scalar(column.get(number, Rate(None))) for column in columns]
            rows.append([f"{name}, layer {number}", *cells, null.get(number)])
    heads = ["", "against all others", "only items read back correctly", "against near-miss", "random directions"]
    return html_table(heads, rows, caption="AUROC of the projection with 95% intervals.")
