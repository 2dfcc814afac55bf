"""Refusal of harm against over-refusal, one panel per modality: where a defence lies, and where more of it leads."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import Dot, scatter_chart
from ..markup import Markup
from ..numbers_in_words import decimal, percent, points, share, short_share
from ..palette import modality_order
from ..records import Rate, finite, mapping, records
from ..svg import Axis, ticks
from ..table import html_table
from .figure import Panel, figure

LOOKS = {
    "sarsteer": ("audio", "triangle"), "mars": ("text", "diamond"), "addition": ("image", "square"),
    "random": ("control", "cross"),
}  # fmt: skip
"""Methods with a mark of their own; every other one is a small grey circle, named in the table and on hover."""
RATES = ("harmful_refusal", "benign_refusal", "near_miss_refusal", "utility")
CHANGES = ("gain", "benign_change", "near_miss_change")
HEADS = (
    "defence", "fitted on", "strength", "KL", "harmful refused", "benign refused", "near-miss refused", "utility",
    "perplexity", "balanced", "harmful, change", "benign, change", "near-miss, change", "edit / residual",
)  # fmt: skip


def pareto_figure(results: Mapping[str, Any]) -> Markup:
    """The Pareto figure of a comparison."""
    names = modality_order(mapping(results, "undefended"))
    compared = {row.get("defence") for row in records(results, "matched")}
    named = [(name, *look) for name, look in LOOKS.items() if name in compared]
    panels = [Panel.of(name, _plot(results, name)) for name in names]
    tables = [matched_table(results, name) for name in names]
    return figure("pareto", panels, tables, target_kl=finite(results, "target_kl"), named=named)


def _over(row: Mapping[str, Any]) -> float | None:
    """Mean of benign and near-miss refusal; the two roles are equally many by design of the figure."""
    known = [v for key in ("benign_refusal", "near_miss_refusal") if (v := Rate.of(row, key).value) is not None]
    return sum(known) / len(known) if known else None


def _plot(results: Mapping[str, Any], modality: str) -> Markup:
    matched = [row for row in records(results, "matched") if row.get("modality") == modality]
    rows = [row for row in records(results, "rows") if row.get("modality") == modality]
    walked = [row for row in rows if row.get("kind") in ("grid", "matched")]
    plain = mapping(results, "undefended", modality)
    behind, paths, dots = [], [], []
    for name, (hue, shape) in LOOKS.items():
        path = sorted(_path(walked, name))
        if len(path) < 2:
            continue
        paths.append((f"var(--rp-{hue})", [(over, hit) for _, over, hit in path]))
        for strength, over, hit in path:
            said = f"{name} at strength {decimal(strength, 3)}: {percent(hit)} of harmful, {percent(over)} of harmless"
            look: dict[str, Any] = {"shape": shape, "size": 2.6, "opacity": 0.7, "said": False}
            behind.append(Dot(over, hit, f"var(--rp-{hue})", said, **look))
    for row in sorted(matched, key=lambda r: r.get("defence") in LOOKS):  # the named ones on top
        name = str(row.get("defence"))
        hue, shape = LOOKS.get(name, ("control", "circle"))
        named = {"size": 6.0, "label": name} if name in LOOKS else {"size": 3.6}
        dots += _dot(name, row, f"var(--rp-{hue})", shape=shape, **named)
    dots += _dot("no defence", plain, "var(--rp-ink)", hollow=True, size=6.0, label="no defence")
    widest = max([v for row in (*matched, *walked, plain) if (v := _over(row)) is not None], default=0.0)
    edge = min(1.0, max(0.1, 0.1 * -(-widest * 1.05 // 0.1)))
    x = Axis(0.0, edge, ticks(0.0, edge, 5), percent, "harmless requests refused")
    return scatter_chart(
        f"Refusal of harm against over-refusal, {modality}", behind + dots, x, Axis.shares(), paths=paths
    )


def _dot(name: str, row: Mapping[str, Any], colour: str, **look: Any) -> list[Dot]:
    """The point of one method, none where it was not measured."""
    refused, cost = Rate.of(row, "harmful_refusal"), _over(row)
    if refused.value is None or cost is None:
        return []
    title = f"{name}: {share(refused)} of harmful, {percent(cost, 1)} of harmless refused"
    return [Dot(cost, refused.value, colour, title, **look)]


def _path(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float, float]]:
    """(strength, over-refusal, harmful refusal) of one method's first fit."""
    mine = [row for row in rows if row.get("defence") == name]
    first = min((row.get("seed", 0) for row in mine if row.get("kind") == "grid"), default=None)
    found = []
    for row in mine:
        hit, over, strength = Rate.of(row, "harmful_refusal").value, _over(row), finite(row, "strength")
        if row.get("seed") == first and hit is not None and over is not None and strength is not None:
            found.append((strength, over, hit))
    return found


def matched_table(results: Mapping[str, Any], modality: str) -> Markup:
    """All methods on one modality at the same price."""
    plain = mapping(results, "undefended", modality)
    rows: list[list[object]] = [["no defence", "", "", "", *_rates(plain), "", "", "", ""]]
    for row in records(results, "matched"):
        if row.get("modality") != modality:
            continue
        name, bound = str(row.get("defence")), "*" if row.get("at_bound") else ""
        sees = str(mapping(results, "methods", name).get("sees") or "")
        price = [decimal(finite(row, "strength"), 3) + bound, decimal(finite(row, "kl"), 3)]
        changes = [points(Rate.of(row, key)) for key in CHANGES]
        rows.append([name, sees, *price, *_rates(row), *changes, decimal(finite(row, "edit_norm"))])
    caption = f"{modality}: every defence at the same price, all fit seeds together; 95% intervals over pair groups. "
    caption += "* at the end of the allowed strengths, or without a strength: below or above the price. "
    caption += "Perplexity: of harmless answers under the model without a defence."
    return html_table(HEADS, rows, caption=caption)


def _rates(row: Mapping[str, Any]) -> list[str]:
    """What is refused and answered, how unlike the model the harmless answers are, and the balance."""
    rates = [short_share(Rate.of(row, key)) for key in RATES]
    return [*rates, decimal(Rate.of(row, "perplexity").value), short_share(Rate.of(row, "brr"))]
