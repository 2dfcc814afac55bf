"""What every figure has: a question as its title, a legend, panels, a caption that says how to read it, its numbers."""

from collections.abc import Sequence

from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.table import scroll


def panel(drawing: Markup, title: object = "", small: object = "", *, hue: str | None = None) -> Markup:
    """One plot under its own short title."""
    style = None if hue is None else f"color:{hue}"
    extra = [" ", tag("small", small)] if small else []
    heading = tag("p", tag("span", title, style=style), extra, class_="panel-title") if title else None
    return tag("div", heading, drawing, class_="panel")


def figure(
    key: str,
    title: str,
    ask: str,
    panels: Sequence[Markup],
    *,
    reading: object,
    tables: Sequence[Markup],
    legend: Sequence[Markup] = (),
    level: int = 3,
) -> Markup:
    """A figure of the report.

    Args:
        key: its id in the page.
        title: the question it answers.
        ask: one sentence that says what was measured.
        panels: plots, side by side where there is room.
        reading: the caption, which says how to read the marks.
        tables: every number of the figure, shown on request.
        legend: keys made by `svg.glyph`.
    """
    behind = tag(
        "details",
        tag("summary", "Numbers behind this figure"),
        [scroll(table, f"Numbers behind: {title}") for table in tables],
    )
    return tag(
        "figure",
        tag(f"h{level}", title, id=f"{key}-title"),
        tag("p", ask, class_="ask"),
        tag("p", legend, class_="legend") if legend else None,
        tag("div", list(panels), class_="panels"),
        tag("figcaption", reading),
        behind,
        id=key,
        class_="figure",
        aria_labelledby=f"{key}-title",
    )


def empty(key: str, title: str, why: str) -> Markup:
    """A figure that could not be drawn says so."""
    return tag(
        "figure",
        tag("h3", title, id=f"{key}-title"),
        tag("p", why, class_="ask"),
        id=key,
        class_="figure",
        aria_labelledby=f"{key}-title",
    )
