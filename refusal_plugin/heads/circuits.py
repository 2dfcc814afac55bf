"""Do the same heads write refusal in text, image, video and speech?

Per pair of modalities, over the heads of the layers that can write the direction, by their contrast (harmful - benign):

    rank correlation    Spearman's rho
    overlap             share of the k strongest heads of one that are among the k strongest of the other
    null                the same with the heads of each layer shuffled in one modality: heads of late layers write more
                        everywhere, and shuffling within layers does not call that agreement
    p                   (1 + draws at least as large) / (1 + draws), one-sided

A head that writes in text (its interval lies above zero) but not in another modality (under a quarter of it there, and
the whole interval below text's) is SILENT there: that is where the gap comes from. What this does NOT show: a shared
head may read different things in two modalities (see `sources`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..report.shown import Shown
from ..statistics import mean_ranks, pearson, spearman
from .intervals import Intervals
from .result import HeadAttribution

SILENT = 0.25
"""Largest share of its contrast in text that a silent head keeps."""
NOTABLE = 0.05
"""Smallest contrast in text, as a share of the strongest head's, that is worth listing."""


@dataclass(frozen=True)
class Agreement:
    """Two modalities side by side.

    Attributes:
        one, other: the modalities.
        rho, rho_p: rank correlation, and its p-value under shuffling within layers.
        overlap, overlap_null, overlap_p: share of shared top heads, its mean under shuffling, and its p-value.
        k: size of the top.
    """

    one: str
    other: str
    rho: float
    rho_p: float
    overlap: float
    overlap_null: float
    overlap_p: float
    k: int


@dataclass(frozen=True)
class SilentHead:
    """A head that writes the direction in text and not in another modality."""

    layer: int
    head: int
    modality: str
    text: float
    there: float


@dataclass(frozen=True)
class CircuitComparison(Shown):
    """Heads across modalities.

    Attributes:
        agreements: every pair of modalities.
        silent: heads of text that are silent elsewhere, the largest loss first.
        contrasts: modality to contrast per (layer, head), with intervals.
    """

    agreements: tuple[Agreement, ...]
    silent: tuple[SilentHead, ...]
    contrasts: Mapping[str, Intervals]

    def between(self, one: str, other: str) -> Agreement:
        """The agreement of two modalities; raises DataError if they were not compared."""
        for found in self.agreements:
            if {found.one, found.other} == {one, other}:
                return found
        raise DataError(f"compare {one} and {other}", "no such pair", "attribute prompts of both")

    def finding(self) -> str:
        pairs = ", ".join(f"{row.one}-{row.other} {row.rho:.2f}" for row in self.agreements)
        return f"rank correlations {pairs}; {len(self.silent)} times silent"

    def caveats(self) -> Sequence[str]:
        return ("a head that is shared may read different things in two modalities: see attribute_sources.",)

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per pair of modalities."""
        return map(vars, self.agreements)

    def drawn(self) -> Sequence[str | None]:
        from ..report.figures.heads_agreement import agreement_figure

        norm = max(1e-12, *(float(x.value.clamp_min(0).sum()) for x in self.contrasts.values()))
        rows = {"overlap": [vars(row) for row in self.agreements], "silent": [vars(row) for row in self.silent]}
        return [agreement_figure({**rows, "norm": norm})]


def head_agreement(
    found: HeadAttribution, name: str | None = None, *, k: int = 5, draws: int = 2000, seed: int = 0
) -> CircuitComparison:
    """Compare the circuits of all modalities of an attribution.

    Args:
        found: from `attribute_heads`, with harmful and benign prompts of at least two modalities.
        name: of the direction.
        k: size of the top.
        draws: permutations of the null.
        seed: of bootstrap and permutations.

    Raises:
        DataError: fewer than two modalities, or k larger than the number of heads.
    """
    kinds = found.labels.kinds()
    depth = found.layers[found.direction(name)] + 1
    contrasts = {m: found.contrast(m, name, seed=seed) for m in kinds}
    cells = depth * found.heads.shape[2]
    if len(kinds) < 2 or not 1 <= k <= cells:
        raise DataError("compare circuits", f"{len(kinds)} modalities, k = {k} of {cells} heads", "give more prompts")
    agreements = []
    for place, one in enumerate(kinds):
        for other in kinds[place + 1 :]:
            pair = (contrasts[one].value[:depth], contrasts[other].value[:depth])
            agreements.append(_agreement(one, other, *pair, k, draws, seed))
    return CircuitComparison(tuple(agreements), silent_heads(contrasts, depth), contrasts)


def silent_heads(contrasts: Mapping[str, Intervals], depth: int) -> tuple[SilentHead, ...]:
    """Heads that write in text and are silent elsewhere; none if there is no text."""
    if "text" not in contrasts:
        return ()
    text, rows = contrasts["text"], []
    for modality, there in contrasts.items():
        if modality == "text":
            continue
        faint = (there.value < SILENT * text.value) & (there.high < text.low)
        worth = (text.low > 0) & (text.value >= NOTABLE * text.value.max())
        for layer, head in (worth & faint)[:depth].nonzero().tolist():
            at = (layer, head)
            rows.append(SilentHead(layer, head, modality, float(text.value[at]), float(there.value[at])))
    return tuple(sorted(rows, key=lambda row: row.there - row.text))


def _agreement(
    one: str, other: str, a: Float[Tensor, "layer head"], b: Float[Tensor, "layer head"], k: int, draws: int, seed: int
) -> Agreement:
    rng = np.random.default_rng(seed)
    first, second = a.double().numpy(), b.double().numpy()
    rho, overlap = spearman(a.flatten(), b.flatten()), _overlap(first, second, k)
    ranks = mean_ranks(first)
    null = np.empty((draws, 2))
    for draw in range(draws):
        shuffled = rng.permuted(second, axis=1)
        null[draw] = pearson(ranks, mean_ranks(shuffled)), _overlap(first, shuffled, k)
    p = (1 + (null >= np.array([rho, overlap]) - 1e-12).sum(0)) / (1 + draws)
    return Agreement(one, other, rho, float(p[0]), overlap, float(null[:, 1].mean()), float(p[1]), k)


def _overlap(a: np.ndarray, b: np.ndarray, k: int) -> float:
    tops = [set(np.argsort(-x.ravel(), kind="stable")[:k].tolist()) for x in (a, b)]
    return len(tops[0] & tops[1]) / k
