"""What the modality gap is made of, and how much of the refusal gap survives the comprehension gate."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.figure import empty, figure, panel
from refusal_plugin.report.markup import Markup
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import NOT_MEASURED, Rate, decimal, mapping, percent, points, scalar

TITLE = "What is the gap between the modalities made of?"
ROW = 34.0
SHARES = (
    ("share_along", "runs along the refusal direction"),
    ("translation", "is one common translation"),
    ("cka", "likeness of harmful and benign (CKA)"),
)
MARGINS = (
    ("harmful_before", "harmful"),
    ("harmful_after", "harmful, re-centred"),
    ("safe_before", "safe"),
    ("safe_after", "safe, re-centred"),
)
ALL = (
    ("shift", "shift, in refusal directions"),
    ("along", "its part along the refusal direction, signed"),
    ("share_along", "share of its square along the refusal direction"),
    ("share_orthogonal", "share across it"),
    ("translation", "share that is one translation"),
    ("cka", "CKA harmful / benign, debiased"),
    ("cka_plain", "CKA, plain form"),
    ("cka_shuffled", "CKA, plain form, pairs shuffled"),
    ("harmful_before", "harmful: distance from the midpoint"),
    ("harmful_after", "harmful, re-centred"),
    ("safe_before", "safe: distance from the midpoint"),
    ("safe_after", "safe, re-centred"),
)


def gap_figure(results: Mapping[str, Any]) -> Markup:
    """Shares of the shift, margins before and after re-centring, refusal gap with and without the gate."""
    found = mapping(results.get("modality_gap"))
    names = modality_order(found)
    records = {name: mapping(found[name]) for name in names}
    others = [n for n in names if n != records[n].get("reference")]
    if not others:
        return empty("gap", TITLE, "The modality gap was not measured in this run.")
    panels = []
    rows = [(n, [(label, Rate.of(records[n].get(key))) for key, label in SHARES]) for n in others]
    panels.append(
        panel(_bars("Parts of the shift", rows, (-0.1, 1.0), percent), "Parts of the shift", "share, 95% interval")
    )
    rows = [(n, [(label, Rate.of(records[n].get(key))) for key, label in MARGINS]) for n in names]
    bounds = [v for _, group in rows for _, r in group for v in (r.low, r.high, r.value) if v is not None]
    if bounds:
        domain = svg.around(bounds, include=(0.0,))
        drawn = _bars("Side of the midpoint", rows, domain, lambda v: decimal(v, 2))
        panels.append(panel(drawn, "Side of the midpoint", "right of 0: refusal side, in refusal directions"))
    gaps = {n: mapping(records[n].get("refusal_gap")) for n in others}
    rows = [
        (n, [("all items", Rate.of(gaps[n].get("ungated"))), (_gate(gaps[n]), Rate.of(gaps[n].get("gated")))])
        for n in others
    ]
    if any(r.value is not None for _, group in rows for _, r in group):
        drawn = _bars("Refused less than text", rows, (-0.1, 1.0), percent)
        panels.append(panel(drawn, "Refused less than in text", "harmful items, paired by content"))
    table = [[label, *[scalar(Rate.of(records[n].get(key))) for n in names]] for key, label in ALL]
    for key, label in (("ungated", "refusal gap, all items"), ("gated", "refusal gap, items read back correctly")):
        table.append([label, *[points(Rate.of(mapping(records[n].get("refusal_gap")).get(key))) for n in names]])
    table.append(
        ["items dropped by the gate", *[str(mapping(records[n].get("refusal_gap")).get("dropped", "")) for n in names]]
    )
    layer = records[others[0]].get("layer")
    return figure(
        "gap",
        TITLE,
        f"The same content as text and as another medium, at layer {layer}: where does the stream move, and "
        "does moving it back help?",
        panels,
        reading="Parts of the shift: only the part along the refusal direction can move a request towards or away from "
        "refusal; a gap that is no common translation cannot be undone by subtracting a mean. CKA is taken over pairs "
        "and freed from the bias of small sets. Side of the midpoint: harmful requests should lie right of 0, safe "
        "ones left of it. Refused less than in text: harm that was not read is no gap in refusal, so the second line "
        "counts only what the model reads back correctly.",
        tables=[html_table(["", *names], table, caption="Value with 95% interval.")],
    )


def _gate(gap: Mapping[str, Any]) -> str:
    dropped = gap.get("dropped")
    return "read correctly" if dropped is None else f"read correctly ({dropped} dropped)"


def _bars(
    title: str, groups: Sequence[tuple[str, Sequence[tuple[str, Rate]]]], domain: tuple[float, float], say: Any
) -> Markup:
    """Rows of points with intervals, grouped by modality; every row carries its name above its mark."""
    n = sum(len(group) for _, group in groups)
    plot = svg.Plot(height=n * ROW + len(groups) * 10 + 40, left=54, right=54, top=6, bottom=34)
    scale = plot.x(*domain)
    plot.x_axis(scale, svg.ticks(*domain, 4), lambda v: decimal(v, 1), "")
    y = plot.top + ROW / 2
    said = []
    for name, group in groups:
        plot.add(
            svg.text(
                plot.left - 8, y + (len(group) - 1) * ROW / 2, name, anchor="end", fill=colour(name), class_="strong"
            )
        )
        for k, (label, rate) in enumerate(group):
            # The line at zero stands beside the marks alone: through a row's name it could not be read.
            plot.add(svg.rule(scale(0.0), y, scale(0.0), y + ROW - 18, "reference"))
            plot.add(svg.text(plot.left + 4, y - 8, label, class_="tick halo"))
            if rate.value is None:
                plot.add(svg.text(plot.width - 4, y + 5, NOT_MEASURED, anchor="end", class_="tick"))
            else:
                if rate.low is not None and rate.high is not None:
                    plot.add(svg.whisker(scale(rate.low), scale(rate.high), y + 5, colour(name)))
                mark = f"{name}, {label}: {scalar(rate)}"
                plot.add(svg.mark(scale(rate.value), y + 5, colour(name), hollow=k % 2 == 0, title=mark))
                plot.add(svg.text(plot.width - 4, y + 5, say(rate.value), anchor="end", class_="strong"))
            said.append(f"{name}, {label}: {scalar(rate)}")
            y += ROW
        y += 10
    return plot.render(title, "; ".join(said))
