"""Whether the whole of a sound reaches the model: feature extractors cut what is longer than their window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import MediaError
from .waveforms import Samples

END = 0.1
"""Seconds at the end of a sound that are changed to see whether they count."""


def require_whole_sound(
    processor: Any,
    samples: Samples,
    rate: int,
    inputs: Mapping[str, Tensor],
    encode: Callable[[Samples], Mapping[str, Tensor]],
    asked: str,
) -> None:
    """Raises MediaError if the end of a sound is nowhere in a processor's tensors.

    It is tried rather than read from settings: the end is made noise, and the tensors must change. Sounds within the
    window that an extractor states are not tried, and the embedded model's processor, which has none, is its own judge.

    Args:
        processor: whose tensors they are.
        samples: the sound (samples,).
        rate: its rate in Hz.
        inputs: the processor's tensors for it.
        encode: makes such tensors of another sound.
        asked: what errors say was asked.
    """
    extractor = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
    window = getattr(extractor, "n_samples", None)
    if extractor is None or (isinstance(window, int) and len(samples) <= window):
        return
    n = min(len(samples), round(END * rate))
    other = samples.copy()
    other[-n:] = np.random.default_rng(0).uniform(-0.5, 0.5, n)
    changed = encode(other)
    if all(name in changed and value.equal(changed[name]) for name, value in inputs.items()):
        holds = f"the first {window / rate:g} s" if isinstance(window, int) else "less than that"
        found = f"it lasts {len(samples) / rate:.1f} s, the model's processor reads {holds}"
        raise MediaError(asked, found, "cut it into shorter pieces")
