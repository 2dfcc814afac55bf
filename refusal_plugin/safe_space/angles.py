"""Do two modalities share a safe space? Principal angles, with two yardsticks: halves of one modality, and chance.

A space fitted on few items differs from itself fitted on others, so the angle between two MODALITIES means nothing
alone. Every comparison here is between halves: half the pair groups of A against the other half of B, beside half of A
against the other half of A; and against random subspaces of the same dimension.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..geometry import pca, principal_angles
from ..report.shown import Shown
from ..statistics import Estimate
from .space import overlap


@dataclass(frozen=True)
class Overlaps(Shown):
    """Agreement of safe spaces.

    Attributes:
        modalities: labels of the first two axes.
        angles: (a, b, k) principal angles in radians, rising, at the chosen layer, mean over random halvings.
        overlap: (a, b, layer, 4) mean squared cosine: value, 2.5 % and 97.5 % over random halvings (a spread, no
            confidence interval), number of halvings; the diagonal is a modality with itself.
        null_angles: (3, k) mean, 2.5 % and 97.5 % of the angles of random subspaces.
        chance: overlap of random subspaces, k / d.
        k: dimension compared.
    """

    modalities: tuple[str, ...]
    angles: Float[Tensor, "a b k"]
    overlap: Float[Tensor, "a b layer 4"]
    null_angles: Float[Tensor, "3 k"]
    chance: float
    k: int

    def estimate(self, a: str, b: str, layer: int) -> Estimate:
        """Overlap of two modalities at the layer with this number in the table."""
        value, low, high, n = self.overlap[self.modalities.index(a), self.modalities.index(b), layer].tolist()
        return Estimate(value, low, high, int(n))


def overlaps(
    rows: Mapping[str, Float[Tensor, "n layer d_model"]],
    pairs: Mapping[str, Sequence[str]],
    layer: int,
    *,
    k: int,
    halvings: int = 10,
    seed: int = 0,
) -> Overlaps:
    """Compare the safe spaces of modalities, half against half.

    Args:
        rows: modality to safe activations.
        pairs: modality to the pair group of each row; a group lies in one half in every modality.
        layer: number in the table at which angles are kept.
        k: dimension; cut to what the smallest half allows.
        halvings: random halvings of the pair groups.
        seed: of the halvings and of the random subspaces.

    Raises:
        DataError: fewer than 4 items of some modality.
    """
    names, rng = tuple(rows), np.random.default_rng(seed)
    smallest = min(len(x) for x in rows.values())
    if smallest < 4:
        raise DataError("compare safe spaces", f"{smallest} safe items of some modality", "pass at least 4")
    groups = sorted({pair for found in pairs.values() for pair in found})
    layers, d = next(iter(rows.values())).shape[1:]
    k = max(1, min(k, smallest // 2 - 1, d))
    seen = torch.zeros(halvings, len(names), len(names), layers, dtype=torch.float64)
    angles = torch.zeros(len(names), len(names), k, dtype=torch.float64)
    for h in range(halvings):
        left = {groups[g] for g in rng.permutation(len(groups))[: len(groups) // 2]}
        halves = []
        for name in names:
            mask = torch.tensor([pair in left for pair in pairs[name]])
            halves.append((_basis(rows[name][mask], k), _basis(rows[name][~mask], k)))
        for a in range(len(names)):
            for b in range(len(names)):
                first, second = halves[a][0], halves[b][1]
                m = min(first.shape[-1], second.shape[-1])
                seen[h, a, b] = overlap(first[..., :m], second[..., :m])
                found = principal_angles(first[layer, :, :m].double(), second[layer, :, :m].double())
                padded = torch.cat([found, torch.full((k - m,), torch.pi / 2, dtype=torch.float64)])
                angles[a, b] += padded / halvings
    both = 0.5 * (seen + seen.transpose(1, 2))  # halves of a against b, and of b against a
    low, high = torch.quantile(both, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    table = torch.stack([both.mean(0), low, high, torch.full_like(low, halvings)], dim=-1)
    null = random_angles(d, k, seed)
    return Overlaps(names, 0.5 * (angles + angles.transpose(0, 1)), table, null, k / d, k)


def random_angles(d: int, k: int, seed: int = 0, draws: int = 200) -> Float[Tensor, "3 k"]:
    """Mean, 2.5 % and 97.5 % of the principal angles of two random k-dimensional subspaces of d dimensions."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack(
        [
            principal_angles(
                *(torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64))[0] for _ in range(2))
            )
            for _ in range(draws)
        ]
    )
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return torch.stack([drawn.mean(0), low, high])


def _basis(x: Float[Tensor, "n layer d"], k: int) -> Float[Tensor, "layer d m"]:
    if len(x) < 2:
        raise DataError("compare safe spaces", f"a half of {len(x)} items", "pass more pair groups")
    return pca(x, min(k, len(x) - 1)).basis
