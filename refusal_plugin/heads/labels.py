"""What a result keeps of its prompts: names and groups, never texts or media."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import DataError, PromptError
from ..prompts import EVERY_MODALITY, Prompt, PromptSet

SHOWN = 6
"""Prompts that a picture in a notebook shows; the rest is counted."""


@dataclass(frozen=True)
class Labels:
    """One entry per prompt, in the order of a result's rows.

    Attributes:
        ids, pairs: names of prompts and of pair groups.
        roles, modalities: "harmful", "benign", "near_miss" or "" if unknown; "text", "image", "video" or "audio".
    """

    ids: tuple[str, ...]
    pairs: tuple[str, ...]
    roles: tuple[str, ...]
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> "Labels":
        """The labels of prompts."""
        chosen = list(prompts)
        return cls(
            tuple(p.id for p in chosen),
            tuple(p.pair for p in chosen),
            tuple(p.role or "" for p in chosen),
            tuple(p.modality for p in chosen),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def title(self, row: int) -> str:
        """One prompt's name with its role and modality."""
        return f"{self.ids[row]} ({self.roles[row] or 'no role'}, {self.modalities[row]})"

    @property
    def rest(self) -> str:
        """How many prompts a picture leaves out; empty where it shows all."""
        return f"{len(self) - SHOWN} more prompts are not shown." if len(self) > SHOWN else ""

    def rows(self, role: str | Sequence[str] | None = None, modality: str | None = None) -> list[int]:
        """Rows of the prompts with these labels.

        Raises:
            DataError: there are none.
        """
        roles = (role,) if isinstance(role, str) else role
        found = [
            row
            for row in range(len(self))
            if (roles is None or self.roles[row] in roles) and modality in (None, self.modalities[row])
        ]
        if not found:
            words = " ".join(str(word) for word in (modality, "/".join(roles or ())) if word)
            raise DataError(f"compare {words} prompts", f"none among {len(self)}", "add some, or ask for others")
        return found

    def kinds(self) -> tuple[str, ...]:
        """The modalities that occur, text first."""
        return tuple(m for m in EVERY_MODALITY if m in self.modalities)


def chosen_prompts(prompts: Iterable[Prompt | str], asked: str) -> PromptSet:
    """Prompts as a set.

    Raises:
        PromptError: there are none.
    """
    found = PromptSet(p if isinstance(p, Prompt) else Prompt(p) for p in prompts)
    if not len(found):
        raise PromptError(asked, "0 prompts", "give at least one")
    return found
