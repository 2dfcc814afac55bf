"""How alike two modalities' directions are, and how well one reads the other's harm. Activations only, no intervention.

cosine            of the directions fitted on source and target, freed from fitting noise (see `contrasts`)
cosine_fitted     the plain cosine of the two fitted vectors
auroc             harmful against benign and near-miss test items of the target, along the source's direction
auroc_near_miss   against near misses only
null              AUROC of directions drawn from the target's own within-class covariance
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import Contrast, Fitted, cosine, empty, row
from ..geometry import cosine as plain_cosine
from ..inference.streams import SAFE, Streams
from ..statistics import Estimate, RandomDirectionNull, auroc_interval, random_direction_null, resampled_groups


def cosines(
    directions: Mapping[str, Contrast], sources: Sequence[str], targets: Sequence[str], layers: int, seed: int
) -> tuple[Float[Tensor, "source target layer 4"], Float[Tensor, "source target layer 4"]]:
    """Cosines freed from noise with intervals over pair groups, and the plain ones of the fitted vectors.

    Args:
        directions: modality to fitted direction, all over the same groups.
        sources, targets: which to compare; a target without a direction stays NaN.
        layers: number of layers.
        seed: of the bootstrap.
    """
    free, fitted = empty(len(sources), len(targets), layers), empty(len(sources), len(targets), layers)
    groups = next(iter(directions.values())).plus.counts.shape[0]
    weights = torch.from_numpy(resampled_groups(groups, rng=np.random.default_rng(seed), resamples=1000))
    for layer in range(layers):
        at = {name: Fitted.of(contrast, weights, layer) for name, contrast in directions.items()}
        for i, source in enumerate(sources):
            for j, target in enumerate(targets):
                if target not in at:
                    continue
                both = (directions[source], directions[target])
                n = int(sum(side.counts.sum() for c in both for side in (c.plus, c.minus) if side is not None))
                value = float(plain_cosine(at[source].vector, at[target].vector))
                fitted[i, j, layer] = torch.tensor([value, value, value, n])
                found = Estimate(1.0, 1.0, 1.0, n) if source == target else cosine(at[source], at[target], weights, n)
                free[i, j, layer] = row(found)
    return free, fitted


def aurocs(
    vectors: Float[Tensor, "source layer d_model"], test: Streams, against: Sequence[str], seed: int
) -> Float[Tensor, "source layer 4"]:
    """AUROC of the target's harmful items against others, along each source's direction of each layer."""
    harmful, others = test.of("harmful"), test.of(*against)
    found = empty(vectors.shape[0], vectors.shape[1])
    if not len(harmful) or not len(others):
        return found
    up, down = (torch.einsum("nld,sld->sln", x.double(), vectors.double()) for x in (harmful, others))
    clusters = test.pairs("harmful"), test.pairs(*against)
    for i in range(vectors.shape[0]):
        for layer in range(vectors.shape[1]):
            rng = np.random.default_rng(seed)
            value = auroc_interval(up[i, layer], down[i, layer], *clusters, rng=rng, resamples=1000)
            found[i, layer] = row(value)
    return found


def auroc_null(test: Streams, layer: int, seed: int, directions: int = 1000) -> RandomDirectionNull | None:
    """What directions without meaning reach on the target's test items; None if a class is missing."""
    harmful, others = test.of("harmful")[:, layer], test.of(*SAFE)[:, layer]
    if not len(harmful) or not len(others):
        return None
    rng = np.random.default_rng(seed)
    return random_direction_null(harmful, others, rng=rng, directions=directions, draw="within_class")


def cosine_null(
    fit: Streams, layer: int, other: Float[Tensor, " d_model"], seed: int, directions: int = 4000
) -> np.ndarray:
    """|cosine| of a direction with random ones drawn from the within-class covariance of a modality."""
    parts = [fit.of(role)[:, layer].double() for role in ("harmful", "benign")]
    rows = torch.cat([part - part.mean(0) for part in parts]).numpy()
    drawn = np.random.default_rng(seed).standard_normal((directions, len(rows))) @ rows
    away = other.double().numpy()
    found: np.ndarray = np.abs(drawn @ away) / (np.linalg.norm(drawn, axis=1) * np.linalg.norm(away))
    return found
