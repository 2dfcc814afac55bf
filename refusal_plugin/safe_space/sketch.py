"""Principal directions of any number of items from a summary of a few rows per layer: memory O(layers x r x d).

    summary of items   n, mean mu, rows R (r x d) with R^T R ~ scatter = sum (x - mu)(x - mu)^T, and its exact trace
    two summaries      stack R_1, R_2 and sqrt(n_1 n_2 / n) (mu_1 - mu_2), decompose, keep the r largest rows

What is cut off by an update is at most the energy of the rows that are dropped, and `dropped` adds it up: with items of
rank r or less nothing is dropped and the directions are the exact ones; otherwise the scatter is known to within
`dropped` in every direction (the differences of the updates are positive semi-definite and their traces add). The full
second moment (`geometry.Moments`, second="full") needs O(layers x d x d).

Source: incremental PCA with a moving mean, Ross, Lim, Lin, Yang 2008 (IJCV 77); merging of subspaces, Hall, Marshall,
Martin 2000; the bound is that of a truncated sketch, Ghashami, Liberty, Phillips, Woodruff 2016 (SIAM J. Comput. 45).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..geometry import PCA


@dataclass(frozen=True)
class Sketch:
    """Of the items so far, per layer, in float64.

    Attributes:
        n: number of items.
        mean: (layer, d_model).
        rows: (layer, r, d_model), orthogonal, by falling length; `r` never exceeds `rank`.
        scatter: (layer,), exact sum of squared distances to the mean.
        dropped: (layer,), sum of the squares of what was cut off; an upper bound of the error in any direction.
        rank: most rows that are kept.
    """

    n: int
    mean: Float[Tensor, "layer d_model"]
    rows: Float[Tensor, "layer r d_model"]
    scatter: Float[Tensor, " layer"]
    dropped: Float[Tensor, " layer"]
    rank: int

    @classmethod
    def of(cls, x: Float[Tensor, "n layer d_model"], rank: int) -> "Sketch":
        """Of one batch of items.

        Raises:
            DataError: no items, NaN or infinity, or a rank below 1.
        """
        if rank < 1 or not len(x):
            raise DataError(
                f"summarise {len(x)} activations in {rank} rows", "fewer than 1", "give at least one of each"
            )
        if not bool(torch.isfinite(x).all()):
            raise DataError("summarise activations", "NaN or infinity", "load in float32 or bfloat16")
        wide = x.double()
        mean = wide.mean(0)
        away = (wide - mean).movedim(0, 1)
        nothing = torch.zeros(len(mean), dtype=torch.float64, device=x.device)
        return cls(len(x), mean, _cut(away, rank), away.square().sum((1, 2)), nothing, rank)._with_cut(away)

    def _with_cut(self, stacked: Tensor) -> "Sketch":
        """Counts as dropped what the rows lack of what they were made of."""
        lost = stacked.square().sum((1, 2)) - self.rows.square().sum((1, 2))
        return Sketch(self.n, self.mean, self.rows, self.scatter, self.dropped + lost.clamp_min(0), self.rank)

    def merge(self, other: "Sketch") -> "Sketch":
        """Of the items of both; the smaller of the two ranks."""
        if self.mean.shape != other.mean.shape:
            raise DataError(
                "merge two summaries",
                f"shapes {tuple(self.mean.shape)} and {tuple(other.mean.shape)}",
                "summarise the same layers of one model",
            )
        n, rank = self.n + other.n, min(self.rank, other.rank)
        apart = (other.mean - self.mean) * (self.n * other.n / n) ** 0.5
        stacked = torch.cat([self.rows, other.rows, apart.unsqueeze(1)], 1)
        mean = self.mean + (other.mean - self.mean) * (other.n / n)
        scatter = self.scatter + other.scatter + apart.square().sum(-1)
        return Sketch(n, mean, _cut(stacked, rank), scatter, self.dropped + other.dropped, rank)._with_cut(stacked)

    def pca(self, k: int) -> PCA:
        """The first k principal directions, as `geometry.pca` gives them for the items themselves, in float32.

        Raises:
            DataError: more than the rank or n - 1, or items that vary in fewer directions.
        """
        if not 1 <= k <= min(self.n - 1, self.rows.shape[1]):
            raise DataError(
                f"{k} principal directions of a summary of {self.n} activations",
                f"it keeps {self.rows.shape[1]} rows",
                "pass a smaller k, more prompts or a larger rank",
            )
        _, singular, right = torch.linalg.svd(self.rows, full_matrices=False)
        values, columns = singular[:, :k].square(), right[:, :k].mT
        floor = torch.maximum(values[:, :1] * 1e-12, self.mean.square().sum(-1, keepdim=True) * 1e-24 * self.n)
        if bool((values <= floor).any()):
            raise DataError(
                f"{k} principal directions of a summary of {self.n} activations",
                f"they vary in only {int((values > floor).sum(-1).min())} directions at some layer",
                "pass a smaller k or prompts whose activations differ",
            )
        largest = columns.gather(1, columns.abs().argmax(1, keepdim=True))
        columns = columns * largest.sign()
        parts = (self.mean, columns, values / (self.n - 1), self.scatter / (self.n - 1))
        mean, basis, variance, total = (part.float() for part in parts)
        return PCA(mean=mean, basis=basis, variance=variance, total=total, n=self.n)


def _cut(stacked: Float[Tensor, "layer m d_model"], rank: int) -> Float[Tensor, "layer r d_model"]:
    """The `rank` largest orthogonal rows with (nearly) the same scatter."""
    _, singular, right = torch.linalg.svd(stacked, full_matrices=False)
    found: Tensor = singular[:, :rank].unsqueeze(-1) * right[:, :rank]
    return found
