"""One accessible HTML table, and the frame in which a result shows itself in a notebook.

Also used by every `_repr_html_` of the package: `frame("Direction", html_table(...))` is readable in light and in dark
Jupyter, VS Code and documentation pages, and asks the network for nothing.
"""

from collections.abc import Mapping, Sequence

from .filling import fill
from .markup import Markup, join


def html_table(
    headers: Sequence[object], rows: Sequence[Sequence[object]], *, caption: object = "", marked: Sequence[int] = ()
) -> Markup:
    """A table whose first column names the row.

    Args:
        headers: column names.
        rows: cells; None becomes a dash, floats get three significant digits and stand right, strings are escaped.
        caption: what the table holds, read aloud before it.
        marked: indices of rows to set off (the chosen layer).
    """
    right = [bool(rows) and all(_is_number(row[i]) for row in rows if i < len(row)) for i in range(len(headers))]
    cells = [[(cell, i < len(right) and right[i]) for i, cell in enumerate(row)] for row in rows]
    return fill("table.html", headers=[*zip(headers, right, strict=True)], rows=cells, caption=caption, marked=marked)


def pairs_table(pairs: Mapping[str, object] | Sequence[tuple[object, object]], *, caption: object = "") -> Markup:
    """Names and values, one pair a row, as they are."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    rows = [[(name, False), (value, False)] for name, value in items]
    return fill("table.html", headers=(), rows=rows, caption=caption, marked=())


def scroll(table: Markup, label: str) -> Markup:
    """A wide table in a box that scrolls by itself, reachable by keyboard, so that the page never does."""
    return fill("scroll.html", table=table, label=label)


def folded(summary: str, table: Markup) -> Markup:
    """A table that is shown on request."""
    return fill("folded.html", summary=summary, table=table)


def frame(title: object, *parts: object, note: object = "") -> Markup:
    """A result in a notebook cell: its name, its parts, one line of small print; carries its own style."""
    return fill("frame.html", title=title, content=join(parts), note=note)


def _is_number(cell: object) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))
