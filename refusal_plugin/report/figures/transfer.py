"""Transfer between modalities: one matrix per measure, and curves over layers for the first source."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.curves import Curve, chosen_line, draw, layer_axis, listed
from refusal_plugin.report.figures.figure import empty, figure, panel
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import Rate, decimal, finite, mapping, points, scalar

TITLE = "Does one modality's direction reach the others?"
CURVES = "In which layers does it reach them?"
CELL, HEIGHT = 82.0, 46.0
# key, title, small print, value without effect, value of full colour, whether it is a change of a rate
MATRICES: tuple[tuple[str, str, str, float, float, bool], ...] = (
    ("cosine", "Same direction?", "cosine, freed from fitting noise", 0.0, 1.0, False),
    ("auroc", "Harm readable?", "AUROC, harmful against safe", 0.5, 1.0, False),
    ("induced_score", "Makes benign refused?", "refusal score, nats", 0.0, 10.0, False),
    ("ablated_score", "Needed for refusal?", "score of harmful, direction at benign mean", 0.0, -10.0, False),
    ("restored", "Restores refusal of harm", "change of the rate, direction added", 0.0, 1.0, True),
    ("ablated", "Takes refusal of harm away", "change of the rate, at benign mean", 0.0, -1.0, True),
)
LINES = (
    ("auroc", "Harm readable along it", "AUROC"),
    ("cosine", "Cosine with the target's own", "freed from fitting noise"),
    ("induced_score", "Added to benign requests", "change of the refusal score, nats"),
    ("ablated_score", "Set to its benign mean in harmful ones", "change of the refusal score, nats"),
)


def transfer_matrix(results: Mapping[str, Any]) -> Markup:
    """Source x target for every measure at the report's layer."""
    found = mapping(results.get("transfer"))
    sources = modality_order(found)
    targets = modality_order({t: 0 for s in sources for t in mapping(found[s])})
    cells = {(s, t): mapping(mapping(found[s]).get(t)) for s in sources for t in targets}
    panels, rows = [], []
    for key, title, small, zero, full, change in MATRICES:
        rates = {place: Rate.of(cell.get(key)) for place, cell in cells.items()}
        if not any(rate.value is not None for rate in rates.values()):
            continue
        say = points if change else scalar
        marks = {place: finite(mapping(cell.get("p_holm")).get(key)) for place, cell in cells.items()}
        panels.append(panel(_matrix(title, sources, targets, rates, marks, zero, full, change), title, small))
        control = [Rate.of(mapping(cells[sources[0], t].get("random")).get(key)) for t in targets]
        for s in sources:
            rows.append([f"{title} {s}", *[say(rates[s, t]) + _star(marks[s, t]) for t in targets]])
        if any(rate.value is not None for rate in control):
            rows.append([f"{title} random direction", *[say(rate) for rate in control]])
    if not panels:
        return empty("transfer", TITLE, "Transfer was not measured in this run.")
    layer = next((cell.get("layer") for cell in cells.values() if "layer" in cell), "?")
    return figure(
        "transfer",
        TITLE,
        f"The refusal direction fitted in each modality (row), tried in each modality (column), at layer {layer}. "
        "Directions are fitted on training items and tried on test items of other pairs; all have the same length.",
        panels,
        reading="Darker is further from no effect; the small figures are 95% intervals over pair groups. A star marks "
        "what differs from random directions after Holm's correction over all tested cells (cosine, AUROC, the two "
        "scores). "
        "Reading and acting are different things: a direction can separate harm in a modality and still not move "
        "its refusal. "
        "Where a modality hardly refuses there is little to take away, so the last panel has a floor.",
        tables=[
            html_table(["", *[f"in {t}" for t in targets]], rows, caption="Value with 95% interval; * Holm p <= 0.05.")
        ],
    )


def _star(p: float | None) -> str:
    return " *" if p is not None and p <= 0.05 else ""


def _matrix(
    title: str,
    sources: Sequence[str],
    targets: Sequence[str],
    rates: Mapping[tuple[str, str], Rate],
    marks: Mapping[tuple[str, str], float | None],
    zero: float,
    full: float,
    change: bool,
) -> Markup:
    left, top = 62.0, 26.0
    plot = svg.Plot(height=top + HEIGHT * len(sources) + 4, left=left, right=4, top=top, bottom=4)
    width = min(CELL, (plot.width - left - 4) / max(1, len(targets)))
    for j, target in enumerate(targets):
        plot.add(svg.text(left + (j + 0.5) * width, 12, target, anchor="middle", fill=colour(target), class_="strong"))
    for i, source in enumerate(sources):
        y = top + i * HEIGHT
        plot.add(svg.text(left - 8, y + HEIGHT / 2, source, anchor="end", fill=colour(source), class_="strong"))
        for j, target in enumerate(targets):
            rate, x = rates[source, target], left + j * width
            share = 0.0 if rate.value is None else min(1.0, max(0.0, (rate.value - zero) / (full - zero)))
            name = f"{source} in {target}: {points(rate) if change else scalar(rate)}"
            plot.add(
                tag(
                    "rect", tag("title", name), x=x + 1, y=y + 1, width=width - 2, height=HEIGHT - 2, rx=3,
                    style="fill:var(--rp-accent);stroke:var(--rp-line)", fill_opacity=0.04 + 0.34 * share,
                )
            )  # fmt: skip
            middle, height = x + width / 2, y + HEIGHT / 2
            shown = f"{_short(rate.value, full, change)}{_star(marks[source, target])}"
            plot.add(svg.text(middle, height - 7, shown, anchor="middle", class_="strong"))
            if rate.low is not None:
                interval = f"{_short(rate.low, full, change)}, {_short(rate.high, full, change)}"  # " to " is too wide
                plot.add(svg.text(middle, height + 10, interval, anchor="middle", class_="tick"))
    said = "; ".join(f"{s} in {t}: {points(r) if change else scalar(r)}" for (s, t), r in rates.items())
    return plot.render(title, said)


def _short(value: float | None, full: float, change: bool) -> str:
    """As many digits as a cell has room for: points, one decimal of nats, two of anything up to 1."""
    if value is None:
        return "\u2013"
    return decimal(100 * value, 0) if change else decimal(value, 1 if abs(full) > 1 else 2)


def transfer_curves(results: Mapping[str, Any]) -> Markup:
    """The first source's direction in every target, layer by layer, with the random control."""
    found = mapping(results.get("transfer"))
    sources = modality_order(found)
    if not sources:
        return empty("transfer-layers", CURVES, "Transfer was not measured in this run.")
    source = sources[0]
    cells = mapping(found[source])
    targets = modality_order(cells)
    layer = next((finite(mapping(cells[t]).get("layer")) for t in targets), None)
    panels, rows = [], []
    for key, title, small in LINES:
        curves = []
        for t in targets:
            if key == "cosine" and t == source:
                continue
            curves.append(Curve(t, colour(t), *listed(mapping(mapping(cells[t]).get("by_layer")).get(key))))
        control = [
            Curve(
                "random",
                "var(--rp-control)",
                *listed(mapping(mapping(cells[t]).get("random_by_layer")).get(key)),
                dash="3 3",
            )
            for t in targets
        ]
        if not any(curve.known for curve in curves):
            continue
        panels.append(panel(_lines(title, curves, control, key, layer), title, small))
        for curve in curves:
            rows += [[f"{title}, {curve.name}, layer {n}", scalar(r)] for n, r, _ in curve.known]
        for t, curve in zip(targets, control, strict=True):
            rows += [[f"{title}, random in {t}, layer {n}", scalar(r)] for n, r, _ in curve.known]
    if not panels:
        return empty("transfer-layers", CURVES, "Nothing was measured layer by layer in this run.")
    return figure(
        "transfer-layers",
        CURVES,
        f"The {source} direction of every layer, in every modality.",
        panels,
        legend=[svg.glyph("var(--rp-control)", shape="square", label="random directions")],
        reading="Coloured bands are 95% intervals, grey is what random directions of the same length give: their "
        "central 95% for AUROC, their mean effect (dashed) for the scores. The dashed vertical line is the layer of "
        "the tables above. No mark for significance here: the tests were made at that one layer.",
        tables=[html_table(["", "value with 95% interval"], rows)],
    )


def _lines(title: str, curves: Sequence[Curve], control: Sequence[Curve], key: str, layer: float | None) -> Markup:
    plot = svg.Plot(height=250, left=44, right=62, top=26, bottom=38)
    every = [v for c in (*curves, *control) for _, r, value in c.known for v in (value, r.low, r.high) if v is not None]
    domain = (min(0.4, min(every)), 1.0) if key == "auroc" else svg.around(every, include=(0.0,))
    x, y = layer_axis(plot, sorted({n for c in curves for n in c.layers})), plot.y(*domain)
    plot.y_axis(y, svg.ticks(*domain, 5), lambda v: decimal(v, 1))
    chosen_line(plot, x, layer)
    if key == "auroc":
        for curve in control:
            band = [(x(n), r) for n, r, _ in curve.known if r.low is not None]
            if len(band) > 1:
                lower = [(at, y(r.low or 0.0)) for at, r in band]
                upper = [(at, y(r.high or 0.0)) for at, r in band]
                plot.add(svg.area(lower, upper, "var(--rp-control)", 0.10))
    else:
        draw(plot, x, y, control, labels=False)
    draw(plot, x, y, curves)
    said = "; ".join(f"{c.name}: " + ", ".join(f"layer {n} {decimal(v)}" for n, _, v in c.known) for c in curves)
    return plot.render(title, said)
