"""Residual streams by modality and split, items kept together by pair group: what every analysis reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import Contrast, GroupMean
from ..errors import DataError, PromptError
from ..prompts import Prompt, PromptSet, Role
from ..report.shown import Shown
from .activations import collect_activations

SAFE: tuple[Role, ...] = ("benign", "near_miss")
"""Roles that a model should answer."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class Streams(Shown):
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

    def at(self, layers: Sequence[int]) -> "Streams":
        """Only these layers."""
        return Streams(self.prompts, self.values[:, list(layers)])

    def direction(self, groups: Sequence[str] | None = None) -> Contrast:
        """Harmful minus benign, towards refusal; over the streams' own pair groups by default.

        Args:
            groups: pair groups in the order of the result, others among them: two directions over the same groups can
                be compared.
        """
        if groups is None:
            groups = sorted({p.pair for p in self.prompts})
        plus = GroupMean.of(self.of("harmful"), self.pairs("harmful"), groups)
        return Contrast(plus, GroupMean.of(self.of("benign"), self.pairs("benign"), groups))


def collect_streams(model: Any, parts: Mapping[Key, PromptSet], *, remote: bool | str = False) -> dict[Key, Streams]:
    """Streams of several sets of prompts in one session: one request where it is remote, several where it is too large.

    Args:
        model: a loaded model.
        parts: name to prompts, each of one modality and all with ids of their own; empty ones are left out.
        remote: run on NDIF.

    Raises:
        PromptError, DataError, RemoteError: as `collect_activations`.
    """
    wanted = {key: part for key, part in parts.items() if len(part)}
    if not wanted:
        return {}
    every = PromptSet(p for part in wanted.values() for p in part)
    values = collect_activations(model, every, remote=remote, progress=False).values[:, 0]
    rows = torch.split(values, [len(part) for part in wanted.values()])
    return {key: Streams(part, some) for (key, part), some in zip(wanted.items(), rows, strict=True)}


def some_pairs(prompts: Sequence[Prompt], n: int) -> PromptSet:
    """At most n pair groups that have both harmful and benign items, spread evenly; one item per pair and role."""
    firsts: dict[tuple[str, str], Prompt] = {}
    for prompt in prompts:
        if prompt.role in ("harmful", "benign"):
            firsts.setdefault((prompt.pair, prompt.role), prompt)
    full = sorted({pair for pair, _ in firsts if (pair, "harmful") in firsts and (pair, "benign") in firsts})
    step = max(1.0, len(full) / max(n, 1))
    chosen = {full[int(k * step)] for k in range(min(n, len(full)))}
    return PromptSet(p for (pair, _), p in firsts.items() if pair in chosen)


def has_both(prompts: PromptSet, modality: str) -> bool:
    """Whether a modality has harmful and benign items."""
    return {"harmful", "benign"} <= {p.role for p in prompts if p.modality == modality}


def need_disjoint(fit: PromptSet, test: PromptSet, asked: str) -> None:
    """Raise PromptError if a pair group lies in both: harmful and benign of one pair stay in one fold."""
    both = {p.pair for p in fit} & {p.pair for p in test}
    if both:
        raise PromptError(
            asked,
            f"{len(both)} pair groups are in the fit and in the test part ('{min(both)}')",
            "split by pair group (PromptSet.split)",
        )
