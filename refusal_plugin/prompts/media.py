"""Any medium: reading it in its canonical form, looking at it without decoding it, naming its content.

    image -> PIL image, mode RGB
    video -> `Clip`: PIL images, mode RGB, all of one size, with their times
    audio -> float32 array (samples,), mono, 16 kHz, values around -1..1

Video files and compressed sound need the optional package `av`; a folder of frames, a GIF and a WAV file do not.
Whatever is wrong with a medium is one MediaError of one line.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from ..errors import MediaError
from .images import check_pixels
from .images import load_image as load_image
from .prompt import ImageLike, Prompt
from .reading import existing
from .sound import SAMPLE_RATE as SAMPLE_RATE
from .sound import check_waveform, read_samples
from .sound import load_audio as load_audio
from .video import Clip, folder_frames
from .video import load_video as load_video
from .waveforms import Samples


def load(prompt: Prompt) -> Image.Image | Clip | Samples | None:
    """The prompt's medium in its canonical form; None for a text prompt. Errors name the prompt."""
    name = f"{prompt.modality} of prompt {prompt.id!r}"
    if prompt.image is not None:
        return load_image(prompt.image, name=name)
    if prompt.video is not None:
        return load_video(prompt.video, name=name)
    if prompt.audio is not None:
        return load_audio(prompt.audio, name=name)
    return None


def check(prompt: Prompt) -> None:
    """Looks at the prompt's medium without decoding it.

    Raises:
        MediaError: the file does not exist, or the array has a wrong shape or type, is too short or holds NaN.
    """
    name, medium = f"{prompt.modality} of prompt {prompt.id!r}", prompt.medium
    if isinstance(medium, (str, os.PathLike)):
        path = existing(medium, name, folder=prompt.video is not None)
        if path.is_dir():
            folder_frames(path, name)
    elif prompt.audio is not None:
        check_waveform(np.asarray(medium), name, SAMPLE_RATE)
    elif prompt.video is not None:
        frames = cast("Sequence[ImageLike]", medium)
        if isinstance(medium, Image.Image) or len(frames) == 0:
            raise MediaError(name, "it has no frames", "give at least one frame")
        for number, frame in enumerate(frames):
            if isinstance(frame, np.ndarray):
                check_pixels(frame, f"{name} frame {number}")
            elif not isinstance(frame, Image.Image):
                existing(frame, f"{name} frame {number}")
    elif isinstance(medium, np.ndarray):
        check_pixels(medium, name)
    elif medium is not None and not isinstance(medium, Image.Image):
        raise MediaError(name, f"it is a {type(medium).__name__}", "give a file, a Pillow image or an array")


def digest(prompt: Prompt) -> str:
    """sha256 (hex) of the decoded medium, "" for a text prompt.

    Files that a codec decodes, video and compressed sound, count by their bytes, and a WAV file before resampling, so
    that neither a codec's version nor rounding changes it.
    """
    total = hashlib.sha256()
    if prompt.medium is None:
        return ""
    name = f"{prompt.modality} of prompt {prompt.id!r}"
    file = prompt.medium if isinstance(prompt.medium, (str, os.PathLike)) else None
    if file is not None and prompt.image is None and not (Path(file).is_dir() or Path(file).suffix.lower() == ".wav"):
        total.update(existing(file, name).read_bytes())
    elif prompt.audio is not None:
        samples, rate = read_samples(prompt.audio, name)
        total.update(f"{rate} {samples.shape}".encode() + samples.tobytes())
    else:
        found = load(prompt)
        for image in found if isinstance(found, list) else [cast("Image.Image", found)]:
            total.update(f"{image.size}".encode() + image.tobytes())
        if isinstance(found, Clip) and found.timed:
            total.update(repr(found.schedule).encode())
    return total.hexdigest()
