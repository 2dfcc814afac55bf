"""How much of one modality's refusal direction another keeps: its length, its orientation, and what each loses.

Harmful minus benign on the pair groups that both modalities have: `r` of the medium, `r0` of the reference (text).

    a = |r| / |r0|      c = cos(r, r0)      a c = <r, r0> / |r0|^2      the coordinate along r0 that is kept
    1 - a c  =  (1 - a)(1 + c) / 2  +  (1 - c)(1 + a) / 2               lost = by magnitude + by turning away

The two parts are the Shapley values of the changes 1 -> a and 1 -> c: each counts with the mean of what it takes
before and after the other, so that no order is preferred and the parts add up exactly. A direction that is only
shortened loses all by magnitude, one that is only turned all by turning; a medium whose direction is LONGER than text's
has a negative part. OmniSteer (arXiv 2602.10161) reports the gap as one of magnitude; the split is this project's.

All products are freed from fitting noise (`contrasts`), which would lengthen `r` and turn it. Two nulls, estimated
alike with the labels of the medium shuffled within pairs: what of the coordinate, and of the length, chance would keep.
"""

import numpy as np
import torch
from torch import Tensor

from ..contrasts import Contrast, Fitted, GroupMean, cosine, of_draws, product
from ..statistics import Estimate, resampled_groups
from .streams import Streams

KEPT = (
    "norm_ratio",
    "cosine",
    "kept",
    "lost_magnitude",
    "lost_turn",
    "magnitude_share",
    "kept_shuffled",
    "norm_shuffled",
)
"""Norm ratio a, cosine c, coordinate a c, its lost parts (in lengths of text's direction), the share of the loss that
is magnitude (where there is a loss), and the two nulls."""
ANY = (-1e9, 1e9)
SHUFFLES = 100


def direction_kept(medium: Streams, reference: Streams, seed: int) -> list[dict[str, Estimate]]:
    """The measures of `KEPT` for every layer; not measured with fewer than three common pair groups.

    Args:
        medium, reference: streams of the same split, with harmful and benign items.
        seed: of the bootstrap over pair groups and of the shuffles.
    """
    # A pair without its twin would put its content into the direction.
    full = [set(s.pairs("harmful")) & set(s.pairs("benign")) for s in (medium, reference)]
    groups = sorted(full[0] & full[1])
    layers = medium.values.shape[1]
    if len(groups) < 3:
        return [dict.fromkeys(KEPT, Estimate.missing(len(groups)))] * layers
    ours, theirs = (s.keep(frozenset(p.id for p in s.prompts if p.pair in set(groups))) for s in (medium, reference))
    r, r0 = ours.direction(groups), theirs.direction(groups)
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(resampled_groups(len(groups), rng=rng, resamples=1000))
    flips = torch.from_numpy(rng.random((SHUFFLES, len(groups))) < 0.5)
    n = len(ours.rows("harmful", "benign"))
    return [_at(layer, r, r0, weights, flips, n) for layer in range(layers)]


def _at(layer: int, r: Contrast, r0: Contrast, weights: Tensor, flips: Tensor, n: int) -> dict[str, Estimate]:
    one, two = _only(r, layer), _only(r0, layer)
    a, b = Fitted.of(one, weights, 0), Fitted.of(two, weights, 0)
    parts = [product(*pair, weights) for pair in ((a, b), (a, a), (b, b))]
    if parts[2][0] <= 0:
        return dict.fromkeys(KEPT, Estimate.missing(n))
    groups = weights.shape[1]
    found = {"cosine": cosine(a, b, weights, n)}
    values = _split(*(torch.tensor([value], dtype=torch.float64) for value, _ in parts))
    draws = _split(*(drawn for _, drawn in parts))
    for name, value in values.items():
        safe = draws[name].isfinite()
        share = float(safe.double().mean()) if bool(value.isfinite()) else 0.0
        found[name] = of_draws(float(value), draws[name][safe], share, groups, n, ANY)
    lost = of_draws(1 - float(values["kept"]), 1 - draws["kept"][draws["kept"].isfinite()], 1.0, groups, n, ANY)
    if lost.low is None or lost.low <= 0:  # a share of nothing
        found["magnitude_share"] = Estimate.missing(n)
    length = parts[2][0]
    chance = torch.tensor([_shuffled(one, b, flip) for flip in flips], dtype=torch.float64) / length
    for name, drawn in (("kept_shuffled", chance[:, 0]), ("norm_shuffled", chance[:, 1].clamp_min(0).sqrt())):
        low, high = np.quantile(drawn, [0.025, 0.975])
        found[name] = Estimate(float(drawn.mean()), float(low), float(high), n)
    return found


def _split(across: Tensor, own: Tensor, length: Tensor) -> dict[str, Tensor]:
    """From `<r, r0>`, `<r, r>` and `<r0, r0>` to the parts; NaN where noise has eaten a length."""
    kept = torch.where(length > 0, across / length, torch.nan)
    a = torch.where((own > 0) & (length > 0), own / length, torch.nan).sqrt()
    c = kept / a
    by_magnitude, by_turn = (1 - a) * (1 + c) / 2, (1 - c) * (1 + a) / 2
    return {
        "norm_ratio": a,
        "kept": kept,
        "lost_magnitude": by_magnitude,
        "lost_turn": by_turn,
        "magnitude_share": by_magnitude / (by_magnitude + by_turn),
    }


def _only(contrast: Contrast, layer: int) -> Contrast:
    """One layer of it."""
    sides = (contrast.plus, contrast.minus)
    plus, minus = (None if s is None else GroupMean(s.sums[:, layer : layer + 1], s.counts) for s in sides)
    assert plus is not None
    return Contrast(plus, minus)


def _shuffled(r: Contrast, r0: Fitted, flip: Tensor) -> tuple[float, float]:
    """`<r, r0>` and `<r, r>` once the labels of some pairs are exchanged."""
    assert r.minus is not None
    sides = []
    for here, there in ((r.plus, r.minus), (r.minus, r.plus)):
        sums = torch.where(flip[:, None, None], there.sums, here.sums)
        sides.append(GroupMean(sums, torch.where(flip, there.counts, here.counts)))
    none = torch.zeros(0, len(flip), dtype=torch.float64)
    mixed = Fitted.of(Contrast(*sides), none, 0)
    fixed = Fitted(r0.vector, r0.errors, r0.draws[:0])
    return product(mixed, fixed, none)[0], product(mixed, mixed, none)[0]
