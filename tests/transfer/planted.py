"""Activation sets whose truth is known: a shared direction at a known angle, a known shift, a known spread."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from refusal_plugin.inference.streams import Streams
from refusal_plugin.prompts import Prompt, PromptSet

D = 24


def axis(k: int, d: int = D) -> Float[Tensor, " d"]:
    """Unit vector along one coordinate."""
    return torch.eye(d, dtype=torch.float64)[k]


@lru_cache(maxsize=64)
def prompts(modality: str, split: str, groups: int) -> PromptSet:
    """One harmful, one benign and one near-miss prompt per pair group; media as empty pixels."""
    media = {} if modality == "text" else {modality: np.zeros((2, 2, 3), "uint8")}
    return PromptSet(
        Prompt(
            "x",
            role=role,
            pair=f"{split}{g:03d}",
            split=split,
            id=f"{split}/{modality}/{role}/{g}",
            **media,  # type: ignore[arg-type]
        )
        for g in range(groups)
        for role in ("harmful", "benign", "near_miss")
    )


def streams(
    modality: str,
    split: str,
    groups: int,
    *,
    direction: Float[Tensor, " d"],
    shift: Float[Tensor, " d"] | None = None,
    noise: float = 1.0,
    content: float = 1.0,
    seed: int,
    content_seed: int = 0,
) -> Streams:
    """Harmful items lie one `direction` from the safe ones; items of a pair share content, also across modalities.

    Args:
        direction: (d,) population difference in means.
        shift: (d,) added to every item of the modality.
        noise: standard deviation of an item's own noise, per coordinate.
        content: standard deviation of what a pair group shares in every modality, per coordinate.
        seed: of the noise.
        content_seed: of the shared content: the same number in two modalities gives matched content.
    """
    asked = prompts(modality, split, groups)
    d = len(direction)
    shared = torch.randn(groups, d, generator=torch.Generator().manual_seed(content_seed), dtype=torch.float64)
    own = torch.randn(len(asked), d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = content * shared.repeat_interleave(3, 0) + noise * own
    rows[::3] += direction
    if shift is not None:
        rows += shift
    return Streams(asked, rows.float()[:, None])
