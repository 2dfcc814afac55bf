"""What the modality gap is made of, and how much of the refusal gap survives the comprehension gate."""

from collections.abc import Callable, Mapping
from typing import Any

from ..charts import Lane, Row, row_chart
from ..markup import Markup
from ..numbers_in_words import NOT_MEASURED, decimal, percent, points, scalar
from ..palette import colour, modality_order
from ..records import Rate, at, mapping
from ..svg import Axis, ticks
from ..table import html_table
from .figure import Panel, figure

SHARES = (
    ("share_along", "runs along the refusal direction"),
    ("translation", "is one common translation"),
)
LOST = (
    ("lost_magnitude", "lost in length"),
    ("lost_turn", "lost by turning away"),
)
LIKENESS = (("cka", "CKA, debiased"),)
MARGINS = (
    ("harmful_before", "harmful"),
    ("harmful_after", "harmful, re-centred"),
    ("safe_before", "safe"),
    ("safe_after", "safe, re-centred"),
)
ALL = (
    ("shift", "shift, in refusal directions"),
    ("along", "its part along the refusal direction, signed"),
    ("share_along", "share of its square along the refusal direction"),
    ("share_orthogonal", "share across it"),
    ("translation", "share that is one translation"),
    ("norm_ratio", "length of its own direction, in lengths of text's"),
    ("cosine", "cosine of its own direction with text's"),
    ("kept", "coordinate along text's direction that is kept"),
    ("lost_magnitude", "lost in length"),
    ("lost_turn", "lost by turning away"),
    ("magnitude_share", "share of the loss that is length"),
    ("kept_shuffled", "coordinate kept, labels shuffled"),
    ("norm_shuffled", "length, labels shuffled"),
    ("cka", "CKA harmful / benign, debiased"),
    ("cka_plain", "CKA, plain form"),
    ("cka_shuffled", "CKA, plain form, pairs shuffled"),
    ("harmful_before", "harmful: distance from the midpoint"),
    ("harmful_after", "harmful, re-centred"),
    ("safe_before", "safe: distance from the midpoint"),
    ("safe_after", "safe, re-centred"),
)
GATES = (("ungated", "refusal gap, all items"), ("gated", "refusal gap, items read back correctly"))
Groups = list[tuple[str, list[tuple[str, Rate]]]]


def gap_figure(results: Mapping[str, Any]) -> Markup:
    """Shares of the shift, margins before and after re-centring, refusal gap with and without the gate."""
    found = mapping(results, "modality_gap")
    names = modality_order(found)
    others = [n for n in names if n != at(found[n], "reference")]
    if not others:
        return figure("gap", [], [])
    parts, lost, likeness, sides = (
        [(n, [(label, Rate.of(found[n], key)) for key, label in keys]) for n in among]
        for keys, among in ((SHARES, others), (LOST, others), (LIKENESS, others), (MARGINS, names))
    )
    gaps = [(n, _gates(mapping(found[n], "refusal_gap"))) for n in others]
    share = Axis(-0.1, 1.0, ticks(-0.1, 1.0, 4), lambda v: decimal(v, 1))
    panels = [Panel(_bars("Parts of the shift", parts, share, percent), "Parts of the shift", "share, 95% interval")]
    ends = [v for _, group in lost for _, rate in group for v in rate.ends]
    if ends:  # not in results of earlier versions
        axis = Axis.around(ends, lambda v: decimal(v, 1), include=(0.0, 1.0), count=4)
        title = "What of text's direction is lost"
        panels.append(Panel(_bars(title, lost, axis, decimal), title, "1 = all of it; the parts add up"))
    if any(rate.value is not None for _, group in likeness for _, rate in group):
        title = "Do harmful and benign requests lie alike?"
        drawn = _bars(title, likeness, share, decimal)
        panels.append(Panel(drawn, title, "CKA: 0 unlike, 1 alike"))
    ends = [v for _, group in sides for _, rate in group for v in rate.ends]
    if ends:
        axis = Axis.around(ends, lambda v: decimal(v, 1), include=(0.0,), count=4)
        drawn = _bars("Side of the midpoint", sides, axis, decimal)
        panels.append(Panel(drawn, "Side of the midpoint", "right of 0: refusal side, in refusal directions"))
    if any(rate.value is not None for _, group in gaps for _, rate in group):
        drawn = _bars("Refused less than text", gaps, share, percent)
        panels.append(Panel(drawn, "Refused less than in text", "harmful items, paired by content"))
    table = [[label, *[scalar(Rate.of(found[n], key)) for n in names]] for key, label in ALL]
    table += [[label, *[points(Rate.of(found[n], "refusal_gap", key)) for n in names]] for key, label in GATES]
    dropped = [at(found[n], "refusal_gap", "dropped") for n in names]
    table.append(["items dropped by the gate", *["" if n is None else str(n) for n in dropped]])
    behind = html_table(["", *names], table, caption="Value with 95% interval.")
    return figure("gap", panels, [behind], layer=at(found[others[0]], "layer"))


def _gates(gap: Mapping[str, Any]) -> list[tuple[str, Rate]]:
    dropped = "" if gap.get("dropped") is None else f" ({gap['dropped']} dropped)"
    return [("all items", Rate.of(gap, "ungated")), (f"read correctly{dropped}", Rate.of(gap, "gated"))]


def _bars(title: str, groups: Groups, axis: Axis, say: Callable[[float], str]) -> Markup:
    """Points with intervals, grouped by modality; every one carries its name above it."""
    rows = [
        Row(name, [_lane(name, k, *part, say) for k, part in enumerate(group)], colour(name)) for name, group in groups
    ]
    return row_chart(title, rows, axis, lane=34, pad=10, left=54, references=[(0.0, "")])


def _lane(name: str, place: int, label: str, rate: Rate, say: Callable[[float], str]) -> Lane:
    measured = rate.value is not None
    said = say(rate.value) if rate.value is not None else NOT_MEASURED
    title = f"{name}, {label}: {scalar(rate)}"
    hollow = place % 2 == 0
    return Lane(rate, colour(name), title, hollow=hollow, size=4.5, label=label, said=said, strong=measured)
