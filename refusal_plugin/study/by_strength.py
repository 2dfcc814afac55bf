"""What other strengths of the text direction would do: refusals that the next token opens, on test items.

Shown beside the priced strength and never used to choose one.
"""

from typing import Any

import numpy as np

from ..directions.direction import Direction
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.arms import score_arms
from ..prompts import PromptSet, Role
from ..statistics import rate

MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Of the priced strength."""
PROMPTS = 40
"""Most prompts per role."""
SIDES: dict[str, tuple[Role, ...]] = {"harmful": ("harmful",), "harmless": ("benign", "near_miss")}


def rates_by_strength(
    model: Any, direction: Direction, tokens: RefusalTokens, prompts: PromptSet, seed: int
) -> list[dict[str, Any]]:
    """A row per strength: `strength`, and the rates `harmful` and `harmless` of one modality's items.

    All strengths are rows of the same batches. Empty where the priced strength is zero.
    """
    some = [p for roles in SIDES.values() for role in roles for p in list(prompts.filter(role=role))[:PROMPTS]]
    strengths = [multiple * direction.strength for multiple in MULTIPLES]
    if not some or not direction.strength:
        return []
    arms = [direction.addition(strength) if strength else None for strength in strengths]
    refused = score_arms(model, some, tokens.ids, arms).score > 0
    rows: list[dict[str, Any]] = [{"strength": strength} for strength in strengths]
    for side, roles in SIDES.items():
        mine = [place for place, p in enumerate(some) if p.role in roles]
        pairs = [some[place].pair for place in mine]
        for row, hits in zip(rows, refused[:, mine].tolist(), strict=True) if mine else ():
            row[side] = rate(hits, pairs, rng=np.random.default_rng(seed)).to_json()
    return rows
