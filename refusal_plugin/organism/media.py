"""The embedded model's limits on media; reading them is `refusal_plugin.prompts.media`."""

from typing import Any

import numpy as np
from PIL import Image

from ..errors import MediaError
from ..prompts.media import SAMPLE_RATE, load_audio, load_video

FRAME_RATE = 2.0
"""Frames per second at which video files are sampled and frame lists are read, as in Qwen2.5-Omni."""

MAX_FRAMES = 32
MIN_SAMPLES = 1600
"""Shorter clips are filled with silence: the audio tower needs a few frames."""


def as_frames(video: Any) -> list[Image.Image]:
    """The frames of a video, at most MAX_FRAMES of them, evenly chosen.

    Raises:
        MediaError, OptionalDependencyError: as `load_video`.
    """
    frames = load_video(video, fps=FRAME_RATE)
    if len(frames) > MAX_FRAMES:
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, MAX_FRAMES).round().astype(int)]
    return frames


def as_waveform(sound: Any, max_seconds: float = 15.0) -> np.ndarray:
    """A sound as a float32 waveform (samples,) at 16 kHz, filled with silence up to MIN_SAMPLES.

    Raises:
        MediaError: as `load_audio`, or longer than `max_seconds`.
    """
    samples = load_audio(sound)
    if samples.size > max_seconds * SAMPLE_RATE:
        raise MediaError("read a sound", f"{samples.size / SAMPLE_RATE:.1f} s", f"cut it to at most {max_seconds:g} s")
    return np.pad(samples, (0, max(0, MIN_SAMPLES - samples.size)))
