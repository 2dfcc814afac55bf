"""The strength of an edit from what it costs on harmless prompts, never from what it gains on harmful ones.

    c* = the largest strength at which the mean over prompts of KL(untouched || edited) of the next token stays <=
    target_kl,
         in every modality of the prompts

Found by bisection; the cost is taken to grow with the strength. Methods are then compared at equal cost, not at
equal alpha.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .edits import Edit
from .errors import PromptError
from .prompts import PromptSet
from .scores import Encoded, score

STEPS = 7
"""Halvings of the interval: 1/128 of it."""


@dataclass(frozen=True)
class Calibration:
    """A strength and what it costs.

    Attributes:
        strength: the calibrated one; the upper bound if even that costs less than the target.
        kl: modality to mean KL at that strength, nats per prompt.
        n: modality to number of prompts.
        target_kl: what was asked for.
    """

    strength: float
    kl: dict[str, float]
    n: dict[str, int]
    target_kl: float


def calibrate(
    model: Any,
    edit_at: Callable[[float], Edit],
    prompts: PromptSet,
    refusal_ids: Int[Tensor, " k"],
    *,
    target_kl: float = 0.1,
    bounds: tuple[float, float] = (0.0, 2.0),
) -> Calibration:
    """The largest strength whose cost stays within `target_kl` in every modality.

    Args:
        model: a loaded model.
        edit_at: the edit at a strength, e.g. `direction.edit`.
        prompts: harmless prompts (benign, near miss) of a split that is not the test split; any modalities.
        refusal_ids: see `refusal_tokens`.
        target_kl: nats per prompt.
        bounds: strengths between which is searched.

    Raises:
        PromptError: no prompts, or harmful ones among them.
    """
    if not len(prompts):
        raise PromptError("calibrate a strength", "0 prompts", "give harmless ones")
    if any(p.role == "harmful" for p in prompts):
        raise PromptError(
            "calibrate a strength", "some prompts are harmful", "use harmless ones: strength is priced, not tuned"
        )
    parts = {m: Encoded.of(model, prompts.filter(modality=m)) for m in sorted({p.modality for p in prompts})}
    plain = {m: _logits(model, part, refusal_ids) for m, part in parts.items()}

    def cost(strength: float) -> dict[str, float]:
        edit = edit_at(strength)
        return {
            m: float(score(model, part, refusal_ids, edit, reference=plain[m]).kl.mean()) for m, part in parts.items()
        }

    strength, kl = largest_within(cost, target_kl, bounds)
    return Calibration(strength, kl, {m: len(part.prompts) for m, part in parts.items()}, target_kl)


def largest_within(
    cost: Callable[[float], dict[str, float]], target: float, bounds: tuple[float, float]
) -> tuple[float, dict[str, float]]:
    """The largest strength none of whose costs exceeds the target, and its costs, by bisection.

    Args:
        cost: named costs of a strength, each growing with it.
        target: largest allowed cost.
        bounds: strengths between which is searched; the lower one is taken to be free.
    """
    low, high = bounds
    found = cost(high)
    if max(found.values()) <= target:
        return high, found
    kept = cost(low)
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = cost(middle)
        if max(found.values()) <= target:
            low, kept = middle, found
        else:
            high = middle
    return low, kept


def _logits(model: Any, part: Encoded, refusal_ids: Tensor) -> Float[Tensor, "prompt vocab"]:
    found = score(model, part, refusal_ids, keep_logits=True).logits
    assert found is not None
    return torch.as_tensor(found)
