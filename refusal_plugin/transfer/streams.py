"""What the transfer analysis reads: residual streams of a fit part and a test part, kept apart by pair group."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import Contrast, GroupMean
from ..errors import DataError, PromptError
from ..prompts import PromptSet


@dataclass(frozen=True)
class Streams:
    """Residual streams of one modality and one split.

    Attributes:
        prompts: one per row, all of one modality.
        values: (prompt, layer, d_model) `resid_post` at the last prompt token.
    """

    prompts: PromptSet
    values: Float[Tensor, "prompt layer d_model"]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.values):
            raise DataError(
                "streams of a modality", f"{len(self.prompts)} prompts and {len(self.values)} rows", "give one row each"
            )
        mixed = sorted({p.modality for p in self.prompts})
        if len(mixed) > 1:
            raise DataError("streams of a modality", f"rows of {' and '.join(mixed)}", "give one modality at a time")
        if not bool(torch.isfinite(self.values).all()):
            raise DataError("streams of a modality", "NaN or infinity", "load the model in float32 or bfloat16")

    def rows(self, *roles: str) -> list[int]:
        """Row numbers of the prompts with these roles."""
        return [row for row, p in enumerate(self.prompts) if p.role in roles]

    def of(self, *roles: str) -> Float[Tensor, "n layer d_model"]:
        """Rows of the prompts with these roles."""
        return self.values[self.rows(*roles)]

    def pairs(self, *roles: str) -> list[str]:
        """Pair groups of the prompts with these roles."""
        return [self.prompts[row].pair for row in self.rows(*roles)]

    def keep(self, ids: frozenset[str]) -> "Streams":
        """Only the prompts with these ids."""
        rows = [row for row, p in enumerate(self.prompts) if p.id in ids]
        return Streams(self.prompts[rows], self.values[rows])

    def direction(self, groups: Sequence[str]) -> Contrast:
        """Harmful minus benign, towards refusal."""
        plus = GroupMean.of(self.of("harmful"), self.pairs("harmful"), groups)
        return Contrast(plus, GroupMean.of(self.of("benign"), self.pairs("benign"), groups))


def need_disjoint(fit: PromptSet, test: PromptSet, asked: str) -> None:
    """Raise PromptError if a pair group lies in both: harmful and benign of one pair stay in one fold."""
    both = {p.pair for p in fit} & {p.pair for p in test}
    if both:
        raise PromptError(
            asked,
            f"{len(both)} pair groups are in the fit and in the test part ('{min(both)}')",
            "split by pair group (PromptSet.split)",
        )
