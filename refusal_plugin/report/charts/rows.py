"""Rows with intervals: one or more marks a row, one below the other, on a shared horizontal axis or on several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..markup import Markup, tag
from ..numbers_in_words import NOT_MEASURED, decimal
from ..palette import MODALITIES
from ..records import Rate
from ..sliders import Slider
from ..svg import Axis, Plot, Scale, box, line, mark, text, whisker

DOT = 2.7
INK = "var(--rp-ink)"


@dataclass(frozen=True)
class Single:
    """One point of a swarm: its value, the place on this page that tells more, and its value at a slider's stops."""

    value: float
    link: str = ""
    stops: Sequence[float | None] = ()


@dataclass(frozen=True)
class Lane:
    """One mark of a row.

    Attributes:
        rate: where it stands, with its interval.
        colour: CSS colour.
        title: what it is and its numbers, found by a pointer and said to screen readers.
        shape: of the mark (see `svg.mark`); "bar" reaches from zero to the value, "mean" is an upright stroke.
        hollow, size: of the mark; the size of a bar is its thickness.
        label: written above the mark.
        beside: written at the end of a bar.
        said: written at the right edge, bold where `strong`.
        dots: single values, drawn as a swarm behind the mark.
        column: which of the chart's axes it stands on.
        stops: the rate at the stops of the chart's slider.
    """

    rate: Rate
    colour: str
    title: str = ""
    shape: str = "circle"
    hollow: bool = False
    size: float = 5.0
    label: str = ""
    beside: str = ""
    said: str = ""
    strong: bool = True
    dots: Sequence[Single] = ()
    column: int = 0
    stops: Sequence[Rate] = ()


@dataclass(frozen=True)
class Row:
    """The lanes that stand under one name.

    Attributes:
        name: written left of them.
        lanes: from the top down, in each column by itself.
        colour: of the name, which is bold then.
        look: CSS classes of a name without a colour.
        said: written at the right edge, in the middle.
        linked: a broad pale line from the first mark to the second.
    """

    name: str
    lanes: Sequence[Lane]
    colour: str | None = None
    look: str = "tick"
    said: str = ""
    linked: bool = False

    @property
    def depth(self) -> int:
        """Lanes of the fullest column."""
        columns = [lane.column for lane in self.lanes]
        return max((columns.count(column) for column in columns), default=1)


def row_chart(
    title: str,
    rows: Sequence[Row],
    *axes: Axis,
    lane: float = 12.0,
    pad: float = 12.0,
    left: float = 52.0,
    right: float = 54.0,
    top: float = 6.0,
    references: Sequence[tuple[float, str]] = (),
    zero: bool = False,
    ruled: bool = False,
    slider: Slider | None = None,
) -> Markup:
    """The chart.

    Args:
        title: said to screen readers.
        rows: from the top down.
        axes: the columns, from left to right.
        lane: height of one lane in user units.
        pad: air of every row beside its lanes.
        left, right, top: margins.
        references: values with a dotted line, and its name above the chart. Where lanes carry labels the line stands
            beside the marks alone: through a label it could not be read.
        zero: draw the axis line at zero.
        ruled: part the rows by light lines.
        slider: what lanes and dots with `stops` follow.
    """
    labelled = any(mark.label for row in rows for mark in row.lanes)
    height = sum(row.depth * lane + pad for row in rows) + top + (34.0 if labelled else 38.0)
    plot = Plot(height, left=left, right=right, top=top, bottom=34.0 if labelled else 38.0)
    wide = (plot.edge - left - 32.0 * (len(axes) - 1)) / len(axes)
    starts = [left + k * (wide + 32.0) for k in range(len(axes))]
    scales = [plot.x(axis, span=(start, start + wide)) for axis, start in zip(axes, starts, strict=True)]
    for scale in scales if zero else ():
        plot.add(line(scale(0), plot.top, scale(0), plot.floor, "axis"))
    for place, (value, name) in enumerate(() if labelled else references):
        at, near = scales[0](value), scales[0](references[-1][0]) - scales[0](references[0][0]) < 92
        plot.add(line(at, plot.top, at, plot.floor, "reference"))
        plot.add(text(at, top - 10, name, anchor=("end", "start")[place] if near else "middle", class_="tick"))
    y = plot.top
    for index, row in enumerate(rows):
        tall = row.depth * lane + pad
        if ruled and index:
            plot.add(line(left, y, plot.edge, y))
        start = len(plot.marks)
        _row(plot, row, scales, y, tall, lane, [value for value, _ in references] if labelled else [], slider)
        if row.name in MODALITIES:
            plot.marks[start:] = [tag("g", plot.marks[start:], data_modality=row.name)]
        y += tall
    said = "; ".join(mark.title for row in rows for mark in row.lanes if mark.title)
    return plot.render(title, said)


def _row(
    plot: Plot,
    row: Row,
    scales: Sequence[Scale],
    y: float,
    tall: float,
    lane: float,
    references: Sequence[float],
    slider: Slider | None,
) -> None:
    middle, first = y + tall / 2, y + (tall - row.depth * lane) / 2 + lane / 2
    style = "strong" if row.colour else row.look
    plot.add(text(plot.left - 8, middle, row.name, anchor="end", fill=row.colour, class_=style))
    if row.said:
        plot.add(text(plot.width - 2, middle, row.said, anchor="end", class_="strong"))
    known = [mark for mark in row.lanes if mark.rate.value is not None or mark.dots]
    if not known and not any(mark.label for mark in row.lanes):
        plot.add(text(plot.left + 8, middle, NOT_MEASURED, class_="tick"))
    ends = [scales[0](v) for mark in row.lanes[:2] if (v := mark.rate.value) is not None]
    if row.linked and len(ends) == 2:
        look: dict[str, Any] = {"stroke_width": 7, "opacity": 0.2, "stroke_linecap": "round"}
        style = f"stroke:{row.lanes[0].colour}"
        plot.add(line(ends[0], first, ends[1], first + lane, "link", style=style, **look))
    counts = [0] * len(scales)
    for drawn in row.lanes:
        at, x = first + lane * counts[drawn.column], scales[drawn.column]
        counts[drawn.column] += 1
        if drawn.label:
            for value in references:
                plot.add(line(x(value), at, x(value), at + lane - 18, "reference"))
            plot.add(text(plot.left + 4, at - 8, drawn.label, class_="tick halo"))
            at += 5
        _lane(plot, drawn, x, at, lane, slider)


def _lane(plot: Plot, lane: Lane, x: Scale, y: float, tall: float, slider: Slider | None) -> None:
    dots = []
    for dot, lift in _swarm(lane.dots, x, tall / 2 - 6):
        follows = slider.moves(cx=_places(dot.stops, x)) if slider and dot.stops else {}
        drawn = tag("circle", cx=x(dot.value), cy=y + lift, r=DOT, **follows)
        dots.append(tag("a", drawn, href=f"#{dot.link}", tabindex=-1) if dot.link else drawn)
    if dots:
        plot.add(tag("g", dots, style=f"fill:{lane.colour}", fill_opacity=0.6))
    if lane.said:
        words = "|".join("" if rate.value is None else decimal(rate.value) for rate in lane.stops)
        more = {"data_by": slider.name, "data_say": words} if slider and words else {}
        plot.add(text(plot.width - 4, y, lane.said, anchor="end", class_="strong" if lane.strong else "tick", **more))
    if lane.rate.value is None:
        return
    at, hue = x(lane.rate.value), lane.colour
    low, high = (x(v) for v in lane.rate.interval or (lane.rate.value, lane.rate.value))
    if lane.shape == "mean":
        _mean(plot, lane, x, y, slider)
    elif lane.shape == "bar":
        start, end = sorted((x(0), at))
        wide, style = max(0.6, end - start), f"fill:{hue}"
        faint = 0.75 if lane.rate.interval else None
        top = y - lane.size / 2
        plot.add(box(start, top, wide, lane.size, rx=2, title=lane.title, style=style, opacity=faint))
        if lane.rate.interval:
            plot.add(whisker(low, high, y, INK, width=1.4), mark(at, y, hue, size=3.4))
        if lane.beside:
            plot.add(text(end + 4, y, lane.beside, class_="tick"))
    else:
        if lane.rate.interval:
            plot.add(whisker(low, high, y, hue, width=1.6 if lane.shape == "cross" else 2.2, opacity=0.65))
        plot.add(mark(at, y, hue, shape=lane.shape, hollow=lane.hollow, size=lane.size, title=lane.title))


def _mean(plot: Plot, lane: Lane, x: Scale, y: float, slider: Slider | None) -> None:
    """An upright stroke over its interval; both follow the slider."""
    place, ends = lane.rate.value or 0.0, lane.rate.interval
    moves: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    if slider and lane.stops:
        at = _places([rate.value for rate in lane.stops], x)
        low, high = (_places([rate.interval and rate.interval[k] for rate in lane.stops], x) for k in (0, 1))
        wide = [None if a is None or b is None else max(1.0, b - a) for a, b in zip(low, high, strict=True)]
        moves, spread = slider.moves(x1=at, x2=at), slider.moves(x=low, width=wide)
    if ends is not None:
        size = (x(ends[0]), y - 19, max(1.0, x(ends[1]) - x(ends[0])), 38)
        plot.add(box(*size, rx=2, opacity=0.16, style=f"fill:{INK}", **spread))
    moves |= {"style": f"stroke:{INK}", "stroke_width": 2.2}
    plot.add(line(x(place), y - 19, x(place), y + 19, "mean", title=lane.title, **moves))


def _places(values: Sequence[float | None], x: Scale) -> list[float | None]:
    return [None if value is None else x(value) for value in values]


def _swarm(dots: Sequence[Single], x: Scale, limit: float) -> list[tuple[Single, float]]:
    """(dot, vertical shift): points that would overlap step aside in turn, squeezed together at `limit`."""
    placed: list[tuple[float, float, Single]] = []
    for dot in sorted(dots, key=lambda dot: dot.value):
        at, lane, free = x(dot.value), 0, False
        while not free and lane <= 80:
            lift = (lane + 1) // 2 * DOT * 1.5 * (1 if lane % 2 else -1)
            free = all((at - px) ** 2 + (lift - py) ** 2 >= (2 * DOT * 0.86) ** 2 for px, py, _ in placed[-60:])
            lane += 1
        placed.append((at, lift, dot))
    highest = max((abs(lift) for _, lift, _ in placed), default=0.0)
    squeeze = min(1.0, limit / highest) if highest else 1.0
    return [(dot, lift * squeeze) for _, lift, dot in placed]
