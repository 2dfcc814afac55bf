"""Do the same heads write refusal in every modality: rank correlation, shared top heads, and those that fall silent."""

from collections.abc import Mapping
from typing import Any

from ..charts import Cell, heat_map
from ..markup import Markup, tag
from ..numbers_in_words import decimal, percent, whole
from ..palette import modality_order
from ..records import finite, records
from ..table import html_table, scroll
from .figure import Panel, figure
from .heads_effects import head_name

LISTED = 12
"""Silent heads beside the figure; the table behind it lists all."""


def agreement_figure(found: Mapping[str, Any]) -> Markup | None:
    """Agreement of all heads and of the top heads between modalities, and the heads of text that fall silent."""
    rows = records(found, "overlap")
    if not rows:
        return None
    norm = finite(found, "norm") or 1.0
    silent = [
        [
            f"{head_name(row)} in {row.get('modality')}",
            *(percent((finite(row, k) or 0.0) / norm, 1) for k in ("text", "there")),
        ]
        for row in records(found, "silent")
    ]
    heads = ["", "rank correlation", "shared heads", "by chance"]
    tables = [html_table(heads, [_line(row) for row in rows], caption="Agreement of circuits.")]
    listed = tag("p", "No head of text falls silent in another modality.", class_="note")
    if silent:
        caption = "Heads that write in text and stay silent elsewhere, in percent of text's distance."
        more = f" The strongest {LISTED} of {len(silent)}." if len(silent) > LISTED else ""
        columns = ["head", "in text", "there"]
        listed = scroll(html_table(columns, silent[:LISTED], caption=caption + more), "Silent heads")
        tables.append(html_table(columns, silent, caption="All silent heads, in percent of text's distance."))
    panels = [Panel(_matrix(rows), "Agreement"), Panel(listed, "Silent heads")]
    return figure("heads-agreement", panels, tables, k=whole(finite(rows[0], "k")))


def _line(row: Mapping[str, Any]) -> list[object]:
    return [
        f"{row.get('one')} and {row.get('other')}",
        f"{decimal(finite(row, 'rho'))} (p = {decimal(finite(row, 'rho_p'), 3)})",
        f"{percent(finite(row, 'overlap'))} of the top {whole(finite(row, 'k'))}",
        f"{percent(finite(row, 'overlap_null'))} (p = {decimal(finite(row, 'overlap_p'), 3)})",
    ]


def _matrix(rows: list[Mapping[str, Any]]) -> Markup:
    """Both comparisons in one square: every pair of modalities has a cell on either side of the diagonal."""
    names = modality_order({str(row.get(key)): 1 for row in rows for key in ("one", "other")})
    cells, said = {(i, i): Cell("var(--rp-surface)", 1.0) for i in range(len(names))}, []
    for row in rows:
        i, j = sorted(names.index(str(row.get(key))) for key in ("one", "other"))
        rho, shared, k = finite(row, "rho"), finite(row, "overlap"), finite(row, "k") or 0
        p, q = finite(row, "rho_p"), finite(row, "overlap_p")
        words = f"{names[i]} and {names[j]}: correlation {decimal(rho)}, {_p(p)}, shared {percent(shared)}, {_p(q)}"
        cells[i, j] = _cell(rho, p, [decimal(rho), _p(p)], words)
        chance = f"chance {percent(finite(row, 'overlap_null'))}"
        cells[j, i] = _cell(shared, q, [f"{(shared or 0) * k:.0f} of {k:.0f}", chance, _p(q)], words)
        said.append(words)
    title = "Agreement of heads between modalities"
    return heat_map(title, names, names, cells, said="; ".join(said), wide=88, tall=66, left=58)


def _p(value: float | None) -> str:
    return "" if value is None else "p < 0.001" if value < 0.001 else f"p = {decimal(value, 3)}"


def _cell(value: float | None, p: float | None, lines: list[str], title: str) -> Cell:
    """One cell: its depth is its size where shuffling does not reach it, pale where it does."""
    depth = min(1.0, abs(value or 0.0)) * (0.85 if p is not None and p <= 0.05 else 0.25)
    return Cell("var(--rp-accent)" if (value or 0.0) >= 0 else "var(--rp-harmful)", depth, title, lines)
