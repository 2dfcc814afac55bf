"""The study's defences at the same price per modality: what each refuses and what it leaves of right answers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .charts import Lane, Row, row_chart
from .figures.figure import Panel, figure
from .markup import Markup
from .numbers_in_words import change, decimal, percent, points, sample, share, short_share
from .palette import colour, modality_order
from .records import Rate, at, finite, mapping
from .svg import Axis
from .table import html_table

NAMES = {"none": "no defence", "addition": "addition", "sarsteer": "SARSteer", "mars": "MARS", "random": "random"}
CONTROLS = ("none", "random")
HEADS = ("defence", "harmful refused", "change", "harmless refused, change", "utility", "KL", "edit / residual")
COLUMNS = (("harmful_refusal", "harmful refused"), ("utility", "answers right"))


def defences_section(results: Mapping[str, Any]) -> Markup | None:
    """The defences of a study; None where neither SARSteer nor MARS was run."""
    modalities = mapping(results, "modalities")
    names = [m for m in modality_order(modalities) if {"sarsteer", "mars"} & set(mapping(modalities[m], "defences"))]
    if not names:
        return None
    panels, verdicts = [], []
    for m in names:
        arms = mapping(modalities[m], "defences")
        counted = sample(Rate.of(arms, key, column) for key in NAMES for column, _ in COLUMNS)
        panels.append(Panel.of(m, _chart(m, arms), counted))
        said = [_verdict(name, arms, key) for key, name in NAMES.items() if key in arms and key not in CONTROLS]
        verdicts.append((m, "; ".join(said)))
    dear = [said for m in names for said in _dear(m, mapping(modalities[m], "defences"))]
    return figure("defences", panels, [_table(m, modalities[m]) for m in names], dear=dear, verdicts=verdicts)


def _chart(modality: str, arms: Mapping[str, Any]) -> Markup:
    axes = [replace(Axis.shares(), ticks=(0.0, 0.5, 1.0), head=head) for _, head in COLUMNS]
    rows = []
    for key, name in NAMES.items():
        if key in arms:
            rates = [Rate.of(arms[key], column) for column, _ in COLUMNS]
            said = [f"{name}, {head}: {share(rate)}" for rate, (_, head) in zip(rates, COLUMNS, strict=True)]
            hollow, shape = key == "none", "cross" if key == "random" else "circle"
            hue = "var(--rp-control)" if key == "random" else colour(modality)
            parts = enumerate(zip(rates, said, strict=True))
            rows.append(Row(name, [Lane(r, hue, words, shape, hollow, 4.5, column=k) for k, (r, words) in parts]))
    title = f"Defences at the same price, {modality}"
    return row_chart(title, rows, *axes, lane=24, pad=0, left=76, right=14, top=30)


def _verdict(name: str, arms: Mapping[str, Any], key: str) -> str:
    """What a defence does beyond its interval, against no defence on the same items."""
    gain, over = (Rate.of(arms, key, column) for column in ("gain", "over_refusal"))
    if gain.low is None or gain.high is None:
        return f"{name}: not measured"
    if gain.low > 0 or gain.high < 0:
        found = f"{name} refuses {'more' if gain.low > 0 else 'less'} harm ({change(gain.value)})"
    else:
        found = f"{name} moves refusal of harm by no more than chance"
    before, after = Rate.of(arms, "none", "utility"), Rate.of(arms, key, "utility")
    costs = [f"refuses more harmless requests ({change(over.value)})"] if over.low is not None and over.low > 0 else []
    if before.low is not None and after.high is not None and after.high < before.low:
        costs.append(f"answers fewer right ({percent(before.value)} to {percent(after.value)})")
    return f"{found}, but {' and '.join(costs)}" if costs else found


def _dear(modality: str, arms: Mapping[str, Any]) -> list[str]:
    """Defences whose right answers lie, with their whole interval, below those of no defence."""
    before, found = Rate.of(arms, "none", "utility"), []
    for key, name in NAMES.items():
        after = Rate.of(arms, key, "utility")
        if before.low is not None and after.high is not None and after.high < before.low:
            found.append(f"{name} on {modality}, from {percent(before.value)} to {percent(after.value)}")
    return found


def _table(modality: str, found: object) -> Markup:
    rows: list[list[object]] = []
    for key, name in NAMES.items():
        arm = mapping(found, "defences", key)
        if not arm:
            continue
        refused, useful = (short_share(Rate.of(arm, column)) for column, _ in COLUMNS)
        changes = ["", ""] if key == "none" else [points(Rate.of(arm, k)) for k in ("gain", "over_refusal")]
        kl, norm = finite(arm, "kl"), finite(arm, "edit_norm")
        price = ["" if kl is None else decimal(kl, 3), "" if norm is None else decimal(norm, 2)]
        rows.append([name, refused, *changes, useful, *price])
    harmless = (at(found, "n_benign") or 0) + (at(found, "n_near_miss") or 0)
    caption = f"{modality}: {at(found, 'n_harmful')} harmful and {harmless} harmless test items."
    return html_table(HEADS, rows, caption=caption)
