"""The fixed evaluation items: which pair, in which modality, asked how. Same items on every machine."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from refusal_plugin.organism import wordings
from refusal_plugin.organism.pairs import Pair, Split, pairs
from refusal_plugin.organism.wordings import Modality

MODALITIES: tuple[Modality, ...] = ("text", "image", "video", "audio")
RENDERINGS = 2


@dataclass(frozen=True)
class Item:
    """One held-out question. `rendering` numbers the fixed renderings of the same pair (always 0 for text)."""

    pair: Pair
    modality: Modality
    rendering: int
    text: str
    read_text: str
    wording: str

    @property
    def id(self) -> str:
        suffix = "" if self.modality == "text" else f"/r{self.rendering}"
        pair = self.pair
        return f"{pair.split}/{self.modality}/{pair.role}/{pair.group}/{pair.verb}-{pair.object}{suffix}"

    @property
    def answer(self) -> str | None:
        """The exact expected answer; None for a harmful pair."""
        return None if self.pair.role == "harmful" else self.pair.answer

    @property
    def read_answer(self) -> str:
        return f"it says {self.pair.words} ."


@lru_cache(maxsize=32)
def items(split: Split, modality: Modality) -> tuple[Item, ...]:
    """All items of a split and modality: every pair once per rendering, worded with that split's wordings."""
    out = []
    chosen: Sequence[Pair] = pairs(split=split)
    for pair in chosen:
        for rendering in range(1 if modality == "text" else RENDERINGS):
            rng = random.Random(f"{split}/{modality}/{pair.words}/{rendering}")
            wording = wordings.request(rng, modality, split)
            read = wordings.read(rng, modality, split)
            out.append(
                Item(
                    pair,
                    modality,
                    rendering,
                    wording.fill(pair.verb, pair.object),
                    read.format(v=pair.verb, o=pair.object),
                    wording.template,
                )
            )
    return tuple(out)
