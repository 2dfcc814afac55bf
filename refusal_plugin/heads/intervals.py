"""Intervals of many cells at once: group means, their difference and paired means, whole pair groups drawn together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..report.shown import Shown
from ..statistics import RESAMPLES, group_numbers, percentile_interval, resampled_groups


@dataclass(frozen=True)
class Intervals(Shown):
    """A value with its 95 % interval for every cell; NaN ends where there are too few pair groups.

    Attributes:
        value, low, high: (*cells).
        n: prompts behind it.
    """

    value: Float[Tensor, "*cells"]
    low: Float[Tensor, "*cells"]
    high: Float[Tensor, "*cells"]
    n: int

    def records(self) -> list[dict[str, float]]:
        """A row of cells as JSON keeps rates, one record a cell."""
        cells = zip(self.value.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        return [{"value": value, "low": low, "high": high, "n": self.n} for value, low, high in cells]

    def drawn(self) -> Sequence[str]:
        return ()  # whatever it is a part of draws it


def mean_intervals(x: Float[Tensor, "prompt *cells"], pairs: Sequence[str], *, seed: int = 0) -> Intervals:
    """Means over prompts with bootstrap intervals over pair groups."""
    return difference_intervals(x, pairs, None, None, seed=seed)


def difference_intervals(
    a: Float[Tensor, "n *cells"],
    a_pairs: Sequence[str],
    b: Float[Tensor, "m *cells"] | None,
    b_pairs: Sequence[str] | None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Intervals:
    """`mean(a) - mean(b)` over different prompts; a pair group that is in both is drawn for both.

    Args:
        a, b: one row per prompt; without `b` the mean of `a`.
        a_pairs, b_pairs: pair group of each row.
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.
    """
    cells = a.shape[1:]
    sides = [a] if b is None else [a, b]
    n = sum(len(side) for side in sides)
    rows = [side.double().reshape(len(side), -1).numpy() for side in sides]
    ids = group_numbers([*a_pairs, *(b_pairs or ())], n)
    groups = int(ids.max()) + 1
    value = rows[0].mean(0) - (rows[1].mean(0) if b is not None else 0.0)
    low = high = np.full_like(value, np.nan)
    if groups > 1:
        draws = resampled_groups(groups, rng=np.random.default_rng(seed), resamples=resamples)
        drawn = []
        for side, own in zip(rows, (ids[: len(a)], ids[len(a) :]), strict=False):
            sums = np.zeros((groups, side.shape[1]))
            np.add.at(sums, own, side)
            count = draws @ np.bincount(own, minlength=groups).astype(np.float64)
            with np.errstate(invalid="ignore"):
                drawn.append((draws @ sums) / count[:, None])
        spread = drawn[0] if b is None else drawn[0] - drawn[1]
        spread = spread[np.isfinite(spread).all(1)]  # a resample without one of the roles says nothing
        if len(spread):
            ends = [percentile_interval(column, groups) for column in spread.T]
            low, high = (np.array([end[side] for end in ends]) for side in (0, 1))
    shaped = [torch.from_numpy(np.array(x, dtype=np.float64)).float().reshape(cells) for x in (value, low, high)]
    return Intervals(shaped[0], shaped[1], shaped[2], n)
