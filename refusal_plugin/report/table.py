"""One accessible HTML table, and the frame in which a result shows itself in a notebook.

Also used by every `_repr_html_` of the package: `frame("Direction", html_table(...))` is readable in light and in dark
Jupyter, VS Code and documentation pages, and asks the network for nothing.
"""

from collections.abc import Mapping, Sequence

from refusal_plugin.report.markup import Markup, join, tag
from refusal_plugin.report.style import STYLE
from refusal_plugin.report.words import significant


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
    numeric = [all(_is_number(row[i]) for row in rows if i < len(row)) and bool(rows) for i in range(len(headers))]
    head = tag(
        "tr",
        [
            tag("th", name, scope="col", class_="num" if right else None)
            for name, right in zip(headers, numeric, strict=True)
        ],
    )
    body = [
        tag(
            "tr",
            [_cell(cell, i == 0, i < len(numeric) and numeric[i]) for i, cell in enumerate(row)],
            class_="marked" if index in marked else None,
        )
        for index, row in enumerate(rows)
    ]
    named = tag("caption", caption) if caption else None
    return tag("table", named, tag("thead", head), tag("tbody", body))


def pairs_table(pairs: Mapping[str, object] | Sequence[tuple[object, object]], *, caption: object = "") -> Markup:
    """Names and values, one pair a row."""
    items = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    body = [tag("tr", _cell(name, True, False), _cell(value, False, False)) for name, value in items]
    return tag("table", tag("caption", caption) if caption else None, tag("tbody", body), class_="pairs")


def scroll(table: Markup, label: str) -> Markup:
    """A wide table in a box that scrolls by itself, reachable by keyboard, so that the page never does."""
    return tag("div", table, class_="scroll", role="region", tabindex=0, aria_label=label)


def frame(title: object, *parts: object, note: object = "") -> Markup:
    """A result in a notebook cell: its name, its parts, one line of small print; carries its own style."""
    foot = tag("p", note, class_="note") if note else None
    return tag(
        "div", tag("style", STYLE), tag("p", title, class_="frame-title"), join(parts), foot, class_="rp rp-frame"
    )


def _is_number(cell: object) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))


def _cell(cell: object, names_row: bool, right: bool) -> Markup:
    shown: object = "\u2013" if cell is None else cell
    if isinstance(cell, float):
        shown = significant(cell)
    name = "th" if names_row else "td"
    return tag(name, shown, scope="row" if names_row else None, class_="num" if right else None)
