"""What the safe spaces hold of the refusal direction, what removing it does, and whether modalities share one."""

from collections.abc import Mapping
from typing import Any

from ..charts import Curve, Dot, Point, line_chart, scatter_chart
from ..markup import Markup
from ..numbers_in_words import decimal, points, scalar, share, significant, whole
from ..palette import colour, modality_order
from ..records import Rate, by_layer, finite, mapping, records, sequence
from ..svg import Axis, ticks
from ..table import html_table
from .figure import Panel, figure


def space_figure(results: Mapping[str, Any]) -> Markup:
    """Share of the direction inside against k, and the trade of refusal for price when it is removed."""
    found = mapping(results, "safe_space")
    spaces, k = mapping(found, "modalities"), finite(found, "k")
    names = modality_order(spaces)
    if not names:
        return figure("safe-space", [], [], layer="?")
    shares = {n: by_layer(spaces[n], "share_inside", index="k") for n in names}
    explained = {n: [(i + 1, r) for i, r in by_layer(spaces[n], "explained")] for n in names}
    chance = finite(spaces[names[0]], "chance")
    step = chance / k if chance is not None and k else None
    panels = [
        Panel(_by_k("Share of the direction inside", shares, k, step), "Share of the direction inside", "against k"),
        Panel(_by_k("Variance of safe requests explained", explained, k), "Safe variance explained", "against k"),
    ]
    swept = {n: records(spaces[n], "sweep") for n in names}
    panels += [Panel.of(n, _trade(n, rows), "refusal of harm against price") for n, rows in swept.items() if rows]
    rows: list[list[object]] = []
    for n in names:
        for r in swept[n]:
            kind = "random directions out" if r.get("kind") == "random" else "safe space out"
            setting = f"{kind}, k {r.get('k')}, strength {r.get('strength')}" if r.get("k") else "nothing out"
            refused, over, price = (Rate.of(r, key) for key in ("refusal", "over_refusal", "kl"))
            left = decimal(finite(r, "left"))
            rows.append([f"{n}: {setting}", left, share(refused), points(over), scalar(price, 3)])
    inside = [[f"{n}, k = {count}", scalar(rate)] for n in names for count, rate in shares[n]]
    tables = [
        html_table(["", "length left", "harm refused", "over-refusal", "price, nats"], rows, caption="Sweeps."),
        html_table(["", "share inside with 95% interval"], inside),
    ]
    return figure("safe-space", panels, tables, layer=found.get("layer"))


def _by_k(
    title: str, rates: Mapping[str, list[tuple[int, Rate]]], k: float | None, step: float | None = None
) -> Markup:
    curves = [Curve.of(name, colour(name), found, shape="") for name, found in rates.items()]
    most = max((p.x for curve in curves for p in curve.points), default=1)
    x = Axis(0, most + 0.5, ticks(0, most, 5, whole=True), whole, "directions k")
    if step is not None:
        ends = [Point(0, Rate(0.0)), Point(most, Rate(step * most))]
        chance = Curve("chance", "var(--rp-muted)", ends, shape="", dash="2 3", line="var(--rp-muted)")
        curves.insert(0, chance)
    return line_chart(title, curves, x, Axis.shares(), chosen=None if k is None else (k, f"k = {k:.0f}"))


def _trade(name: str, rows: list[Mapping[str, Any]]) -> Markup:
    """Refusal against price of one modality: a mark per k, and per strength where not the whole part is removed."""
    dots = []
    for r in rows:
        cost, hit = Rate.of(r, "kl").value, Rate.of(r, "refusal")
        if cost is None or hit.value is None:
            continue
        count, strength, random = finite(r, "k"), finite(r, "strength"), r.get("kind") == "random"
        title = f"k {whole(count)}, strength {strength or 0:g}: {share(hit)} at {decimal(cost, 3)} nats"
        if random:
            label = "random"
        elif not count:
            label = "plain"
        else:
            label = f"k {count:.0f}" if strength == 1 else f"\u03bb {strength or 0:g}"
        shape = "cross" if random else "diamond" if count and strength != 1 else "circle"
        dots.append(Dot(cost, hit.value, colour(name), title, shape=shape, hollow=not count, label=label))
    x = Axis.around([d.x for d in dots], significant, "KL on safe requests, nats", include=(0.0,), count=4)
    title = f"Refusal of harm against price, {name}"
    return scatter_chart(title, dots, x, Axis.shares(high=1.02), height=250, right=44)


def angles_figure(results: Mapping[str, Any]) -> Markup:
    """Principal angles of every pair of modalities beside a modality with itself and beside chance."""
    found = mapping(results, "safe_space", "angles")
    pairs = mapping(found, "pairs")
    names = modality_order(pairs)
    null = [(i + 1.0, *r.interval) for i, r in by_layer(found, "random") if r.interval is not None]
    panels, rows = [], []
    for a in names:
        curves = [_angles(a, b, sequence(pairs[a], b, "degrees")) for b in names]
        overlaps = [Rate.of(pairs[a], b, "overlap") for b in names]
        counted = [1.0, *(p.x for curve in curves for p in curve.points), *(n for n, _, _ in null)]
        drawn = line_chart(
            f"Principal angles of {a}'s safe space",
            curves,
            Axis.counts(counted, "principal angle, smallest first", air=0.3, count=5),
            Axis(0.0, 90.0, (0, 30, 60, 90), lambda v: f"{v:.0f}\u00b0"),
            height=230,
            left=40,
            right=58,
            top=14,
            nulls=[null],
            depth=0.3,
        )
        panels.append(Panel.of(a, drawn))
        rows.append([a, *map(scalar, overlaps)])
    caption = (
        f"Overlap (mean squared cosine); by chance {decimal(finite(found, 'chance'))}. The range is the spread over "
    )
    behind = html_table(["", *names], rows, caption=caption + "random halvings.")
    return figure("angles", panels, [behind], k=found.get("k"))


def _angles(a: str, b: str, degrees: list[Any]) -> Curve:
    points = [
        Point(i + 1, Rate(v), f"{a} and {b}, angle {i + 1}: {decimal(v, 1)}\u00b0", size=2.6)
        for i, v in enumerate(map(finite, degrees))
    ]
    return Curve(b, colour(b), points, dash="4 3" if a == b else None)
