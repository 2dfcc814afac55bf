"""Inline SVG without a library: scales, axes, marks and the `Plot` that holds them.

A plot is drawn in user units on a narrow viewBox (420 wide) and scaled by the page, so its 12.5 px text stays readable
on a 380 px phone; a figure that needs more room is several plots side by side. Coordinates: x grows right, y grows
DOWN. Colours are CSS variables (see `palette`), text inherits the page's font. Values outside a scale are clamped to
its range.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .markup import Markup, number, tag
from .numbers_in_words import percent

WIDTH = 420.0


@dataclass(frozen=True)
class Scale:
    """Linear map from data [low, high] to user units [start, stop]; clamps. An empty domain maps to the middle."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.stop) / 2
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return self.start + share * (self.stop - self.start)


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        low, high: its domain.
        ticks: values that are written beside it.
        say: how a value is written.
        name: the quantity, below a horizontal axis; the panel's title names that of a vertical one.
        head: what stands above a column of a chart of rows.
    """

    low: float
    high: float
    ticks: Sequence[float]
    say: Callable[[float], str]
    name: str = ""
    head: str = ""

    @classmethod
    def around(
        cls,
        values: Iterable[float],
        say: Callable[[float], str],
        name: str = "",
        *,
        include: Sequence[float] = (),
        pad: float = 0.04,
        count: int = 5,
        head: str = "",
    ) -> "Axis":
        """An axis that holds all values and `include`, with a little air; from 0 to 1 when there is nothing."""
        found = [*values, *include]
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        air = (high - low or abs(high) or 1.0) * pad if found else 0.0
        return cls(low - air, high + air, ticks(low - air, high + air, count), say, name, head)

    @classmethod
    def shares(cls, name: str = "", high: float = 1.0) -> "Axis":
        """From 0 % to 100 %."""
        return cls(0.0, high, (0.0, 0.25, 0.5, 0.75, 1.0), percent, name)

    @classmethod
    def counts(cls, numbers: Iterable[float], name: str, *, air: float | None = None, count: int = 8) -> "Axis":
        """Whole numbers (layers, directions, angles), with room at both ends for the marks."""
        found = [*numbers]
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        room = max(0.25, (high - low) * 0.03) if air is None else air
        return cls(low - room, high + room, ticks(low, high, count, whole=True), lambda v: f"{v:.0f}", name)

    def scale(self, start: float, stop: float) -> Scale:
        """Its map onto user units."""
        return Scale(self.low, self.high, start, stop)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """About `count` round numbers inside [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    step = max(1.0, round(step)) if whole else step
    return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart until neighbours are `gap` from each other, inside [low, high], order kept."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed: list[float] = []
    for index in order:
        wanted = min(max(positions[index], low), high)
        placed.append(max(wanted, placed[-1] + gap) if placed else wanted)
    for k in range(len(placed) - 1, -1, -1):  # push back from the far edge
        placed[k] = min(placed[k], high if k == len(placed) - 1 else placed[k + 1] - gap)
    return [height for _, height in sorted(zip(order, placed, strict=True))]


def text(
    x: float,
    y: float,
    value: object,
    *,
    anchor: str = "start",
    class_: str | None = None,
    fill: str | None = None,
    **more: object,
) -> Markup:
    """A label whose middle height is y."""
    style = None if fill is None else f"fill:{fill}"
    return tag("text", value, x=x, y=y, dy="0.35em", text_anchor=anchor, class_=class_, style=style, **more)


def line(
    x1: float, y1: float, x2: float, y2: float, class_: str = "grid", *, title: str = "", **more: object
) -> Markup:
    """A straight line: grid, axis, reference, whisker."""
    return tag("line", _title(title), x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_, **more)


def box(x: float, y: float, width: float, height: float, *, title: str = "", style: str = "", **more: object) -> Markup:
    """A rectangle with slightly round corners."""
    place = {"x": float(x), "y": float(y), "width": float(width), "height": float(height)}
    return tag("rect", _title(title), **place, style=style, **({"rx": 3.0} | more))


def polyline(
    points: Sequence[tuple[float, float]], stroke: str, *, width: float = 2.0, dash: str | None = None
) -> Markup:
    """A data line."""
    return tag(
        "path", d=_path(points), class_="curve", style=f"stroke:{stroke}", stroke_width=width, stroke_dasharray=dash
    )


def area(x: Sequence[float], low: Sequence[float], high: Sequence[float], fill: str, opacity: float = 0.14) -> Markup:
    """A filled band between two lines over the same x."""
    edge = [*zip(x, low, strict=True), *reversed([*zip(x, high, strict=True)])]
    return tag("path", d=_path(edge) + "Z", style=f"fill:{fill}", opacity=opacity)


def mark(
    x: float,
    y: float,
    colour: str,
    *,
    shape: str = "circle",
    size: float = 4.5,
    hollow: bool = False,
    title: str = "",
    opacity: float | None = None,
) -> Markup:
    """A data point; `title` is what a pointer finds there. Shapes: circle, diamond, triangle, square, cross."""
    style = f"stroke:{colour};fill:{'var(--rp-bg)' if hollow else colour}"
    same = {"class_": "mark", "style": style, "opacity": opacity}
    if shape == "circle":
        return tag("circle", _title(title), cx=float(x), cy=float(y), r=float(size), **same)
    s = size * 1.15
    corners = {
        "diamond": [(0.0, -s), (s, 0.0), (0.0, s), (-s, 0.0)],
        "triangle": [(0.0, -s), (s, s * 0.8), (-s, s * 0.8)],
        "square": [(-size, -size), (size, -size), (size, size), (-size, size)],
    }.get(shape)
    if corners is None:
        d = "".join(_path([(x - size, y - k * size), (x + size, y + k * size)]) for k in (1, -1))
    else:
        d = _path([(x + dx, y + dy) for dx, dy in corners]) + "Z"
    return tag("path", _title(title), d=d, **same)


def whisker(low: float, high: float, y: float, colour: str, *, width: float = 2.0, opacity: float = 0.75) -> Markup:
    """A horizontal 95 % interval at height y."""
    return line(low, y, high, y, "whisker", style=f"stroke:{colour}", stroke_width=width, opacity=opacity)


def glyph(colour: str, label: object, *, shape: str = "circle", hollow: bool = False) -> Markup:
    """One entry of a legend: the mark and what it means."""
    drawn = mark(8.0, 8.0, f"var(--rp-{colour})", shape=shape, hollow=hollow)
    drawn = tag("svg", drawn, viewBox="0 0 16 16", class_="glyph", aria_hidden="true")
    return tag("span", drawn, label, class_="key")


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def _title(title: str) -> Markup | None:
    return tag("title", title) if title else None


@dataclass
class Plot:
    """One drawing: a frame in user units and the marks in the order they are painted.

    Attributes:
        height, left, right, top, bottom: size and margins in user units; the width is `width`.
        marks: what has been drawn so far.
    """

    height: float
    left: float = 44.0
    right: float = 14.0
    top: float = 12.0
    bottom: float = 38.0
    width: float = WIDTH
    marks: list[Markup] = field(default_factory=list)

    @property
    def edge(self) -> float:
        """Right end of the area for data."""
        return self.width - self.right

    @property
    def floor(self) -> float:
        """Lower end of the area for data."""
        return self.height - self.bottom

    def add(self, *marks: Markup) -> None:
        """Paint over what is there."""
        self.marks.extend(marks)

    def x(self, axis: Axis, *, grid: bool = True, span: tuple[float, float] | None = None) -> Scale:
        """Draw a horizontal axis below the plot, with light vertical grid lines, and return its scale.

        Args:
            axis: what it shows.
            grid: whether the lines are drawn.
            span: the part of the width that it takes; all of it by default.
        """
        start, stop = span or (self.left, self.edge)
        scale = axis.scale(start, stop)
        for value in axis.ticks:
            if grid:
                self.add(line(scale(value), self.top, scale(value), self.floor))
            self.add(text(scale(value), self.floor + 11, axis.say(value), anchor="middle", class_="tick"))
        for label, height in ((axis.name, self.floor + 27), (axis.head, self.top - 18)):
            if label:
                self.add(text((start + stop) / 2, height, label, anchor="middle", class_="name"))
        return scale

    def y(self, axis: Axis) -> Scale:
        """Draw a vertical axis left of the plot, with light horizontal grid lines, and return its scale: larger is
        higher up."""
        scale = axis.scale(self.floor, self.top)
        for value in axis.ticks:
            self.add(line(self.left, scale(value), self.edge, scale(value)))
            self.add(text(self.left - 7, scale(value), axis.say(value), anchor="end", class_="tick"))
        return scale

    def labels(self, ends: Sequence[tuple[float, float, str, str]]) -> None:
        """Names at the ends of lines, (x, y, name, colour), moved apart where they would meet."""
        heights = spread([y for _, y, _, _ in ends], 15, self.top, self.floor)
        for (x, _, name, colour), height in zip(ends, heights, strict=True):
            self.add(text(x, height, name, fill=colour, class_="strong"))

    def render(self, title: str, description: str, *, class_: str = "plot") -> Markup:
        """The SVG element, named and described for screen readers."""
        return tag(
            "svg",
            tag("title", title),
            tag("desc", description),
            self.marks,
            viewBox=f"0 0 {number(self.width)} {number(self.height)}",
            role="img",
            aria_label=f"{title}. {description}",
            class_=class_,
            preserveAspectRatio="xMidYMid meet",
        )
