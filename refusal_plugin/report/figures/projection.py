"""Where single requests lie on the text direction: a swarm per role and modality, and the means layer by layer."""

from collections.abc import Mapping
from typing import Any

from ..charts import Curve, Lane, Row, line_chart, row_chart
from ..markup import Markup
from ..numbers_in_words import decimal, scalar
from ..palette import ROLE_NAMES, ROLE_SHAPES, ROLES, colour, modality_order
from ..records import at_layer, by_layer, finite, mapping, sequence
from ..svg import Axis
from ..table import html_table
from .figure import Panel, figure


def swarm_figure(results: Mapping[str, Any]) -> Markup:
    """Every test request as a point at the selected layer; 0 = mean benign text, 1 = mean harmful text."""
    modalities, layer = mapping(results, "modalities"), finite(results, "direction", "layer")
    names = modality_order(modalities)
    values = {(m, r): _values(modalities[m], r) for m in names for r in ROLES}
    every, panels, table = [v for found in values.values() for v in found], [], []
    axis = Axis.around(every, lambda v: decimal(v, 1), "projection on the text direction", include=(0, 1), count=6)
    for name in names:
        rows = []
        for role in ROLES:
            mean, found, said = (
                at_layer(by_layer(modalities[name], *MEANS, role), layer),
                values[name, role],
                ROLE_NAMES[role],
            )
            title = f"{name}, {said}: {len(found)} requests, mean {scalar(mean)}"
            number = "" if mean.value is None else decimal(mean.value)
            rows.append(
                Row(said, [Lane(mean, colour(role), title, shape="mean", dots=found, said=number)], colour(role))
            )
            table.append([f"{name}, {said}", scalar(mean), ", ".join(map(decimal, sorted(found))) or None])
        drawn = row_chart(
            f"Projection of {name} requests on the text direction",
            rows,
            axis,
            lane=52,
            pad=0,
            left=70,
            right=44,
            top=24,
            references=((0.0, "benign text"), (1.0, "harmful text")),
        )
        panels.append(Panel.of(name, drawn))
    caption = "Projection on the text direction."
    behind = html_table(["", "mean", "every request, sorted"], table, caption=caption)
    return figure("projection", panels if every else [], [behind], layer=None if layer is None else int(layer))


def _values(modality: object, role: str) -> list[float]:
    return [v for v in map(finite, sequence(modality, "projection", role)) if v is not None]


MEANS = ("projection_by_layer",)


def layers_figure(results: Mapping[str, Any]) -> Markup:
    """Mean projection by layer, one panel per modality, one line per role, on one shared scale."""
    modalities, layer = mapping(results, "modalities"), finite(results, "direction", "layer")
    names = modality_order(modalities)
    means = {name: {role: by_layer(modalities[name], *MEANS, role) for role in ROLES} for name in names}
    curves = {
        name: [Curve.of(ROLE_NAMES[r], colour(r), rates, ROLE_SHAPES[r]) for r, rates in found.items()]
        for name, found in means.items()
    }
    bounds = [v for found in curves.values() for curve in found for v in curve.ends]
    axis, panels, rows = Axis.around(bounds, lambda v: decimal(v, 1), include=(0.0, 1.0)), [], []
    for name, found in curves.items():
        drawn = line_chart(
            f"Mean projection by layer, {name}",
            found,
            Axis.counts([p.x for curve in found for p in curve.points], "layer"),
            axis,
            height=236,
            left=38,
            right=72,
            chosen=None if layer is None else (layer, "selected"),
            references=[(0.0, ""), (1.0, "")],
        )
        panels.append(Panel.of(name, drawn))
        for number in sorted({n for rates in means[name].values() for n, _ in rates}):
            cells = [scalar(at_layer(rates, number)) for rates in means[name].values()]
            rows.append([f"{name}, layer {number}", *cells])
    behind = html_table(["", *ROLE_NAMES.values()], rows, caption="Mean projection with 95% intervals.")
    return figure("layers", panels if bounds else [], [behind])
