"""Lines over layers with bands: the drawing that the AUROC and the projection figures share."""

from collections.abc import Sequence
from dataclasses import dataclass

from refusal_plugin.report import svg
from refusal_plugin.report.words import Rate, finite, mapping, scalar, sequence


@dataclass(frozen=True)
class Curve:
    """One line over layers.

    Attributes:
        name: what stands at its end.
        colour: CSS colour.
        rates: one rate per layer, in the order of `layers`.
        layers: layer numbers.
        shape: mark at each layer.
        dash: SVG dash pattern, None for a full line.
    """

    name: str
    colour: str
    layers: Sequence[int]
    rates: Sequence[Rate]
    shape: str = "circle"
    dash: str | None = None

    @property
    def known(self) -> list[tuple[int, Rate, float]]:
        """(layer, rate, value) where it was measured."""
        return [(layer, r, r.value) for layer, r in zip(self.layers, self.rates, strict=True) if r.value is not None]


def listed(found: object) -> tuple[list[int], list[Rate]]:
    """Read `[{"layer": 0, "value": ...}, ...]`; without a layer the position counts. Sorted by layer."""
    rows = []
    for position, row in enumerate(sequence(found)):
        layer = finite(mapping(row).get("layer"))
        rows.append((position if layer is None else int(layer), Rate.of(row)))
    rows.sort(key=lambda pair: pair[0])
    return [layer for layer, _ in rows], [rate for _, rate in rows]


def at_layer(found: object, layer: object) -> Rate:
    """The rate of one layer of such a list; nothing measured when the layer is not in it."""
    layers, rates = listed(found)
    wanted = finite(layer)
    return next((r for number, r in zip(layers, rates, strict=True) if number == wanted), Rate(None))


def layer_axis(plot: svg.Plot, layers: Sequence[int]) -> svg.Scale:
    """The horizontal axis over layers, with room at both ends for the marks."""
    low, high = (min(layers), max(layers)) if layers else (0, 1)
    room = max(0.25, (high - low) * 0.03)
    scale = plot.x(low - room, high + room)
    plot.x_axis(scale, svg.ticks(low, high, 8, whole=True), lambda v: f"{v:.0f}", "layer", grid=False)
    return scale


def chosen_line(plot: svg.Plot, scale: svg.Scale, layer: float | None) -> None:
    """A dashed line at the selected layer, named at the top."""
    if layer is None:
        return
    x = scale(layer)
    plot.add(svg.rule(x, plot.top, x, plot.height - plot.bottom, "chosen", title=f"selected layer {layer:.0f}"))
    plot.add(svg.text(x, plot.top - 8, "selected", anchor="middle", class_="tick"))


def draw(plot: svg.Plot, x: svg.Scale, y: svg.Scale, curves: Sequence[Curve], *, labels: bool = True) -> None:
    """Bands first, then lines, then marks, then the names at the line ends, moved apart where they would meet."""
    for curve in curves:
        run = [(x(layer), r) for layer, r, _ in curve.known if r.low is not None and r.high is not None]
        lower = [(at, y(r.low)) for at, r in run if r.low is not None]
        upper = [(at, y(r.high)) for at, r in run if r.high is not None]
        if len(run) > 1:
            plot.add(svg.area(lower, upper, curve.colour))
    for curve in curves:
        at = [(x(layer), y(value)) for layer, _, value in curve.known]
        if len(at) > 1:
            plot.add(svg.polyline(at, curve.colour, dash=curve.dash))
    for curve in curves:
        size = 4.0 if len(curve.known) <= 16 else 2.2
        for layer, rate, value in curve.known:
            said = f"{curve.name}, layer {layer}: {scalar(rate)}"
            plot.add(svg.mark(x(layer), y(value), curve.colour, shape=curve.shape, size=size, title=said))
    ended = [(curve, curve.known[-1]) for curve in curves if curve.known]
    if labels and ended:
        heights = svg.spread([y(last[2]) for _, last in ended], 15, plot.top, plot.height - plot.bottom)
        for (curve, last), height in zip(ended, heights, strict=True):
            plot.add(svg.text(x(last[0]) + 10, height, curve.name, fill=curve.colour, class_="strong"))
