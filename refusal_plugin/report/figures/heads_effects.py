"""Direct and total effects of the top heads, and removal against random heads."""

from collections.abc import Mapping
from typing import Any

from ..charts import Lane, Row, row_chart
from ..markup import Markup
from ..numbers_in_words import counted, decimal, percent, scalar, share, whole
from ..palette import colour, modality_order
from ..records import Rate, finite, records, sequence
from ..svg import Axis
from ..table import html_table
from .figure import Panel, figure

EFFECTS = (
    "", "contrast, % of text's distance", "total, mean ablation (nats)", "total, zeroed (nats)", "patching (nats)",
    "contrast from instruction", "from medium", "from template",
)  # fmt: skip
# key of the arm, its colour, its name
REMOVED = (("none", "accent", "as it is"), ("random", "control", "random heads"), ("top", "harmful", "top heads"))


def head_name(row: Mapping[str, Any]) -> str:
    """ "L3 H7"."""
    return f"L{finite(row, 'layer') or 0:.0f} H{finite(row, 'head') or 0:.0f}"


def contrast_of(row: Mapping[str, Any], norm: float) -> Rate:
    """The contrast of a head with its interval, in shares of `norm`."""
    low, high = finite(row, "low"), finite(row, "high")
    return Rate(finite(row, "contrast"), low, high).over(norm)


def effects_figure(found: Mapping[str, Any]) -> Markup | None:
    """Two columns per head that answer different questions: what it writes, and what its removal costs."""
    norm, rows = finite(found, "norm") or 1.0, records(found, "top")
    if not rows:
        return None
    panels, table = [], []
    for m in modality_order({str(row.get("modality")): 1 for row in rows}):
        mine = [row for row in rows if row.get("modality") == m]
        panels.append(Panel.of(m, _pair(mine, norm, m)))
        for row in mine:
            parts = [finite(row, "sources", key) for key in ("instruction", "media", "after")]
            totals = [scalar(Rate.of(row, key)) for key in ("total", "total_zero")]
            said = [None if v is None else percent(v / norm, 1) for v in parts]
            direct = scalar(contrast_of(row, norm / 100), 1)
            table.append([f"{m}, {head_name(row)}", direct, *totals, decimal(finite(row, "patching")), *said])
    caption = "Strongest heads per modality, with 95% intervals."
    return figure("heads-effects", panels, [html_table(EFFECTS, table, caption=caption)])


def _pair(heads: list[Mapping[str, Any]], norm: float, modality: str) -> Markup:
    rows, ends = [], ([0.0], [0.0])
    for head in heads:
        direct, total, name = contrast_of(head, norm), Rate.of(head, "total"), head_name(head)
        said = (f"{name}: direct {percent(direct.value, 1)}", f"{name}: total {decimal(total.value)} nats")
        looks = (("var(--rp-accent)", "circle"), ("var(--rp-harmful)", "diamond"))
        lanes = []
        for column, (rate, title, (hue, shape)) in enumerate(zip((direct, total), said, looks, strict=True)):
            hollow = rate.interval is None or rate.interval[0] <= 0 <= rate.interval[1]
            lanes.append(Lane(rate, hue, title, shape, hollow, size=4.5, column=column))
            ends[column].extend(rate.ends)
        rows.append(Row(name, lanes, look="tick strong"))
    axes = (
        Axis.around(ends[0], percent, "of text's distance", pad=0.06, count=4, head="direct contrast"),
        Axis.around(ends[1], lambda v: decimal(v, 1), "nats of refusal score", pad=0.06, count=4, head="total effect"),
    )
    size: dict[str, Any] = {"lane": 24.0, "pad": 0.0, "left": 52.0, "right": 10.0, "top": 34.0}
    return row_chart(f"Direct and total effects of heads in {modality}", rows, *axes, zero=True, **size)


def removal_figure(found: Mapping[str, Any]) -> Markup | None:
    """Generated refusals with the top heads removed together, against random heads of the same layers."""
    removed = records(found, "removal")
    if not removed:
        return None
    rows, table = [], []
    for row in removed:
        m = str(row.get("modality"))
        rates = [Rate.of(row, "refused", key) for key, _, _ in REMOVED]
        lanes = []
        for rate, (key, hue, name) in zip(rates, REMOVED, strict=True):
            said = counted(rate.value, rate.n, missing="")
            look: dict[str, Any] = {"shape": "bar", "size": 9.0, "said": said, "strong": key == "top"}
            lanes.append(Lane(rate, colour(hue), f"{m}, {name}: {share(rate)}", **look))
        rows.append(Row(m, lanes, colour(m)))
        heads = ", ".join(f"L{a} H{b}" for a, b in map(sequence, sequence(row, "heads")))
        random = ", ".join(decimal(finite(effect, "value")) for effect in sequence(row, "score_random"))
        table.append([m, heads, *map(share, rates), scalar(Rate.of(row, "score")), random])
    axis = Axis.shares("harmful requests refused")
    drawn = row_chart("Refusals without the top heads", rows, axis, lane=17, pad=15, left=62, right=72, top=12)
    refused = [f"refused, {name}" for _, _, name in REMOVED]
    columns = ["", "top heads", *refused, "score lost (nats)", "random heads (nats)"]
    behind = html_table(columns, table, caption="Harmful test prompts refused, first words of the answer.")
    most = max(len(sequence(row, "heads")) for row in removed)
    return figure("heads-removal", [Panel(drawn)], [behind], most=whole(most))
