"""Why this layer: every candidate of the selection, kept or rejected, with the reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.curves import layer_axis
from refusal_plugin.report.figures.figure import empty, figure, panel
from refusal_plugin.report.markup import Markup
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import decimal, finite, mapping, sequence, significant

TITLE = "Why this layer?"


def selection_figure(results: Mapping[str, Any]) -> Markup:
    """Bypass, induce, KL and COSMIC over layers; the selected candidate is ringed, rejected ones are hollow."""
    direction = mapping(results.get("direction"))
    rows = [mapping(row) for row in sequence(direction.get("table"))]
    cosmic = mapping(direction.get("cosmic"))
    scores = [mapping(row) for row in sequence(cosmic.get("table"))]
    if not rows and not scores:
        return empty("selection", TITLE, "No selection table was recorded: the layer was given, not selected.")
    base = mapping(direction.get("baseline"))
    panels = []
    for series, title, small, reference in (
        (("bypass",), "Refusal score of harmful text, direction removed", "lower: more causal", base.get("bypass")),
        (
            ("induce",),
            "Refusal score of benign text, direction added",
            "higher: refusal is induced",
            base.get("induce"),
        ),
        (("kl_ablate", "kl_add"), "KL on benign text", "lower: answers stay the same", None),
        (("gain",), "Gain on half-hidden harm at equal cost", "higher: the better defence", None),
    ):
        drawn = _plot(rows, series, title, direction, finite(reference))
        if drawn is not None:
            panels.append(panel(drawn, title, small))
    drawn = _plot(scores, ("score",), "COSMIC score", cosmic, None)
    if drawn is not None:
        panels.append(panel(drawn, "COSMIC score", "token-free cross-check; higher is better"))
    return figure(
        "selection",
        TITLE,
        "Layers were compared on validation text only; no test item and no other modality took part."
        + _price(mapping(direction.get("calibration")), finite(direction.get("strength"))),
        panels,
        legend=[
            svg.glyph("var(--rp-accent)", label="candidate"),
            svg.glyph("var(--rp-accent)", shape="diamond", label="KL when added"),
            svg.glyph("var(--rp-accent)", hollow=True, label="rejected (point at it for the reason)"),
        ],
        reading="Each point is a candidate layer and position. The dashed line marks the selected layer of that "
        "criterion; "
        "hollow points broke a rule, which the table names. Dotted: the score without any edit.",
        tables=[_table(rows, direction), *([_cosmic_table(scores, cosmic)] if scores else [])],
    )


def _price(calibration: Mapping[str, Any], strength: float | None) -> str:
    target = finite(calibration.get("target_kl"))
    if target is None or strength is None:
        return ""
    return (
        f" The strength, {significant(strength)} of the vector, is the largest that costs "
        f"{significant(target)} nats of KL on "
        "harmless validation prompts of every modality; no harmful image, clip or recording was used to set it."
    )


def _is_chosen(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return finite(row.get("layer")) is not None and all(
        row.get(key) == chosen.get(key) for key in ("layer", "position")
    )


def _plot(
    rows: Sequence[Mapping[str, Any]],
    series: Sequence[str],
    title: str,
    chosen: Mapping[str, Any],
    reference: float | None,
) -> Markup | None:
    points = [
        (layer, value, key, row)
        for row in rows
        for key in series
        if (layer := finite(row.get("layer"))) is not None and (value := finite(row.get(key))) is not None
    ]
    if not points:
        return None
    plot = svg.Plot(height=214, left=48, right=18, top=26, bottom=38)
    extra = [0.0] if "kl_ablate" in series else [] if reference is None else [reference]
    domain = svg.around([p[1] for p in points], include=extra, pad=0.09)
    x = layer_axis(plot, sorted({int(p[0]) for p in points}))
    y = plot.y(*domain)
    plot.y_axis(y, svg.ticks(*domain, 4), significant)
    if reference is not None:
        said = f"without an edit: {significant(reference)}"
        plot.add(svg.rule(plot.left, y(reference), plot.width - plot.right, y(reference), "reference", title=said))
    picked = next((row for row in rows if _is_chosen(row, chosen)), None)
    if picked is not None:
        at = x(float(picked["layer"]))
        plot.add(svg.rule(at, plot.top, at, plot.height - plot.bottom, "chosen"))
        plot.add(svg.text(at, plot.top - 9, "selected", anchor="middle", class_="tick"))
    if len({str(row.get("position")) for row in rows}) == 1:
        for key in series:
            line = [(x(layer), y(value)) for layer, value, k, _ in sorted(points, key=lambda p: p[0]) if k == key]
            if len(line) > 1:
                plot.add(svg.polyline(line, "var(--rp-line)", width=1.5))
    for layer, value, key, row in points:
        reason = "" if row.get("kept") else f"; rejected: {row.get('reason') or 'no reason given'}"
        name = key.replace("_", " ")
        said = f"layer {layer:.0f}, {row.get('position', '')}, {name} {significant(value)}{reason}"
        shape = "diamond" if key == "kl_add" else "circle"
        picked_here = _is_chosen(row, chosen)
        plot.add(
            svg.mark(
                x(layer),
                y(value),
                "var(--rp-accent)",
                shape=shape,
                size=6.5 if picked_here else 4.6,
                hollow=not row.get("kept"),
                title=said,
            )
        )
        if picked_here:
            where, anchor = (x(layer) + 12, "start") if x(layer) < plot.width - 90 else (x(layer) - 12, "end")
            plot.add(svg.text(where, y(value) - 9, significant(value), anchor=anchor, class_="strong halo"))
    said = ", ".join(
        f"layer {layer:.0f} {key.replace('_', ' ')} {significant(value)}" for layer, value, key, _ in points
    )
    return plot.render(title, said)


def _verdict(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    if _is_chosen(row, chosen):
        return "selected"
    return "kept" if row.get("kept") else f"rejected: {row.get('reason') or 'no reason given'}"


def _table(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> Markup:
    keys = ("bypass", "induce", "kl_ablate", "kl_add", "strength", "gain", "auroc", "cosmic")
    cells = [
        [
            f"layer {significant(finite(row.get('layer')))}, {row.get('position', '')}",
            *[finite(row.get(key)) for key in keys],
            _verdict(row, chosen),
        ]
        for row in rows
    ]
    heads = ["", "bypass", "induce", "KL, removed", "KL, added", "strength", "gain", "AUROC", "COSMIC", "verdict"]
    base = mapping(chosen.get("baseline"))
    said = "Candidates on validation text. Without an edit: " + ", ".join(
        f"{key} {decimal(finite(base.get(key)))}" for key in ("bypass", "induce")
    )
    marked = [i for i, row in enumerate(rows) if _is_chosen(row, chosen)]
    return html_table(heads, cells, caption=said if base else "Candidates on validation text.", marked=marked)


def _cosmic_table(rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> Markup:
    cells = [
        [
            f"layer {significant(finite(row.get('layer')))}, {row.get('position', '')}",
            finite(row.get("score")),
            finite(row.get("kl_ablate")),
            _verdict(row, chosen),
        ]
        for row in rows
    ]
    marked = [i for i, row in enumerate(rows) if _is_chosen(row, chosen)]
    return html_table(
        ["", "COSMIC score", "KL, removed", "verdict"], cells, caption="COSMIC on validation text.", marked=marked
    )
