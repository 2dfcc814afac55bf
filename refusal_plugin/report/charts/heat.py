"""Heat maps: a cell for every pair of a row and a column, its depth of colour by size, numbers where there is room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..markup import Markup
from ..palette import MODALITIES, colour
from ..sliders import Slider
from ..svg import Plot, box, text

TOWARDS, AWAY, RING = "var(--rp-harmful)", "var(--rp-text)", "var(--rp-ink)"
"""Towards refusal, away from it, and the outline of a cell that is pointed out."""
DARK = 0.6
"""Opacity from which on text in a cell has the page's colour."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        colour: CSS colour.
        depth: opacity of it, from 0 to 1.
        title: what a pointer finds; said to screen readers where `lines` hold something.
        lines: written inside, the first one bold where there are several.
        ring: outlined.
    """

    colour: str
    depth: float
    title: str = ""
    lines: Sequence[str] = ()
    ring: bool = False


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[int, int], Cell],
    *,
    said: str,
    wide: float,
    tall: float,
    left: float = 62.0,
    names: tuple[str, str] | None = None,
    slider: Slider | None = None,
) -> Markup:
    """The map.

    Args:
        title: said to screen readers.
        rows: names, from the top down; "" for none.
        columns: names, from left to right.
        cells: by (row, column); what is not in it stays empty.
        said: the numbers in words, for screen readers.
        wide, tall: size of a cell in user units.
        left: room for the rows' names.
        names: of the two axes, (rows, columns); the columns' names then stand below the map, without above it.
        slider: whose stops are the rows from the bottom up: an outline follows it, and vanishes above the top row.
    """
    top = 10.0 if names else 26.0
    plot = Plot(top + tall * len(rows) + (34.0 if names else 4.0), left=left, top=top)
    foot = plot.height - 24 if names else 12.0
    for place, name in enumerate(rows):
        plot.add(_name(left - 8, top + (place + 0.5) * tall, name, "end"))
    for place, name in enumerate(columns):
        plot.add(_name(left + (place + 0.5) * wide, foot, name, "middle"))
    if names:
        plot.add(text(3, 6, names[0], class_="name"))
        plot.add(text(left + wide * len(columns) / 2, plot.height - 7, names[1], anchor="middle", class_="name"))
    for (row, column), cell in cells.items():
        x, y = left + column * wide + 1, top + row * tall + 1
        style = f"fill:{cell.colour};stroke:var(--rp-grid)"
        plot.add(box(x, y, wide - 2, tall - 2, title=cell.title, style=style, fill_opacity=round(cell.depth, 3)))
        if cell.ring:
            style = f"fill:none;stroke:{RING}"
            plot.add(box(x + 0.5, y + 0.5, wide - 3, tall - 3, style=style, stroke_width=1.6))
        ink = "var(--rp-bg)" if cell.depth > DARK else "var(--rp-ink)"
        first = y - 1 + tall / 2 - 8.5 * (len(cell.lines) - 1)
        for place, words in enumerate(cell.lines):
            style = "strong" if len(cell.lines) > 1 and not place else "cell"
            plot.add(text(x - 1 + wide / 2, first + 17 * place, words, anchor="middle", fill=ink, class_=style))
    if slider is not None:
        n, stops = len(rows), range(len(slider.stops))
        tops = [top + tall * max(0, n - 1 - stop) for stop in stops]
        moves: dict[str, Any] = slider.moves(y=tops, opacity=[float(stop < n) for stop in stops])
        size = (left, tops[slider.chosen], wide * len(columns), tall)
        plot.add(box(*size, style="fill:none;stroke:var(--rp-accent)", class_="cursor", stroke_width=1.6, **moves))
    return plot.render(title, said)


def _name(x: float, y: float, name: str, anchor: str) -> Markup:
    """A modality in its colour, anything else as a tick."""
    known = name in MODALITIES
    return text(x, y, name, anchor=anchor, class_="strong" if known else "tick", fill=colour(name) if known else None)
