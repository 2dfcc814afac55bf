"""Mean vectors whose items come in pair groups: their noise, and products of two of them freed from it.

    a = a0 + sum over groups g of e_g            a fitted mean (or a difference of means) and its error by group
    <a, b> - sum_g <e^a_g, e^b_g>                estimates <a0, b0>; the plain product has E <a, a> = |a0|^2 + noise
    cos0 = <a, b>_free / sqrt(<a, a>_free <b, b>_free)

The error of a mean m of N items by group is `e_g = (sum of the group's items - n_g m) / N` (cluster-robust; the factor
`sqrt(G / (G - 1))` makes the estimate unbiased for equal groups). Two directions that share pair groups share noise,
which is why the groups are kept. In the bootstrap a group drawn w times has error `w e_g`, so `w^2` weighs the
subtracted products (the bootstrap of the U-statistic over different groups).

Without this, the cosine of two directions fitted on few prompts is too small, and any share of a squared norm is drawn
towards what noise looks like.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DataError
from .statistics import Estimate, paired_difference, percentile_interval

LOST = 0.05
"""Share of the resamples in which a squared length may vanish in noise before the figure counts as not measurable."""


@dataclass(frozen=True)
class GroupMean:
    """The mean of vectors that come in pair groups.

    Attributes:
        sums: (group, layer, d_model) float64, sum over each group's items; zero for a group without any.
        counts: (group,) items per group.
    """

    sums: Float[Tensor, "group layer d_model"]
    counts: Float[Tensor, " group"]

    @classmethod
    def of(
        cls, rows: Float[Tensor, "n layer d_model"], pairs: Sequence[Hashable], groups: Sequence[Hashable]
    ) -> "GroupMean":
        """Sum rows by group.

        Args:
            rows: activations.
            pairs: the pair group of each row.
            groups: all groups, in the order of the result (others may be among them).

        Raises:
            DataError: no rows, NaN, or as many pairs as rows are needed.
        """
        if not len(rows) or len(rows) != len(pairs):
            raise DataError("mean over pair groups", f"{len(rows)} rows and {len(pairs)} pair ids", "give one per row")
        if not bool(torch.isfinite(rows).all()):
            raise DataError("mean over pair groups", "NaN or infinity", "check the model's dtype")
        place = {group: k for k, group in enumerate(groups)}
        index = torch.tensor([place[pair] for pair in pairs])
        sums = torch.zeros(len(groups), *rows.shape[1:], dtype=torch.float64).index_add_(0, index, rows.double())
        return cls(sums, torch.bincount(index, minlength=len(groups)).double())

    @property
    def mean(self) -> Float[Tensor, "layer d_model"]:
        """Over all items."""
        found: Tensor = self.sums.sum(0) / self.counts.sum()
        return found

    @property
    def errors(self) -> Float[Tensor, "group layer d_model"]:
        """What each group contributes to the error of the mean."""
        used = int((self.counts > 0).sum())
        factor = (used / max(used - 1, 1)) ** 0.5
        found: Tensor = factor * (self.sums - self.counts[:, None, None] * self.mean) / self.counts.sum()
        return found

    def resampled(self, weights: Float[Tensor, "draw group"], layer: int) -> Float[Tensor, "draw d_model"]:
        """The mean of each bootstrap resample at one layer; NaN where a resample holds no item."""
        found: Tensor = (weights @ self.sums[:, layer]) / (weights @ self.counts)[:, None]
        return found


@dataclass(frozen=True)
class Contrast:
    """A difference of two group means (a direction), or one mean alone (a shift of paired items).

    Attributes:
        plus, minus: the means; `minus=None` stands for zero.
    """

    plus: GroupMean
    minus: GroupMean | None = None

    @property
    def vector(self) -> Float[Tensor, "layer d_model"]:
        """The fitted vector."""
        return self.plus.mean if self.minus is None else self.plus.mean - self.minus.mean

    @property
    def errors(self) -> Float[Tensor, "group layer d_model"]:
        """What each group contributes to its error."""
        return self.plus.errors if self.minus is None else self.plus.errors - self.minus.errors

    def resampled(self, weights: Float[Tensor, "draw group"], layer: int) -> Float[Tensor, "draw d_model"]:
        """The vector of each bootstrap resample at one layer."""
        found = self.plus.resampled(weights, layer)
        return found if self.minus is None else found - self.minus.resampled(weights, layer)


@dataclass(frozen=True)
class Fitted:
    """A contrast at one layer with its resamples: what the products below are made of.

    Attributes:
        vector: (d,) as fitted.
        errors: (group, d).
        draws: (draw, d) bootstrap resamples.
    """

    vector: Float[Tensor, " d"]
    errors: Float[Tensor, "group d"]
    draws: Float[Tensor, "draw d"]

    @classmethod
    def of(cls, contrast: Contrast, weights: Float[Tensor, "draw group"], layer: int) -> "Fitted":
        """Of one layer."""
        return cls(contrast.vector[layer], contrast.errors[:, layer], contrast.resampled(weights, layer))

    def through(self, basis: Float[Tensor, "d k"]) -> "Fitted":
        """Its coordinates in a fixed orthonormal basis (columns)."""
        wide = basis.double()
        return Fitted(self.vector @ wide, self.errors @ wide, self.draws @ wide)


def product(a: Fitted, b: Fitted, weights: Float[Tensor, "draw group"]) -> tuple[float, Float[Tensor, " draw"]]:
    """`<a0, b0>` freed from noise, and its bootstrap resamples."""
    noise = (a.errors * b.errors).sum(-1)
    value = float(a.vector @ b.vector - noise.sum())
    return value, (a.draws * b.draws).sum(-1) - weights.square() @ noise


def cosine(a: Fitted, b: Fitted, weights: Float[Tensor, "draw group"], n: int) -> Estimate:
    """Cosine of the directions themselves, freed from the noise of fitting them; not measurable where noise is all.

    Args:
        a, b: the same vector fitted on two modalities, groups in the same order.
        weights: how often each group is drawn in each resample.
        n: items behind it, for the record.
    """
    top, tops = product(a, b, weights)
    left, lefts = product(a, a, weights)
    right, rights = product(b, b, weights)
    if left <= 0 or right <= 0:
        return Estimate.missing(n)
    safe = (lefts > 0) & (rights > 0) & tops.isfinite()
    drawn = (tops / (lefts.clamp_min(1e-300) * rights.clamp_min(1e-300)).sqrt())[safe]
    return of_draws(top / (left * right) ** 0.5, drawn, float(safe.double().mean()), weights.shape[1], n, (-1.0, 1.0))


def ratio(
    top: tuple[float, Float[Tensor, " draw"]],
    bottom: tuple[float, Float[Tensor, " draw"]],
    groups: int,
    n: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """A share of a squared length, both freed from noise, cut to its bounds; not measurable where noise is all."""
    if bottom[0] <= 0:
        return Estimate.missing(n)
    safe = (bottom[1] > 0) & top[1].isfinite()
    drawn = (top[1] / bottom[1].clamp_min(1e-300))[safe]
    return of_draws(top[0] / bottom[0], drawn, float(safe.double().mean()), groups, n, bounds)


def of_draws(value: float, drawn: Tensor, kept: float, groups: int, n: int, bounds: tuple[float, float]) -> Estimate:
    """A figure with the interval of its resamples; not measurable where too few of them are left.

    Args:
        value: of the whole set.
        drawn: (draw,) of the resamples that could be measured.
        kept: share of the resamples that these are.
        groups: pair groups behind them.
        n: items, for the record.
        bounds: what the figure is cut to.
    """
    if kept < 1 - LOST:
        return Estimate.missing(n)
    low, high = percentile_interval(np.asarray(drawn), groups)
    cut = [min(bounds[1], max(bounds[0], v)) for v in (value, low, high)]
    # Skewed resamples of a figure at its bound can leave it just outside their own interval.
    return Estimate(cut[0], min(cut[1], cut[0]), max(cut[2], cut[0]), n)


# -- tables of estimates: the last axis is (value, low, high, n) -------------------------------------------------------


def empty(*shape: int) -> Float[Tensor, "..."]:
    """A table of estimates with nothing measured yet: NaN values, last axis (value, low, high, n)."""
    found = torch.full((*shape, 4), float("nan"), dtype=torch.float64)
    found[..., 3] = 0
    return found


def row(estimate: Estimate) -> Float[Tensor, "4"]:
    """(value, low, high, n) of an estimate; NaN for what was not measured."""
    known = [float("nan") if v is None else v for v in (estimate.value, estimate.low, estimate.high)]
    return torch.tensor([*known, float(estimate.n)], dtype=torch.float64)


def estimate(found: Float[Tensor, "4"]) -> Estimate:
    """Back from a row of a table."""
    value, low, high, n = found.tolist()
    return Estimate.missing(int(n)) if value != value else Estimate(value, low, high, int(n))


def change(
    after: Sequence[float] | Tensor, before: Sequence[float] | Tensor, pairs: Sequence[Hashable], seed: int
) -> Estimate:
    """Mean paired change with an interval over pair groups; not measurable with fewer than two groups."""
    if len(set(pairs)) < 2:
        return Estimate.missing(len(pairs))
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (after, before))
    return paired_difference(a, b, pairs, rng=np.random.default_rng(seed))
