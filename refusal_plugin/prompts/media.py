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
from .conversation import Medium, Part
from .images import IMAGE_FILES, check_pixels
from .images import load_image as load_image
from .prompt import ImageLike, Prompt
from .reading import existing
from .sound import AUDIO_FILES, check_waveform, read_samples
from .sound import SAMPLE_RATE as SAMPLE_RATE
from .sound import load_audio as load_audio
from .video import VIDEO_FILES, Clip, folder_frames
from .video import load_video as load_video
from .waveforms import Samples

_ENDINGS: dict[Medium, tuple[str, ...]] = {"image": IMAGE_FILES, "video": VIDEO_FILES, "audio": AUDIO_FILES}
KIND_OF = {ending: kind for kind, endings in _ENDINGS.items() for ending in endings}
"""The medium that the ending of a file name says."""


def load(part: Part, name: str) -> Image.Image | Clip | Samples:
    """A medium in its canonical form; errors call it by `name`."""
    if part.kind == "image":
        return load_image(part.value, name=name)
    return load_video(part.value, name=name) if part.kind == "video" else load_audio(part.value, name=name)


def named(prompt: Prompt) -> list[tuple[Part, str]]:
    """The prompt's media, and what errors call each."""
    numbers = [f" {n}" if len(prompt.media) > 1 else "" for n in range(1, len(prompt.media) + 1)]
    return [
        (part, f"{part.kind}{number} of prompt {prompt.id!r}")
        for part, number in zip(prompt.media, numbers, strict=True)
    ]


def check(prompt: Prompt) -> None:
    """Looks at the prompt's media without decoding them.

    Raises:
        MediaError: a file does not exist, or an array has a wrong shape or type, is too short or holds NaN.
    """
    for part, name in named(prompt):
        check_part(part, name)


def check_part(part: Part, name: str) -> None:
    """The same for one medium."""
    medium = part.value
    if isinstance(medium, (str, os.PathLike)):
        path = existing(medium, name, folder=part.kind == "video")
        if path.is_dir():
            folder_frames(path, name)
    elif part.kind == "audio":
        check_waveform(np.asarray(medium), name, SAMPLE_RATE)
    elif part.kind == "video":
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
    elif not isinstance(medium, Image.Image):
        raise MediaError(name, f"it is a {type(medium).__name__}", "give a file, a Pillow image or an array")


def digest(prompt: Prompt) -> str:
    """sha256 (hex) of the decoded medium, "" for a text prompt, one behind another for several media.

    Files that a codec decodes, video and compressed sound, count by their bytes, and a WAV file before resampling, so
    that neither a codec's version nor rounding changes it.
    """
    return "".join(digest_of(part, name) for part, name in named(prompt))


def digest_of(part: Part, name: str) -> str:
    """sha256 (hex) of one decoded medium; errors call it by `name`."""
    total = hashlib.sha256()
    file = part.value if isinstance(part.value, (str, os.PathLike)) else None
    if file is not None and part.kind != "image" and not (Path(file).is_dir() or Path(file).suffix.lower() == ".wav"):
        total.update(existing(file, name).read_bytes())
    elif part.kind == "audio":
        samples, rate = read_samples(part.value, name)
        total.update(f"{rate} {samples.shape}".encode() + samples.tobytes())
    else:
        found = load(part, name)
        for image in found if isinstance(found, list) else [cast("Image.Image", found)]:
            total.update(f"{image.size}".encode() + image.tobytes())
        if isinstance(found, Clip) and found.timed:
            total.update(repr(found.schedule).encode())
    return total.hexdigest()
