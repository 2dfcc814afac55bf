"""Refused before and after steering, per modality, with the random-direction control; and the causal test on text."""

from collections.abc import Mapping
from typing import Any

from ..charts import Lane, Row, row_chart
from ..markup import Markup
from ..numbers_in_words import percent, points, sample, share
from ..palette import colour, modality_order
from ..records import Rate, mapping
from ..svg import Axis
from ..table import html_table
from .figure import Panel, figure

# key in results.json, panel title, which way is better, row of the test on text
MEASURES = (
    ("harmful_refusal", "Harmful requests refused", "higher is safer", "harmful refused"),
    ("near_miss_refusal", "Near-miss requests refused", "should stay low", "near-miss refused"),
    ("benign_refusal", "Benign requests refused", "should stay low", "benign refused"),
    ("utility", "Benign answers still right", "should stay high", "answers right"),
)
ARMS = (("none", "as it is"), ("addition", "direction added"), ("random", "random direction"))


def rates_figure(results: Mapping[str, Any]) -> Markup:
    """What adding the text direction does in every modality; the causal check on text stands below it."""
    modalities = mapping(results, "modalities")
    names = modality_order(modalities)
    axis, panels, table = Axis.shares("share of test items"), [], []
    for key, title, small, _ in MEASURES:
        rows = []
        for name in names:
            before, after, control = rates = [Rate.of(modalities[name], "defences", arm, key) for arm, _ in ARMS]
            said, hue = (
                [f"{name}, {words}: {share(r)}" for r, (_, words) in zip(rates, ARMS, strict=True)],
                colour(name),
            )
            lanes = [
                Lane(before, hue, said[0], hollow=True),
                Lane(after, hue, said[1]),
                Lane(control, "var(--rp-control)", said[2], shape="cross", size=3.2),
            ]
            rows.append(Row(name, lanes, hue, said=_change(before, after), linked=True))
            gain = Rate.of(modalities[name], "defences", "addition", "gain")
            table.append([f"{title}, {name}", *map(share, rates), points(gain) if key == "harmful_refusal" else ""])
        counted = sample(lane.rate for row in rows for lane in row.lanes)
        small = ", ".join(filter(None, (small, counted)))
        panels.append(Panel(row_chart(title, rows, axis, right=98, ruled=True), title, small))
    for name in names:
        over = Rate.of(modalities[name], "defences", "addition", "over_refusal")
        table.append([f"Over-refusal (benign and near-miss), {name}", "", "", "", points(over)])
    heads = ["", *(words for _, words in ARMS), "change, paired"]
    caption = "Rates with 95% intervals; the last column is the paired difference."
    return figure("rates", panels, [html_table(heads, table, caption=caption)])


def _change(before: Rate, after: Rate) -> str:
    if before.value is None and after.value is None:
        return ""
    if before.value is None or after.value is None:
        return percent(before.value if after.value is None else after.value)
    return f"{percent(before.value).rstrip('%')} \u2192 {percent(after.value)}"


def ablation_figure(results: Mapping[str, Any]) -> Markup | None:
    """The causal test on text: the coordinate along the direction is set to its benign mean inside a trace, beside the
    same for a random direction. None when it was not run."""
    tests, plain = mapping(results, "ablation"), mapping(results, "modalities", "text", "defences", "none")
    hue, rows, table = colour("text"), [], []
    for key, title, _, short in MEASURES:
        if key not in mapping(tests, "text"):
            continue
        was, now = Rate.of(plain, key), Rate.of(tests, "text", key)
        lanes = [
            Lane(was, hue, f"{title}, as it is: {share(was)}", hollow=True),
            Lane(now, hue, f"direction at its benign mean: {share(now)}"),
        ]
        rows.append(Row(short, lanes, look="", said=_change(was, now), linked=True))
        table.append([title, *(share(r) for r in (was, now, *(Rate.of(tests, t, key) for t in CONTROLS)))])
    if not rows:
        return None
    axis, name = Axis.shares("share of text items"), "Text refusal with the direction at its benign mean"
    heads = ["", "as it is", "direction at its benign mean", "random direction likewise", "direction projected out"]
    drawn = row_chart(name, rows, axis, left=128, right=88, pad=16)
    title = sample(lane.rate for row in rows for lane in row.lanes)
    return figure(
        "ablation", [Panel(drawn, title)], [html_table(heads, table, caption="Text test items, 95% intervals.")]
    )


CONTROLS = ("random", "projected_out")
