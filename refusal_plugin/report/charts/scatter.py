"""Scatter: one quantity against another, with dashed paths where points follow each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..markup import Markup
from ..svg import Axis, Plot, mark, polyline, text


@dataclass(frozen=True)
class Dot:
    """One point: where it stands, how it looks, what it is, and a label beside it.

    `said` is whether screen readers hear of it too. Of labels that would lie over each other only the first is written;
    the title of the point still names it.
    """

    x: float
    y: float
    colour: str
    title: str
    shape: str = "circle"
    hollow: bool = False
    size: float = 4.5
    opacity: float | None = None
    said: bool = True
    label: str = ""


def scatter_chart(
    title: str,
    dots: Sequence[Dot],
    x: Axis,
    y: Axis,
    *,
    paths: Sequence[tuple[str, Sequence[tuple[float, float]]]] = (),
    height: float = 300.0,
    right: float = 18.0,
) -> Markup:
    """The chart; `paths` are (colour, points) and lie behind the dots, which are painted in their order."""
    plot = Plot(height, left=46.0, right=right)
    across, up = plot.x(x), plot.y(y)
    for colour, points in paths:
        plot.add(polyline([(across(a), up(b)) for a, b in points], colour, width=1.6, dash="4 3"))
    for dot in dots:
        shape, size, faint = dot.shape, dot.size, dot.opacity
        at = across(dot.x), up(dot.y)
        plot.add(mark(*at, dot.colour, title=dot.title, shape=shape, size=size, hollow=dot.hollow, opacity=faint))
    _labels(plot, [(across(dot.x), up(dot.y), dot.size, dot.label) for dot in dots])
    return plot.render(title, "; ".join(dot.title for dot in dots if dot.said))


def _labels(plot: Plot, dots: Sequence[tuple[float, float, float, str]]) -> None:
    """Write the labels of dots (x, y, size, label) beside them, above or below, wherever there is room."""
    taken = [(x - size, x + size, y) for x, y, size, _ in dots]
    for at, y, size, label in dots:
        wide, gap = 6.2 * len(label), size + 4
        middle = max(plot.left + 2, at - wide / 2)
        places = ((at + gap, y), (at - gap - wide, y), (middle, y - gap - 6), (middle, y + gap + 6))
        for x, height in places if label else ():
            clear = all(
                abs(height - other) > 11 or x > stop + 1 or x + wide < start - 1 for start, stop, other in taken
            )
            if clear and x > plot.left and x + wide < plot.width and height < plot.floor:
                plot.add(text(x, height, label, class_="tick halo"))
                taken.append((x, x + wide, height))
                break
