"""Do the same heads write refusal in every modality: rank correlation, shared top heads, and those that fall silent."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.figure import figure, panel
from refusal_plugin.report.figures.heads_effects import head_name
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import decimal, finite, mapping, percent, sequence

LISTED = 12
"""Silent heads beside the figure; the table behind it lists all."""
LEFT, TOP, WIDE, TALL = 58.0, 24.0, 88.0, 66.0


def agreement_figure(found: Mapping[str, Any]) -> Markup | None:
    """Agreement of all heads and of the top heads between modalities, and the heads of text that fall silent."""
    rows = [mapping(row) for row in sequence(found.get("overlap"))]
    if not rows:
        return None
    names = modality_order({str(row.get(key)): 1 for row in rows for key in ("one", "other")})
    silent = _silent(found)
    k = finite(rows[0].get("k")) or 0
    listed: Markup = tag("p", "No head of text falls silent in another modality.", class_="note")
    head = ["head", "in text", "there"]
    tables = [
        html_table(
            ["", "rank correlation", "shared heads", "by chance"],
            [_line(row) for row in rows],
            caption="Agreement of circuits.",
        )
    ]
    if silent:
        caption = "Heads that write in text and stay silent elsewhere, in percent of text's distance."
        more = f" The strongest {LISTED} of {len(silent)}." if len(silent) > LISTED else ""
        listed = html_table(head, silent[:LISTED], caption=caption + more)
        tables.append(html_table(head, silent, caption="All silent heads, in percent of text's distance."))
    side = [
        tag("p", "Silent heads", class_="panel-title"),
        tag("div", listed, class_="scroll", tabindex=0, role="region", aria_label="Silent heads"),
    ]
    return figure(
        "heads-agreement",
        "Do the same heads write refusal in every modality?",
        f"Above the diagonal: rank correlation of the contrasts of all heads. Below it: how many of the {k:.0f} "
        "strongest heads two modalities share. Chance is measured by shuffling the heads inside each layer, so that "
        "layers which write more everywhere do not count as agreement.",
        [panel(_matrix(rows, names), "Agreement"), tag("div", side, class_="panel")],
        reading="1.00: the same heads in the same order. p is the share of shuffles that agree as much; above 0.05 a "
        "cell is pale. A head is called silent where it keeps under a quarter of its contrast in text and its whole "
        "interval lies below text's: where harm is seen but not refused, look here first.",
        tables=tables,
    )


def _silent(found: Mapping[str, Any]) -> list[list[object]]:
    norm = finite(found.get("norm")) or 1.0
    rows: list[list[object]] = []
    for row in (mapping(entry) for entry in sequence(found.get("silent"))):
        sides = [percent((finite(row.get(key)) or 0.0) / norm, 1) for key in ("text", "there")]
        rows.append([f"{head_name(row)} in {row.get('modality')}", *sides])
    return rows


def _line(row: Mapping[str, Any]) -> list[object]:
    return [
        f"{row.get('one')} and {row.get('other')}",
        f"{decimal(finite(row.get('rho')))} (p = {decimal(finite(row.get('rho_p')), 3)})",
        f"{percent(finite(row.get('overlap')))} of the top {finite(row.get('k')) or 0:.0f}",
        f"{percent(finite(row.get('overlap_null')))} (p = {decimal(finite(row.get('overlap_p')), 3)})",
    ]


def _matrix(rows: Sequence[Mapping[str, Any]], names: list[str]) -> Markup:
    """Both comparisons in one square: every pair of modalities has a cell on either side of the diagonal."""
    plot = svg.Plot(height=TOP + TALL * len(names), left=LEFT, right=6, top=TOP, bottom=0)
    for i, one in enumerate(names):
        plot.add(svg.text(LEFT - 8, TOP + (i + 0.5) * TALL, one, anchor="end", fill=colour(one), class_="strong"))
        plot.add(svg.text(LEFT + (i + 0.5) * WIDE, 12, one, anchor="middle", fill=colour(one), class_="strong"))
        box = {"x": LEFT + i * WIDE + 2, "y": TOP + i * TALL + 2, "width": WIDE - 4, "height": TALL - 4, "rx": 5.0}
        plot.add(tag("rect", **box, style="fill:var(--rp-surface)"))
    said = []
    for row in rows:
        i, j = sorted((names.index(str(row.get("one"))), names.index(str(row.get("other")))))
        rho, p = finite(row.get("rho")), finite(row.get("rho_p"))
        share, chance, q = (finite(row.get(key)) for key in ("overlap", "overlap_null", "overlap_p"))
        plot.add(*_cell(i, j, rho, p, [decimal(rho), _p(p)]))
        k = finite(row.get("k")) or 0
        plot.add(*_cell(j, i, share, q, [f"{(share or 0) * k:.0f} of {k:.0f}", f"chance {percent(chance)}", _p(q)]))
        said.append(f"{names[i]} and {names[j]}: correlation {decimal(rho)}, {_p(p)}, shared {percent(share)}, {_p(q)}")
    return plot.render("Agreement of heads between modalities", "; ".join(said))


def _p(value: float | None) -> str:
    return "" if value is None else "p < 0.001" if value < 0.001 else f"p = {decimal(value, 3)}"


def _cell(i: int, j: int, value: float | None, p: float | None, lines: Sequence[str]) -> list[Markup]:
    """One cell: its depth is its size where shuffling does not reach it, pale where it does."""
    x, y = LEFT + j * WIDE, TOP + i * TALL
    sure = p is not None and p <= 0.05
    depth = min(1.0, abs(value or 0.0)) * (0.85 if sure else 0.25)
    hue = "var(--rp-accent)" if (value or 0.0) >= 0 else "var(--rp-harmful)"
    ink = "var(--rp-bg)" if depth > 0.62 else "var(--rp-ink)"
    box = {"x": x + 2, "y": y + 2, "width": WIDE - 4, "height": TALL - 4, "rx": 5.0}
    marks = [tag("rect", **box, style=f"fill:{hue}", fill_opacity=round(depth, 3))]
    first = y + TALL / 2 - 8.5 * (len(lines) - 1)
    for place, line in enumerate(lines):
        style = "strong" if not place else "cell"
        marks.append(svg.text(x + WIDE / 2, first + 17 * place, line, anchor="middle", fill=ink, class_=style))
    return marks
