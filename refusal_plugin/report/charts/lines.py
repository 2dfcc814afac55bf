"""Lines over a count, mostly layers: bands behind, then lines, then marks, then the names at the line ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..markup import Markup
from ..numbers_in_words import decimal, scalar
from ..records import Rate
from ..sliders import Slider
from ..svg import Axis, Plot, Scale, area, line, mark, polyline, text

NULL = "var(--rp-control)"


@dataclass(frozen=True)
class Point:
    """One place of a curve.

    Attributes:
        x: the layer, or what else is counted.
        rate: the value with its interval.
        title: what a pointer finds; its name, place and value by default.
        hollow: not filled, for what does not count.
        size: of the mark; by the number of points where it is 0.
        label: written beside the mark.
    """

    x: float
    rate: Rate
    title: str = ""
    hollow: bool = False
    size: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class Curve:
    """One line.

    Attributes:
        name: what stands at its end, and before its values in words.
        colour: CSS colour of marks and band.
        points: from left to right.
        shape: of the marks, "" for none.
        dash: SVG dash pattern, None for a full line.
        line: colour of the line, the curve's own by default, "" for none.
        label: whether the name is written at the end.
    """

    name: str
    colour: str
    points: Sequence[Point]
    shape: str = "circle"
    dash: str | None = None
    line: str | None = None
    label: bool = True

    @classmethod
    def of(
        cls, name: str, colour: str, rates: Sequence[tuple[float, Rate]], shape: str = "circle", **more: Any
    ) -> "Curve":
        """From (layer, rate) pairs."""
        return cls(name, colour, [Point(x, rate) for x, rate in rates], shape, **more)

    @property
    def known(self) -> list[tuple[Point, float]]:
        """Points with a value."""
        return [(point, point.rate.value) for point in self.points if point.rate.value is not None]

    @property
    def ends(self) -> list[float]:
        """Values and intervals, for the axis."""
        return [v for point, _ in self.known for v in point.rate.ends]


def line_chart(
    title: str,
    curves: Sequence[Curve],
    x: Axis,
    y: Axis,
    *,
    height: float = 250.0,
    left: float = 44.0,
    right: float = 62.0,
    top: float = 26.0,
    chosen: tuple[float, str] | None = None,
    references: Sequence[tuple[float, str]] = (),
    nulls: Sequence[Sequence[tuple[float, float, float]]] = (),
    depth: float = 0.13,
    slider: Slider | None = None,
) -> Markup:
    """The chart.

    Args:
        title: said to screen readers, with every value.
        curves: painted in their order.
        x, y: the axes.
        height, left, right, top: size and margins.
        chosen: a place with a dashed upright line, and its name above the chart.
        references: values with a dotted line, and its name at the right.
        nulls: grey bands (x, low, high) of what chance gives, behind everything.
        depth: opacity of a grey band.
        slider: whose stops lie on the x axis; an upright line follows it.
    """
    plot = Plot(height, left=left, right=right, top=top)
    across, up = plot.x(x, grid=False), plot.y(y)
    for null in nulls:
        _band(plot, across, up, null, NULL, depth)
    for value, name in references:
        plot.add(line(left, up(value), plot.edge, up(value), "reference", title=name))
        plot.add(text(plot.edge + 6, up(value), name, class_="tick"))
    if chosen is not None:
        middle = across(chosen[0])
        plot.add(line(middle, top, middle, plot.floor, "chosen"))
        plot.add(text(middle, top - 9, chosen[1], anchor="middle", class_="tick"))
    if slider is not None:
        stops = [across(stop) for stop in slider.stops]
        place = {"x1": stops, "x2": stops}
        plot.add(line(stops[slider.chosen], top, stops[slider.chosen], plot.floor, "cursor", **slider.moves(**place)))
    for curve in curves:
        _band(plot, across, up, [(p.x, *p.rate.interval) for p, _ in curve.known if p.rate.interval], curve.colour)
    for curve in curves:
        at_points = [(across(point.x), up(value)) for point, value in curve.known]
        stroke = curve.colour if curve.line is None else curve.line
        if len(at_points) > 1 and stroke:
            plot.add(polyline(at_points, stroke, dash=curve.dash, width=2.0 if curve.line is None else 1.5))
    for curve in curves:
        size = 4.0 if len(curve.known) <= 16 else 2.2
        for point, value in curve.known if curve.shape else ():
            said = point.title or f"{curve.name}, {x.name} {point.x:.0f}: {scalar(point.rate)}"
            at, shape, wide = (across(point.x), up(value)), curve.shape, point.size or size
            plot.add(mark(*at, curve.colour, shape=shape, size=wide, hollow=point.hollow, title=said))
            if point.label:
                where, anchor = (12, "start") if across(point.x) < plot.width - 90 else (-12, "end")
                plot.add(text(across(point.x) + where, up(value) - 9, point.label, anchor=anchor, class_="strong halo"))
    named = [(curve, *curve.known[-1]) for curve in curves if curve.known and curve.label]
    gap = 10 if any(curve.shape for curve in curves) else 8
    plot.labels([(across(point.x) + gap, up(value), curve.name, curve.colour) for curve, point, value in named])
    values = [
        f"{curve.name}: " + ", ".join(p.title or f"{x.name} {p.x:.0f} {decimal(v)}" for p, v in curve.known)
        for curve in curves
        if curve.known
    ]
    return plot.render(title, "; ".join(values))


def _band(
    plot: Plot, x: Scale, y: Scale, rows: Sequence[tuple[float, float, float]], colour: str, depth: float = 0.14
) -> None:
    if len(rows) > 1:
        places, low, high = zip(*((x(at), y(a), y(b)) for at, a, b in rows), strict=True)
        plot.add(area(places, low, high, colour, depth))
