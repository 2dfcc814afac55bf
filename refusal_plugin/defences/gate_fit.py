"""A gate learned from labelled streams: a network of one hidden layer that says how far to step (see `omnisteer`).

Balanced cross-entropy (every modality and role weighs the same), full-batch Adam in float64, stopped early on pairs
that it is not fitted on. The same data and seed give the same tensors.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from ..errors import DataError
from ..prompts import Prompt
from ..traced.gate import learned

HELD = 5
"""Every fifth pair group is held out to stop at."""
STEPS, PATIENCE, RATE, DECAY = 300, 30, 0.01, 1e-3
FEWEST = 10
"""Pair groups below which there is nothing to fit and stop on."""


def fit_gate(
    prompts: Sequence[Prompt], x: Float[Tensor, "prompt d_model"], *, hidden: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Fit the network of `traced.gate.learned` to 1 on harmful prompts and to 0 on all others.

    Args:
        prompts: with roles and pairs, of any modalities.
        x: their streams at the layer that the gate reads, last prompt token.
        hidden: width of the hidden layer.
        seed: of the initial weights.

    Returns:
        the network's tensors, float32; and figures of the held-out pairs: loss, steps, and the mean strength per
        modality and role.

    Raises:
        DataError: too few pair groups, or one label only.
    """
    pairs = sorted({p.pair for p in prompts})
    labels = torch.tensor([float(p.role == "harmful") for p in prompts], dtype=torch.float64)
    held = torch.tensor([pairs.index(p.pair) % HELD == 0 for p in prompts])
    one_sided = any(len(set(labels[part].tolist())) < 2 for part in (held, ~held))
    if len(pairs) < FEWEST or one_sided:
        raise DataError(
            "learn a gate",
            f"{len(pairs)} pair groups" + (", a fifth or the rest of them with one label only" if one_sided else ""),
            f"give {FEWEST} or more, each with harmful and safe prompts",
        )
    cells = [(p.modality, p.role) for p in prompts]
    weights = torch.tensor([1.0 / cells.count(cell) for cell in cells], dtype=torch.float64)
    wide, rows = x.double(), x.double()[~held]
    scale = rows.std(0).clamp_min(1e-6 * float(rows.std()))
    fixed = {"centre": rows.mean(0), "scale": scale}
    draw = torch.Generator().manual_seed(seed)
    d = x.shape[1]
    free = {
        "inward": torch.randn(d, hidden, generator=draw, dtype=torch.float64) / d**0.5,
        "bias": torch.zeros(hidden, dtype=torch.float64),
        "outward": torch.randn(hidden, generator=draw, dtype=torch.float64) / hidden**0.5,
        "offset": torch.zeros(1, dtype=torch.float64),
    }

    def loss(part: Tensor) -> Tensor:
        said = learned(wide[part].unsqueeze(1), **fixed, **free).flatten()
        own = weights[part]
        return (own * binary_cross_entropy(said, labels[part], reduction="none")).sum() / own.sum()

    best, stopped, kept = float("inf"), 0, dict(free)
    with torch.enable_grad():
        for value in free.values():
            value.requires_grad_(True)
        descent = torch.optim.AdamW(list(free.values()), lr=RATE, weight_decay=DECAY)
        for step in range(STEPS):
            descent.zero_grad()
            torch.autograd.backward(loss(~held))
            descent.step()
            now = float(loss(held).detach())
            if now < best:
                best, stopped, kept = now, step + 1, {k: v.detach().clone() for k, v in free.items()}
            elif step + 1 - stopped >= PATIENCE:
                break
    network = {name: value.detach().float() for name, value in {**fixed, **kept}.items()}
    strength = learned(x[held].unsqueeze(1), **network).flatten()
    outside = [cell for cell, out in zip(cells, held.tolist(), strict=True) if out]
    opened = {
        f"{modality} {role}": float(strength[[cell == (modality, role) for cell in outside]].mean())
        for modality, role in sorted(set(outside), key=str)
    }
    return network, {"loss": best, "steps": stopped, "held_out": len(outside), "open": opened}
