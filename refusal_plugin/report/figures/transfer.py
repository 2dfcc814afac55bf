"""Transfer between modalities: one matrix per measure, and curves over layers for the first source."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..charts import Cell, Curve, heat_map, line_chart
from ..markup import Markup
from ..numbers_in_words import change, decimal, points, sample, scalar
from ..palette import colour, modality_order
from ..records import Rate, by_layer, finite, mapping
from ..svg import WIDTH, Axis
from ..table import html_table
from .figure import Panel, figure

LEFT = 62.0


class Measure(NamedTuple):
    """One matrix: its key in results.json, words, the values of no and of full colour, and how values are written."""

    key: str
    title: str
    small: str
    zero: float
    full: float
    say: Callable[[Rate], str]
    short: Callable[[float | None], str]


def _points(value: float | None) -> str:
    return decimal(None if value is None else 100 * value, 0)


def _nats(value: float | None) -> str:
    return decimal(value, 1)


MATRICES = (
    Measure("cosine", "Same direction?", "cosine, freed from fitting noise", 0.0, 1.0, scalar, decimal),
    Measure("auroc", "Harm readable?", "AUROC, harmful against safe", 0.5, 1.0, scalar, decimal),
    Measure("induced_score", "Makes benign refused?", "refusal score, nats", 0.0, 10.0, scalar, _nats),
    Measure(
        "ablated_score", "Needed for refusal?", "score of harmful, direction at benign mean", 0, -10, scalar, _nats
    ),
    Measure("restored", "Restores refusal of harm", "change of the rate, direction added", 0.0, 1.0, points, _points),
    Measure("ablated", "Takes refusal of harm away", "change of the rate, at benign mean", 0.0, -1.0, points, _points),
)
LINES = (
    ("auroc", "Harm readable along it", "AUROC"),
    ("cosine", "Cosine with the target's own", "freed from fitting noise"),
    ("induced_score", "Added to benign requests", "change of the refusal score, nats"),
    ("ablated_score", "Set to its benign mean in harmful ones", "change of the refusal score, nats"),
)


def transfer_matrix(results: Mapping[str, Any]) -> Markup:
    """Source x target for every measure at the report's layer."""
    found = mapping(results, "transfer")
    sources = modality_order(found)
    targets = modality_order({t: 0 for s in sources for t in mapping(found[s])})
    panels: list[Panel] = []
    rows: list[list[object]] = []
    wide = min(82.0, (WIDTH - LEFT - 4) / max(1, len(targets)))
    for measure in MATRICES:
        cells, said = {}, []
        for i, s in enumerate(sources):
            row: list[object] = [f"{measure.title} {s}"]
            for j, t in enumerate(targets):
                rate, p = Rate.of(found[s], t, measure.key), finite(found[s], t, "p_holm", measure.key)
                star = " *" if p is not None and p <= 0.05 else ""
                cells[i, j] = _cell(measure, rate, star, f"{s} in {t}: {measure.say(rate)}")
                said.append(cells[i, j].title)
                row.append(measure.say(rate) + star)
            rows.append(row)
        if all(Rate.of(found[s], t, measure.key).value is None for s in sources for t in targets):
            del rows[len(rows) - len(sources) :]
            continue
        control = [Rate.of(found[sources[0]], t, "random", measure.key) for t in targets]
        if any(rate.value is not None for rate in control):
            rows.append([f"{measure.title} random direction", *map(measure.say, control)])
        title, words = measure.title, "; ".join(said)
        drawn = heat_map(title, sources, targets, cells, said=words, wide=wide, tall=46, left=LEFT)
        counted = sample(Rate.of(found[s], t, measure.key) for s in sources for t in targets)
        panels.append(Panel(drawn, title, ", ".join(filter(None, (measure.small, counted)))))
    layers = [layer for s in sources for t in targets if (layer := mapping(found[s], t).get("layer")) is not None]
    table = html_table(["", *[f"in {t}" for t in targets]], rows, caption="Value with 95% interval; * Holm p <= 0.05.")
    twice = _twice(found, mapping(results, "modalities"))
    return figure("transfer", panels, [table], layer=layers[0] if layers else "?", twice=twice)


def _twice(found: Mapping[str, Any], modalities: Mapping[str, Any]) -> list[str]:
    """What adding text's direction restores, where the study has measured it on other items too."""
    said = []
    for t in modality_order(mapping(found, "text")):
        here, above = Rate.of(found, "text", t, "restored"), Rate.of(modalities, t, "defences", "addition", "gain")
        if t != "text" and None not in (here.value, above.value, here.n, above.n) and here.n != above.n:
            said.append(f"{t} {change(above.value)} (n = {above.n}) and {change(here.value)} (n = {here.n})")
    return said


def _cell(measure: Measure, rate: Rate, star: str, title: str) -> Cell:
    depth = 0.0 if rate.value is None else (rate.value - measure.zero) / (measure.full - measure.zero)
    lines = [measure.short(rate.value) + star]
    if rate.interval is not None:
        lines.append(", ".join(map(measure.short, rate.interval)))  # " to " is too wide
    return Cell("var(--rp-accent)", 0.04 + 0.34 * min(1.0, max(0.0, depth)), title, lines)


def transfer_curves(results: Mapping[str, Any]) -> Markup:
    """The first source's direction in every target, layer by layer, with the random control."""
    found = mapping(results, "transfer")
    source = (modality_order(found) or ["?"])[0]
    cells = mapping(found, source)
    targets = modality_order(cells)
    layer = next((finite(cells[t], "layer") for t in targets), None)
    panels, rows = [], []
    for key, title, small in LINES:
        others = [t for t in targets if key != "cosine" or t != source]
        curves = [Curve.of(t, colour(t), by_layer(cells[t], "by_layer", key)) for t in others]
        if not any(curve.known for curve in curves):
            continue
        control = {t: by_layer(cells[t], "random_by_layer", key) for t in targets}
        panels.append(Panel(_lines(title, curves, control, key, layer), title, small))
        rows += [[f"{title}, {c.name}, layer {p.x:.0f}", scalar(p.rate)] for c in curves for p, _ in c.known]
        for t, rates in control.items():
            rows += [[f"{title}, random in {t}, layer {n}", scalar(r)] for n, r in rates if r.value is not None]
    return figure("transfer-layers", panels, [html_table(["", "value with 95% interval"], rows)], source=source)


def _lines(
    title: str, curves: list[Curve], control: Mapping[str, list[tuple[int, Rate]]], key: str, layer: float | None
) -> Markup:
    """AUROC has a band of random directions behind it, the effects their mean."""
    every = [v for c in curves for v in c.ends] + [v for rates in control.values() for _, r in rates for v in r.ends]
    nulls = [[(float(n), *r.interval) for n, r in rates if r.interval is not None] for rates in control.values()]
    if key == "auroc":
        y = Axis.around((), lambda v: decimal(v, 1), include=(min(0.4, *every), 1.0), pad=0.0)
    else:
        y = Axis.around(every, lambda v: decimal(v, 1), include=(0.0,))
        look: dict[str, Any] = {"dash": "3 3", "label": False}
        grey = [Curve.of(f"random in {t}", "var(--rp-control)", rates, **look) for t, rates in control.items()]
        curves, nulls = [*grey, *curves], []
    x = Axis.counts([p.x for c in curves for p in c.points], "layer")
    chosen = None if layer is None else (layer, "selected")
    return line_chart(title, curves, x, y, chosen=chosen, nulls=nulls, depth=0.10)
