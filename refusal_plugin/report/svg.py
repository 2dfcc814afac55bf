"""Inline SVG without a library: scales, ticks, axes, marks and one `Plot` that holds them.

A plot is drawn in user units on a narrow viewBox (420 wide) and scaled by the page, so its 12.5 px text stays
readable on
a 380 px phone; a figure that needs more room is several plots side by side. Coordinates: x grows right, y grows DOWN.
Colours are CSS variables (see `palette`), text inherits the page's font. Values outside a scale are clamped to its
range.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from refusal_plugin.report.markup import Markup, escape, join, number, tag

WIDTH = 420.0
FONT = 12.5


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
class Bands:
    """Equal bands for categories between start and stop: `bands(i)` is the middle of band i."""

    count: int
    start: float
    stop: float

    @property
    def step(self) -> float:
        return (self.stop - self.start) / max(1, self.count)

    def __call__(self, index: int) -> float:
        return self.start + (index + 0.5) * self.step


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """About `count` round numbers inside [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    step = max(1.0, round(step)) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def around(values: Iterable[float], *, include: Sequence[float] = (), pad: float = 0.04) -> tuple[float, float]:
    """A domain that holds all values and `include`, with a little air; (0, 1) when there is nothing."""
    found = [*values, *include]
    if not found:
        return 0.0, 1.0
    low, high = min(found), max(found)
    air = (high - low or abs(high) or 1.0) * pad
    return low - air, high + air


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart until neighbours are `gap` from each other, inside [low, high], order kept."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed: list[float] = []
    for index in order:
        wanted = min(max(positions[index], low), high)
        placed.append(max(wanted, placed[-1] + gap) if placed else wanted)
    for k in range(len(placed) - 1, -1, -1):  # push back from the far edge
        ceiling = high if k == len(placed) - 1 else placed[k + 1] - gap
        placed[k] = min(placed[k], ceiling)
    result = [0.0] * len(positions)
    for k, index in enumerate(order):
        result[index] = placed[k]
    return result


def text(
    x: float, y: float, value: object, *, anchor: str = "start", class_: str = "", fill: str | None = None
) -> Markup:
    """A label whose middle height is y."""
    style = None if fill is None else f"fill:{fill}"
    return tag("text", value, x=x, y=y, dy="0.35em", text_anchor=anchor, class_=class_ or None, style=style)


def rule(x1: float, y1: float, x2: float, y2: float, class_: str = "grid", title: str | None = None) -> Markup:
    """A straight line of the page: grid, axis or reference."""
    return tag("line", _title(title), x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def polyline(
    points: Sequence[tuple[float, float]], stroke: str, *, width: float = 2.0, dash: str | None = None
) -> Markup:
    """A data line."""
    d = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return tag("path", d=d, class_="curve", style=f"stroke:{stroke}", stroke_width=width, stroke_dasharray=dash)


def area(
    lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], fill: str, opacity: float = 0.14
) -> Markup:
    """A filled band between two lines over the same x."""
    d = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in [*lower, *reversed(upper)]) + "Z"
    return tag("path", d=d, style=f"fill:{fill}", opacity=opacity)


def mark(
    x: float,
    y: float,
    colour: str,
    *,
    shape: str = "circle",
    size: float = 4.5,
    hollow: bool = False,
    title: str | None = None,
    opacity: float | None = None,
) -> Markup:
    """A data point; `title` is what a pointer or a screen reader finds there. Shapes: circle, diamond, triangle,
    cross, square."""
    style = f"stroke:{colour};fill:{'var(--rp-bg)' if hollow else colour}"
    same = {"class_": "mark", "style": style, "opacity": opacity}
    if shape == "circle":
        return tag("circle", _title(title), cx=x, cy=y, r=size, **same)
    s = size * 1.15
    outline = {
        "diamond": [(x, y - s), (x + s, y), (x, y + s), (x - s, y)],
        "triangle": [(x, y - s), (x + s, y + s * 0.8), (x - s, y + s * 0.8)],
        "square": [(x - size, y - size), (x + size, y - size), (x + size, y + size), (x - size, y + size)],
    }.get(shape)
    if outline is None:
        d = f"M{number(x - size)} {number(y - size)}L{number(x + size)} {number(y + size)}"
        d += f"M{number(x - size)} {number(y + size)}L{number(x + size)} {number(y - size)}"
    else:
        d = "M" + "L".join(f"{number(px)} {number(py)}" for px, py in outline) + "Z"
    return tag("path", _title(title), d=d, **same)


def whisker(low: float, high: float, y: float, colour: str, *, width: float = 2.0, opacity: float = 0.75) -> Markup:
    """A horizontal 95 % interval at height y."""
    return tag(
        "line",
        x1=low,
        y1=y,
        x2=high,
        y2=y,
        class_="whisker",
        style=f"stroke:{colour}",
        stroke_width=width,
        opacity=opacity,
    )


def _title(title: str | None) -> Markup | None:
    return None if title is None else tag("title", title)


@dataclass
class Plot:
    """One drawing: a frame in user units, two scales, and the marks in the order they are painted.

    Attributes:
        height, left, right, top, bottom: size and margins in user units; the width is `width`.
        marks: what has been drawn so far.
    """

    height: float
    left: float = 44.0
    right: float = 14.0
    top: float = 12.0
    bottom: float = 36.0
    width: float = WIDTH
    marks: list[Markup] = field(default_factory=list)

    def x(self, low: float, high: float) -> Scale:
        """A scale over the plot's width."""
        return Scale(low, high, self.left, self.width - self.right)

    def y(self, low: float, high: float) -> Scale:
        """A scale over the plot's height; larger values are higher up."""
        return Scale(low, high, self.height - self.bottom, self.top)

    def add(self, *marks: Markup | None) -> None:
        """Paint over what is there."""
        self.marks.extend(m for m in marks if m is not None)

    def x_axis(
        self,
        scale: Callable[[float], float],
        values: Sequence[float],
        say: Callable[[float], str],
        label: str,
        *,
        grid: bool = True,
    ) -> None:
        """Tick labels and the axis' name below the plot, and light vertical grid lines."""
        floor = self.height - self.bottom
        for value in values:
            if grid:
                self.add(rule(scale(value), self.top, scale(value), floor))
            self.add(text(scale(value), floor + 11, say(value), anchor="middle", class_="tick"))
        self.add(text((self.left + self.width - self.right) / 2, floor + 27, label, anchor="middle", class_="name"))

    def y_axis(self, scale: Callable[[float], float], values: Sequence[float], say: Callable[[float], str]) -> None:
        """Tick labels left of the plot and light horizontal grid lines; the panel's title names the quantity."""
        for value in values:
            self.add(rule(self.left, scale(value), self.width - self.right, scale(value)))
            self.add(text(self.left - 7, scale(value), say(value), anchor="end", class_="tick"))

    def render(self, title: str, description: str, *, class_: str = "plot") -> Markup:
        """The SVG element, named and described for screen readers."""
        return tag(
            "svg",
            tag("title", title),
            tag("desc", description),
            join(self.marks),
            viewBox=f"0 0 {number(self.width)} {number(self.height)}",
            role="img",
            aria_label=f"{title}. {description}",
            class_=class_,
            preserveAspectRatio="xMidYMid meet",
        )


def glyph(colour: str, *, shape: str = "circle", hollow: bool = False, label: object = "") -> Markup:
    """One entry of a legend: the mark and what it means."""
    drawn = tag(
        "svg",
        mark(8.0, 8.0, colour, shape=shape, hollow=hollow),
        viewBox="0 0 16 16",
        class_="glyph",
        aria_hidden="true",
    )
    return tag("span", drawn, escape(label), class_="key")
