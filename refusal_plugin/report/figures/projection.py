"""Where single requests lie on the text direction: a swarm per role and modality, and the means layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.curves import Curve, chosen_line, draw, layer_axis, listed
from refusal_plugin.report.figures.figure import empty, figure, panel
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import ROLE_NAMES, ROLE_SHAPES, ROLES, colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import Rate, decimal, finite, mapping, scalar, sequence

SWARM_TITLE = "How far towards refusal does each request lie?"
LAYERS_TITLE = "In which layers does harm move the model towards refusal?"
ROW = 52.0
DOT = 2.7


def role_keys() -> list[Markup]:
    """The legend of the roles."""
    return [svg.glyph(colour(role), shape=ROLE_SHAPES[role], label=ROLE_NAMES[role]) for role in ROLES]


def _values(modality: object, role: str) -> list[float]:
    found = sequence(mapping(mapping(modality).get("projection")).get(role))
    return [v for v in map(finite, found) if v is not None]


def _mean(modality: object, role: str, layer: float | None) -> Rate:
    means = mapping(mapping(modality).get("projection_by_layer")).get(role)
    layers, rates = listed(means)
    return next((r for n, r in zip(layers, rates, strict=True) if n == layer), Rate(None))


def swarm_figure(results: Mapping[str, Any]) -> Markup:
    """Every test request as a point at the selected layer; 0 = mean benign text, 1 = mean harmful text."""
    modalities = mapping(results.get("modalities"))
    names = modality_order(modalities)
    layer = finite(mapping(results.get("direction")).get("layer"))
    values = [v for name in names for role in ROLES for v in _values(modalities[name], role)]
    if not values:
        return empty("projection", SWARM_TITLE, "No projection was recorded in this run.")
    domain = svg.around(values, include=(0.0, 1.0))
    panels = [panel(_swarms(name, modalities[name], domain, layer), name, hue=colour(name)) for name in names]
    rows: list[list[object]] = []
    for name in names:
        for role in ROLES:
            each = ", ".join(decimal(v) for v in sorted(_values(modalities[name], role))) or None
            mean = _mean(modalities[name], role, layer)
            rows.append([f"{name}, {ROLE_NAMES[role]}", scalar(mean), each])
    where = "" if layer is None else f" at layer {layer:.0f}"
    return figure(
        "projection",
        SWARM_TITLE,
        f"Projection of every test request on the text direction{where}, in units of the text's own gap.",
        panels,
        legend=role_keys(),
        reading="Each point is one request. 0 is the mean benign text and 1 the mean harmful text, in every panel. "
        "The bar "
        "is the mean, with its 95% interval. Harmful points left of 1 mean that harm arrives weakened; benign points "
        "right of 0 mean that the medium alone already leans towards refusal.",
        tables=[html_table(["", "mean", "every request, sorted"], rows, caption="Projection on the text direction.")],
    )


def _swarms(name: str, modality: object, domain: tuple[float, float], layer: float | None) -> Markup:
    plot = svg.Plot(height=3 * ROW + 62, left=70, right=44, top=24, bottom=38)
    x = plot.x(*domain)
    plot.x_axis(x, svg.ticks(*domain, 6), lambda v: decimal(v, 1), "projection on the text direction")
    near = x(1.0) - x(0.0) < 92
    for value, label, anchor in (
        (0.0, "benign text", "end" if near else "middle"),
        (1.0, "harmful text", "start" if near else "middle"),
    ):
        plot.add(svg.rule(x(value), plot.top, x(value), plot.height - plot.bottom, "reference"))
        plot.add(svg.text(x(value), plot.top - 10, label, anchor=anchor, class_="tick"))
    rows = svg.Bands(len(ROLES), plot.top, plot.height - plot.bottom)
    said = []
    for index, role in enumerate(ROLES):
        middle, hue, values = rows(index), colour(role), _values(modality, role)
        plot.add(svg.text(plot.left - 8, middle, ROLE_NAMES[role], anchor="end", fill=hue, class_="strong"))
        for value, lift in _swarm(values, x):
            plot.add(tag("circle", cx=x(value), cy=middle + lift, r=DOT, style=f"fill:{hue}", opacity=0.6))
        mean = _mean(modality, role, layer)
        if mean.value is not None:
            _bar(plot, x, mean, middle, f"{name}, {ROLE_NAMES[role]}, mean: {scalar(mean)}")
            plot.add(svg.text(plot.width - 4, middle, decimal(mean.value), anchor="end", class_="strong"))
        said.append(f"{ROLE_NAMES[role]}: {len(values)} requests, mean {scalar(mean)}")
    return plot.render(f"Projection of {name} requests on the text direction", "; ".join(said))


def _bar(plot: svg.Plot, x: svg.Scale, mean: Rate, middle: float, title: str) -> None:
    if mean.value is None:
        return
    if mean.low is not None and mean.high is not None:
        low, high = x(mean.low), x(mean.high)
        plot.add(
            tag(
                "rect",
                x=low,
                y=middle - 19,
                width=max(1.0, high - low),
                height=38,
                rx=2,
                opacity=0.16,
                style="fill:var(--rp-ink)",
            )
        )
    plot.add(
        tag(
            "line",
            tag("title", title),
            x1=x(mean.value),
            y1=middle - 19,
            x2=x(mean.value),
            y2=middle + 19,
            style="stroke:var(--rp-ink)",
            stroke_width=2.2,
        )
    )


def _swarm(values: Sequence[float], x: svg.Scale) -> list[tuple[float, float]]:
    """(value, vertical shift): points that would overlap step aside in turn; a crowded row is squeezed to its
    height."""
    placed: list[tuple[float, float, float]] = []
    limit = ROW / 2 - 6
    for value in sorted(values):
        at, lane = x(value), 0
        while True:
            lift = (lane + 1) // 2 * DOT * 1.5 * (1 if lane % 2 else -1)
            free = all((at - px) ** 2 + (lift - py) ** 2 >= (2 * DOT * 0.86) ** 2 for px, py, _ in placed[-60:])
            if free or lane > 80:
                break
            lane += 1
        placed.append((at, lift, value))
    highest = max((abs(lift) for _, lift, _ in placed), default=0.0)
    squeeze = min(1.0, limit / highest) if highest else 1.0
    return [(value, lift * squeeze) for _, lift, value in placed]


def layers_figure(results: Mapping[str, Any]) -> Markup:
    """Mean projection by layer, one panel per modality, one line per role, on one shared scale."""
    modalities = mapping(results.get("modalities"))
    names = modality_order(modalities)
    layer = finite(mapping(results.get("direction")).get("layer"))
    curves = {
        name: [
            Curve(
                ROLE_NAMES[role],
                colour(role),
                *listed(mapping(mapping(modalities[name]).get("projection_by_layer")).get(role)),
                shape=ROLE_SHAPES[role],
            )
            for role in ROLES
        ]
        for name in names
    }
    bounds = [
        v
        for cs in curves.values()
        for c in cs
        for _, r, value in c.known
        for v in (value, r.low, r.high)
        if v is not None
    ]
    if not bounds:
        return empty("layers", LAYERS_TITLE, "No projection by layer was recorded in this run.")
    domain = svg.around(bounds, include=(0.0, 1.0))
    panels = []
    for name in names:
        plot = svg.Plot(height=236, left=38, right=72, top=26, bottom=38)
        x = layer_axis(plot, sorted({n for c in curves[name] for n in c.layers}))
        y = plot.y(*domain)
        plot.y_axis(y, svg.ticks(*domain, 5), lambda v: decimal(v, 1))
        for value in (0.0, 1.0):
            plot.add(svg.rule(plot.left, y(value), plot.width - plot.right, y(value), "reference"))
        chosen_line(plot, x, layer)
        draw(plot, x, y, curves[name])
        said = "; ".join(
            f"{c.name}: " + ", ".join(f"layer {n} {decimal(v)}" for n, _, v in c.known) for c in curves[name]
        )
        panels.append(panel(plot.render(f"Mean projection by layer, {name}", said), name, hue=colour(name)))
    rows: list[list[object]] = []
    for name in names:
        by_role = [dict(zip(c.layers, c.rates, strict=True)) for c in curves[name]]
        for number in sorted({n for column in by_role for n in column}):
            rows.append([f"{name}, layer {number}", *[scalar(column.get(number, Rate(None))) for column in by_role]])
    return figure(
        "layers",
        LAYERS_TITLE,
        "The same projection, averaged over requests, at every layer and under that layer's own text direction.",
        panels,
        legend=role_keys(),
        reading="Dotted lines: 0 is the mean benign text, 1 the mean harmful text of the same layer. Bands are 95% "
        "intervals. "
        "Where the harmful line leaves the other two, the layer carries harm on the text direction.",
        tables=[html_table(["", *[ROLE_NAMES[r] for r in ROLES]], rows, caption="Mean projection with 95% intervals.")],
    )
