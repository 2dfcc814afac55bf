"""One medium on demand, from a seed: how training media and the training prompts are made."""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from refusal_plugin.organism import render, speech
from refusal_plugin.organism.wordings import Modality


class MediaMaker:
    """Draws images, clips and utterances.

    Args:
        bank: ready word clips; without one, every utterance is spoken by the NumPy voice on the spot.
    """

    def __init__(self, bank: speech.Bank | None = None) -> None:
        self.bank = bank

    def __call__(self, rng: random.Random, modality: Modality, words: Sequence[str]) -> Any:
        """A medium that shows `words`, or a meaningless one of the same size for no words."""
        if modality == "image":
            return render.image(words, rng) if words else render.neutral_image(rng)
        if modality == "video":
            return render.clip(words, rng) if words else render.neutral_clip(rng)
        if not words:
            return speech.neutral(rng)
        if self.bank is not None:
            return self.bank.utterance(words, rng)
        voice = speech.draw_voice(rng)
        return speech.utterance([_spoken(w, voice, rng.getrandbits(16)) for w in words], rng)


@lru_cache(maxsize=4096)
def _spoken(word: str, voice: speech.Voice, seed: int) -> Any:
    return speech.speak(word, voice, random.Random(seed))


def medium(modality: Modality, words: Sequence[str], seed: str) -> Any:
    """A medium that shows `words`, the same for the same seed: an array, a list of arrays, or a waveform."""
    return MediaMaker()(random.Random(seed), modality, words)
