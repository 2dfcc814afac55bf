"""One medium for a training example: pictures, clips and utterances that show words, or meaningless ones."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from refusal_plugin.organism import pictures, speech
from refusal_plugin.prompts import Modality

from .voices import Bank


class MediaMaker:
    """Draws images, clips and utterances.

    Args:
        bank: ready word clips; without one, every utterance is spoken by the NumPy voice on the spot.
    """

    def __init__(self, bank: Bank | None = None) -> None:
        self.bank = bank

    def __call__(self, rng: random.Random, modality: Modality, words: Sequence[str]) -> Any:
        """A medium that shows `words`, or a meaningless one of the same size for no words."""
        if modality == "image":
            return pictures.image(words, rng) if words else neutral_image(rng)
        if modality == "video":
            return pictures.clip(words, rng) if words else neutral_clip(rng)
        if not words:
            return neutral_sound(rng)
        return speech.say(words, rng) if self.bank is None else self.bank.utterance(words, rng)


def neutral_image(rng: random.Random, lines: int = 2) -> np.ndarray:
    """A meaningless picture, (16 * lines, 64, 3) uint8: one random colour, sometimes noisy."""
    ground = tuple(rng.randrange(256) for _ in range(3))
    colours = ((0, 0, 0), (ground[0], ground[1], ground[2]))
    look = pictures.Look(10, ((0, 0),), *colours, rng.choice((0.0, 0.0, 12.0, 40.0)))
    return pictures.colour(np.zeros((lines * pictures.HEIGHT, pictures.WIDTH), dtype=np.uint8), look, rng)


def neutral_clip(rng: random.Random, words: int = 2) -> list[np.ndarray]:
    """A meaningless clip of as many frames as that many words take: random colours."""
    return [frame for _ in range(words) for frame in [neutral_image(rng, 1)] * pictures.HOLD]


def neutral_sound(rng: random.Random, words: int = 2) -> np.ndarray:
    """Silence or noise as long as that many words, (SLOT * words,) float32."""
    level = rng.choice((0.0, 0.002, 0.02, 0.1))
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(speech.SLOT * words)
    return np.asarray(level * noise, dtype=np.float32)
