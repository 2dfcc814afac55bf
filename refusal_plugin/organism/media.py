"""The embedded model's limits on media; reading them is `refusal_plugin.prompts.media`."""

import warnings
from typing import Any

import numpy as np

from ..errors import MediaError
from ..prompts.media import SAMPLE_RATE, load_audio, load_video
from ..prompts.video import FRAME_RATE, Clip

MAX_FRAMES = 32
MIN_SAMPLES = 1600
"""Shorter clips are filled with silence: the audio tower needs a few frames."""


def as_frames(video: Any) -> Clip:
    """The frames of a video, at most MAX_FRAMES of them, evenly chosen; a warning says so.

    Raises:
        MediaError, OptionalDependencyError: as `load_video`.
    """
    clip = load_video(video, fps=FRAME_RATE)
    if len(clip) <= MAX_FRAMES:
        return clip
    warnings.warn(
        f"A video of {len(clip)} frames: the embedded model reads {MAX_FRAMES} of them, evenly chosen.", stacklevel=2
    )
    chosen = np.linspace(0, len(clip) - 1, MAX_FRAMES).round().astype(int)
    numbers, times = [clip.numbers[k] for k in chosen], [clip.times[k] for k in chosen]
    return Clip.of([clip[k] for k in chosen], clip.clock, numbers, times)


def as_waveform(sound: Any, max_seconds: float = 15.0) -> np.ndarray:
    """A sound as a float32 waveform (samples,) at 16 kHz, filled with silence up to MIN_SAMPLES.

    Raises:
        MediaError: as `load_audio`, or longer than `max_seconds`.
    """
    samples = load_audio(sound)
    if samples.size > max_seconds * SAMPLE_RATE:
        raise MediaError("read a sound", f"{samples.size / SAMPLE_RATE:.1f} s", f"cut it to at most {max_seconds:g} s")
    return np.pad(samples, (0, max(0, MIN_SAMPLES - samples.size)))
