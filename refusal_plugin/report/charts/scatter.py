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
    _labels(plot, [(across(dot.x) + dot.size + 4, up(dot.y), dot.label) for dot in dots if dot.label])
    return plot.render(title, "; ".join(dot.title for dot in dots if dot.said))


def _labels(plot: Plot, wanted: Sequence[tuple[float, float, str]]) -> None:
    """Write labels right of their dots where there is room."""
    taken: list[tuple[float, float, float]] = []
    for x, y, label in wanted:
        end = x + 6.5 * len(label)
        if all(abs(y - other) > 11 or x > stop or end < start for start, stop, other in taken):
            plot.add(text(x, y, label, class_="tick halo"))
            taken.append((x, end, y))
