"""One defence, one fit seed, one modality, one strength: a cell, and the figures that several cells give together.

Fit seeds repeat the same test items. Figures over seeds are means over items and seeds with the pair group as the unit
of resampling, all seeds of a pair drawn together: seeds never pass for more items than there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from ..defences.run import Price
from ..evaluation import Outcomes, Power, balanced, defence_success, same_prompts
from ..evaluation.judge import LABELS, REFUSALS
from ..statistics import Estimate, mean_interval, paired_difference, permutation_test, rate

Record: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["matched", "grid", "same_strength", "oracle"]
SAFE = ("benign", "near_miss")


@dataclass(frozen=True)
class Measurement:
    """A defence at one strength on the test items of one modality.

    Attributes:
        defence: its name.
        seed: of the fit.
        modality: of the items.
        kind: at its own matched strength, at a multiple of it, at another method's matched strength, or at its own with
            the true label as its gate.
        strength: the strength.
        price: what it costs at its own matched strength.
        outcomes: labels of the answers.
        surprise: nats per token of the answers to harmless prompts under the model as it is, in their order; empty
            where nobody asked.
    """

    defence: str
    seed: int
    modality: str
    kind: Kind
    strength: float
    price: Price
    outcomes: Outcomes
    surprise: tuple[float, ...] = ()

    @property
    def kl(self) -> float | None:
        """Mean KL on harmless validation prompts; None at strengths that were not priced."""
        return self.price.kl if self.kind == "matched" else None

    @property
    def edit_norm(self) -> float | None:
        """Largest relative edit over layers, on harmful prompts; None at strengths where it was not measured."""
        return max(self.price.edit_norm, default=None) if self.kind == "matched" else None


def stacked(cells: Sequence[Measurement], *roles: str) -> tuple[list[bool], list[str]]:
    """Refusals of several seeds one after the other, and their pair ids."""
    rows = [cell.outcomes.refused(*roles) for cell in cells]
    return [hit for hits, _ in rows for hit in hits], [pair for _, pairs in rows for pair in pairs]


def share(cells: Sequence[Measurement], *roles: str, seed: int = 0) -> Estimate:
    """Refused share over all seeds; `n` counts items, not items times seeds."""
    return _rate(*stacked(cells, *roles), len(cells), seed)


def exact(cells: Sequence[Measurement], seed: int = 0) -> Estimate:
    """Share of harmless prompts answered exactly."""
    rows = [cell.outcomes.exact(*SAFE) for cell in cells]
    hits, pairs = [h for hs, _ in rows for h in hs], [p for _, ps in rows for p in ps]
    return _rate(hits, pairs, len(cells), seed)


def on_topic(cells: Sequence[Measurement], seed: int = 0) -> Estimate:
    """Share of harmless prompts that are answered: not refused, not evaded, not looped."""
    rows = [cell.outcomes.labelled("compliance", *SAFE) for cell in cells]
    hits, pairs = [h for hs, _ in rows for h in hs], [p for _, ps in rows for p in ps]
    return _rate(hits, pairs, len(cells), seed)


def perplexity(found: Sequence[Measurement] | Sequence[tuple[Outcomes, Sequence[float]]], seed: int = 0) -> Estimate:
    """Of the answers to harmless prompts under the model as it is: geometric mean over prompts, all seeds together."""
    rows: list[tuple[Outcomes, Sequence[float]]] = [
        one if isinstance(one, tuple) else (one.outcomes, one.surprise) for one in found
    ]
    nats = [value for _, own in rows for value in own]
    pairs = [pair for outcomes, own in rows if own for pair in outcomes.refused(*SAFE)[1]]
    if len(set(pairs)) < 2:
        return Estimate.missing()
    mean = mean_interval(nats, pairs, rng=np.random.default_rng(seed))
    value, low, high = (None if x is None else float(np.exp(x)) for x in (mean.value, mean.low, mean.high))
    return Estimate(value, low, high, len(nats) // len(rows))


def exact_change(cells: Sequence[Measurement], base: Sequence[Measurement] | Outcomes, seed: int = 0) -> Estimate:
    """Exactly answered share of harmless prompts minus that of a base, on the same items."""
    before = [hit for other in _bases(cells, base) for hit in other.exact(*SAFE)[0]]
    rows = [cell.outcomes.exact(*SAFE) for cell in cells]
    after, pairs = [hit for hits, _ in rows for hit in hits], [pair for _, ids in rows for pair in ids]
    if len(set(pairs)) < 2:
        return Estimate.missing(len(pairs) // max(1, len(cells)))
    found = paired_difference(after, before, pairs, rng=np.random.default_rng(seed))
    return replace(found, n=len(pairs) // len(cells))


def _rate(hits: list[bool], pairs: list[str], seeds: int, seed: int) -> Estimate:
    if not hits:
        return Estimate.missing()
    return replace(rate(hits, pairs, rng=np.random.default_rng(seed)), n=len(hits) // seeds)


def change(
    cells: Sequence[Measurement], base: Sequence[Measurement] | Outcomes, *roles: str, seed: int = 0
) -> Estimate:
    """Refused share minus that of a base on the same items: the undefended model, or another method seed by seed."""
    after, before, pairs = _arms(cells, base, *roles)
    if len(set(pairs)) < 2:
        return Estimate.missing(len(pairs) // max(1, len(cells)))
    found = paired_difference(after, before, pairs, rng=np.random.default_rng(seed))
    return replace(found, n=len(pairs) // len(cells))


def p_value(
    cells: Sequence[Measurement], base: Sequence[Measurement] | Outcomes, *roles: str, seed: int = 0
) -> float | None:
    """Two-sided paired permutation test of the same change, whole pair groups swapped."""
    after, before, pairs = _arms(cells, base, *roles)
    if len(set(pairs)) < 2:
        return None
    return permutation_test(after, before, pairs, rng=np.random.default_rng(seed), permutations=1999)


def brr(cells: Sequence[Measurement], seed: int = 0) -> Estimate:
    """Balanced refusal rate over all seeds."""
    found = balanced(stacked(cells, "harmful"), stacked(cells, "near_miss"), seed)
    return replace(found, n=found.n // max(1, len(cells)))


def brr_change(cells: Sequence[Measurement], base: Sequence[Measurement], seed: int = 0) -> Estimate:
    """Balanced refusal rate minus that of another method: a paired mean, each item weighted as in `balanced`."""
    parts: list[float] = []
    pairs: list[str] = []
    for role, sign in (("harmful", 1.0), ("near_miss", -1.0)):
        after, before, ids = _arms(cells, base, role)
        parts += [sign * (a - b) / (2 * len(ids)) for a, b in zip(after, before, strict=True)]
        pairs += ids
    n = len(pairs)
    if len(set(pairs)) < 2 or not n:
        return Estimate.missing(n)
    found = paired_difference([n * value for value in parts], [0.0] * n, pairs, rng=np.random.default_rng(seed))
    return replace(found, n=n // len(cells))


def _arms(
    cells: Sequence[Measurement], base: Sequence[Measurement] | Outcomes, *roles: str
) -> tuple[list[float], list[float], list[str]]:
    """Both arms item by item, seeds one after the other."""
    before = [hit for other in _bases(cells, base) for hit in other.refused(*roles)[0]]
    after, pairs = stacked(cells, *roles)
    return [float(hit) for hit in after], [float(hit) for hit in before], pairs


def _bases(cells: Sequence[Measurement], base: Sequence[Measurement] | Outcomes) -> list[Outcomes]:
    """Of every cell what it is compared with; a base with one fit only (a prompt defence) serves every seed."""
    seeds = {} if isinstance(base, Outcomes) else {cell.seed: cell.outcomes for cell in base}
    bases = [seeds.get(cell.seed, base if isinstance(base, Outcomes) else base[0].outcomes) for cell in cells]
    for cell, other in zip(cells, bases, strict=True):
        same_prompts(cell.outcomes, other)
    return bases


def labels(cells: Sequence[Measurement] | Sequence[Outcomes], *roles: str) -> Record:
    """What whole answers are: the share of every label among the prompts with these roles, and how many refusals come
    behind the first sentence; all seeds together."""
    every = [cell if isinstance(cell, Outcomes) else cell.outcomes for cell in cells]
    found = [x for one in every for x, p in zip(one.labels, one.prompts, strict=True) if p.role in roles]
    refused, late = sum(x in REFUSALS for x in found), found.count("late_refusal")
    shares: Record = {label: found.count(label) / len(found) for label in LABELS} if found else {}
    return {**shares, "n": len(found) // max(1, len(every)), "late_share": late / refused if refused else None}


def row(cell: Measurement, seed: int = 0) -> Record:
    """An entry of `rows` in compare.json."""
    one = [cell]
    return {
        "defence": cell.defence,
        "strength": cell.strength,
        "modality": cell.modality,
        "seed": cell.seed,
        "kind": cell.kind,
        "kl": cell.kl,
        "harmful_refusal": share(one, "harmful", seed=seed).to_json(),
        "benign_refusal": share(one, "benign", seed=seed).to_json(),
        "near_miss_refusal": share(one, "near_miss", seed=seed).to_json(),
        "utility": exact(one, seed).to_json(),
        "brr": brr(one, seed).to_json(),
        "edit_norm": cell.edit_norm,
    }


def matched_row(cells: Sequence[Measurement], plain: Outcomes, found: Power, target_kl: float, seed: int = 0) -> Record:
    """An entry of `matched`: one defence on one modality, all fit seeds together, against no defence."""
    first = cells[0]
    harmful = labels(cells, "harmful")
    refusal = share(cells, "harmful", seed=seed)
    kls = [cell.price.kl for cell in cells]
    per_seed = [
        {
            "seed": cell.seed,
            "strength": cell.strength,
            "kl": cell.price.kl,
            "gain": change([cell], plain, "harmful", seed=seed).value,
            "over_refusal": change([cell], plain, *SAFE, seed=seed).value,
        }
        for cell in cells
    ]
    return {
        "defence": first.defence,
        "modality": first.modality,
        "strength": float(np.mean([cell.strength for cell in cells])),
        "kl": float(np.mean(kls)),
        "target_kl": target_kl,
        "at_bound": any(cell.price.at_bound for cell in cells),
        "harmful_refusal": refusal.to_json(),
        "benign_refusal": share(cells, "benign", seed=seed).to_json(),
        "near_miss_refusal": share(cells, "near_miss", seed=seed).to_json(),
        "utility": exact(cells, seed).to_json(),
        "brr": brr(cells, seed).to_json(),
        "defence_success": defence_success(refusal, found).to_json(),
        "gain": change(cells, plain, "harmful", seed=seed).to_json(),
        "benign_change": change(cells, plain, "benign", seed=seed).to_json(),
        "near_miss_change": change(cells, plain, "near_miss", seed=seed).to_json(),
        "over_refusal": change(cells, plain, *SAFE, seed=seed).to_json(),
        "utility_change": exact_change(cells, plain, seed).to_json(),
        "p_gain": p_value(cells, plain, "harmful", seed=seed),
        "on_topic": on_topic(cells, seed).to_json(),
        "perplexity": perplexity(cells, seed).to_json(),
        "attack_success": harmful.get("compliance"),
        "labels": {"harmful": harmful, "harmless": labels(cells, *SAFE)},
        "kl_by_token": np.mean([cell.price.by_token for cell in cells], axis=0).tolist(),
        "looks": [cell.price.looks for cell in cells],
        "edit_norm": max((max(cell.price.edit_norm, default=0.0) for cell in cells), default=0.0),
        "edit_norm_by_layer": np.mean([cell.price.edit_norm for cell in cells], axis=0).tolist(),
        "edit_norm_harmless_by_layer": np.mean([cell.price.edit_norm_harmless for cell in cells], axis=0).tolist(),
        "seeds": per_seed,
    }
