"""What removing the safe space from a direction costs and saves: refusal and over-refusal against k and lambda.

    v(k, lambda) = v - lambda U_k U_k^T v        added at one layer, all positions; not renormalised
    refusal      share of harmful items whose next token opens a refusal (refusal score > 0)
    over_refusal the same share of safe items, minus that of the untouched model
    kl           KL(untouched || edited) of the next token on safe items, nats

Forward passes only. lambda = 0 is plain addition; a `random` row takes k random directions out instead: removing
anything lowers the strength, and that alone must not be taken for an effect of the safe space.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..contrasts import change
from ..geometry import decompose
from ..inference.arm_sets import ArmSet, score_arm_sets
from ..inference.edits import NO_EDIT, addition
from ..inference.streams import SAFE
from ..prompts import PromptSet
from ..statistics import mean_interval, rate

KS = (1, 2, 5, 10, 20, 40)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def sweep(
    model: Any,
    bases: Mapping[str, Float[Tensor, "d_model _"]],
    vector: Float[Tensor, " d_model"],
    layer: int,
    prompts: Mapping[str, PromptSet],
    refusal_ids: Int[Tensor, " r"],
    *,
    k: int = 10,
    ks: Sequence[int] = KS,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    remote: bool | str = False,
) -> dict[str, list[dict[str, Any]]]:
    """Effect of the cleaned vector in every modality.

    Args:
        model: a loaded model.
        bases: modality to its safe space at that layer.
        vector: what is added before cleaning, its strength included.
        layer: where.
        prompts: modality to its harmful and safe test items.
        refusal_ids: the model's refusal tokens.
        k: dimension at which the strengths are swept.
        ks: dimensions at strength 1; larger ones than the basis has are left out.
        strengths: lambdas at dimension k.
        seed: of the bootstrap and of the random control.
        remote: run on NDIF: one request, or several where it is too large.

    Returns:
        per modality one record per setting: `k`, `strength`, `kind` ("safe_space" or "random"), `left` (length that
        remains), and `refusal`, `over_refusal`, `kl` as `{value, low, high, n}`. Empty without harmful or safe items.
    """
    plans, sets = {}, []
    for name, basis in bases.items():
        harmful, safe = (prompts[name].filter(role=role) for role in ("harmful", SAFE))
        if len({p.pair for p in harmful}) < 2 or len({p.pair for p in safe}) < 2:
            continue
        settings = _settings(basis, k, ks, strengths)
        random = _random_basis(basis.shape[0], min(k, basis.shape[-1]), seed)
        spaces = [random if kind == "random" else basis[:, :size] for size, _, kind in settings]
        vectors = [
            decompose(vector, space, strength=strength)[1] if size else vector
            for space, (size, strength, _) in zip(spaces, settings, strict=True)
        ]
        edits = [addition({layer: v}) for v in vectors]
        plans[name] = (settings, vectors, harmful, safe)
        sets += [ArmSet(harmful, edits), ArmSet(safe, [NO_EDIT, *edits])]
    scores = iter(score_arm_sets(model, sets, refusal_ids, price=True, remote=remote))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in bases}
    for name, (settings, vectors, harmful, safe) in plans.items():
        hits, over = next(scores).score, next(scores)
        asked, kept = ([p.pair for p in part] for part in (harmful, safe))
        for arm, (size, strength, kind) in enumerate(settings):
            after, before = (over.score[row] > 0 for row in (arm + 1, 0))
            rng = [np.random.default_rng(seed) for _ in range(2)]
            found[name].append(
                {
                    "k": size,
                    "strength": strength,
                    "kind": kind,
                    "left": float(vectors[arm].norm() / vector.norm()),
                    "refusal": rate((hits[arm] > 0).double(), asked, rng=rng[0]).to_json(),
                    "over_refusal": change(after.double(), before.double(), kept, seed).to_json(),
                    "kl": mean_interval(over.kl[arm + 1], kept, rng=rng[1]).to_json(),
                }
            )
    return found


def _settings(
    basis: Float[Tensor, "d_model _"], k: int, ks: Sequence[int], strengths: Sequence[float]
) -> list[tuple[int, float, str]]:
    """Size of the space, share that is removed, and kind of every cleaned vector; the plain one first."""
    k = min(k, basis.shape[-1])
    settings = [(0, 0.0, "safe_space")]
    settings += [(size, 1.0, "safe_space") for size in sorted({*ks, k}) if size <= basis.shape[-1]]
    settings += [(k, lam, "safe_space") for lam in strengths if lam != 1.0]
    return [*settings, (k, 1.0, "random")]


def _random_basis(d: int, k: int, seed: int) -> Float[Tensor, "d k"]:
    drawn = torch.randn(d, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(drawn)[0].float()
    return basis
