"""What removing the safe space from a direction costs and saves: refusal and over-refusal against k and lambda.

    v(k, lambda) = v - lambda U_k U_k^T v        added at one layer, all positions; not renormalised
    refusal      share of harmful items whose next token opens a refusal (refusal score > 0)
    over_refusal the same share of safe items, minus that of the untouched model
    kl           KL(untouched || edited) of the next token on safe items, nats

Forward passes only. lambda = 0 is plain addition; a `random` row takes k random directions out instead: removing
anything lowers the dose, and that alone must not be taken for an effect of the safe space.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..geometry import decompose
from ..inference.scores import Encoded, refusal_scores
from ..prompts import PromptSet
from ..statistics import Estimate, mean_interval, paired_difference, rate
from ..transfer.arms import added, arm_scores, repeated
from .space import SAFE

KS = (1, 2, 5, 10, 20, 40)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def sweep(
    model: Any,
    basis: Float[Tensor, "d_model k"],
    vector: Float[Tensor, " d_model"],
    layer: int,
    prompts: PromptSet,
    refusal_ids: Int[Tensor, " r"],
    *,
    k: int = 10,
    ks: Sequence[int] = KS,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Effect of the cleaned vector in one modality.

    Args:
        model: a loaded model.
        basis: the safe space of that modality at that layer.
        vector: what is added before cleaning, its strength included.
        layer: where.
        prompts: harmful and safe test items of the modality.
        refusal_ids: the model's refusal tokens.
        k: dimension at which the strengths are swept.
        ks: dimensions at strength 1; larger ones than the basis has are left out.
        strengths: lambdas at dimension k.
        seed: of the bootstrap and of the random control.

    Returns:
        one record per setting: `k`, `strength`, `kind` ("safe_space" or "random"), `left` (length that remains), and
        `refusal`, `over_refusal`, `kl` as `{value, low, high, n}`. Empty without harmful or safe items.
    """
    harmful, safe = prompts.filter(role="harmful"), prompts.filter(role=SAFE)
    if len({p.pair for p in harmful}) < 2 or len({p.pair for p in safe}) < 2:
        return []
    plain = refusal_scores(model, Encoded.of(model, safe), refusal_ids, keep_logits=True)
    k = min(k, basis.shape[-1])
    settings = [(0, 0.0, "safe_space")]
    settings += [(size, 1.0, "safe_space") for size in sorted({*ks, k}) if size <= basis.shape[-1]]
    settings += [(k, lam, "safe_space") for lam in strengths if lam != 1.0]
    settings += [(k, 1.0, "random")]
    generator = torch.Generator().manual_seed(seed)
    random = torch.linalg.qr(torch.randn(basis.shape[0], k, generator=generator, dtype=torch.float64))[0].float()

    def cleaned(size: int, strength: float, kind: str) -> Tensor:
        space = random if kind == "random" else basis[:, :size]
        return decompose(vector, space, strength=strength)[1] if size else vector

    vectors = torch.stack([cleaned(*setting) for setting in settings])
    edit_of = added(vectors, layer)
    asked = Encoded.of(model, repeated(harmful, len(settings)))
    kept = Encoded.of(model, repeated(safe, len(settings)))
    hits, _ = arm_scores(model, asked, len(harmful), refusal_ids, edit_of)
    over, kl = arm_scores(model, kept, len(safe), refusal_ids, edit_of, plain.logits)
    return [
        {
            "k": size,
            "strength": strength,
            "kind": kind,
            "left": float(vectors[arm].norm() / vector.norm()),
            "refusal": _rate(hits[arm] > 0, harmful, seed).to_json(),
            "over_refusal": _change(over[arm] > 0, plain.score > 0, safe, seed).to_json(),
            "kl": _mean(kl[arm], safe, seed).to_json(),
        }
        for arm, (size, strength, kind) in enumerate(settings)
    ]


def _rate(hits: Tensor, prompts: PromptSet, seed: int) -> Estimate:
    return rate(hits.double(), [p.pair for p in prompts], rng=np.random.default_rng(seed))


def _change(after: Tensor, before: Tensor, prompts: PromptSet, seed: int) -> Estimate:
    pairs = [p.pair for p in prompts]
    return paired_difference(after.double(), before.double(), pairs, rng=np.random.default_rng(seed))


def _mean(values: Tensor, prompts: PromptSet, seed: int) -> Estimate:
    return mean_interval(values, [p.pair for p in prompts], rng=np.random.default_rng(seed))
