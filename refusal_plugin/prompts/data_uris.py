"""Media as data URIs, so that a page or a notebook shows them without any other file and without a request."""

import base64
import io
import wave
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from .conversation import Part
from .media import load_audio, load_image, load_video
from .prompt import Prompt
from .sound import SAMPLE_RATE

SMALLEST = 96
"""Shorter side in pixels to which tiny images are enlarged, without smoothing."""
LARGEST = 128
"""Longer side in pixels of a thumbnail."""
FRAMES = 4
"""Frames of a thumbnail."""
SECONDS, TELEPHONE = 6, 8000
"""Length and samples per second of a sound's thumbnail."""


def media_record(prompt: Prompt, *, thumbnail: bool = False) -> dict[str, Any] | None:
    """A prompt's media: {"kind": its modality, "data": data URIs in the order of the conversation}, None for text.

    Args:
        prompt: with its media.
        thumbnail: small pictures, a few frames, the first seconds at a telephone's rate.
    """
    if not prompt.media:
        return None
    return {"kind": prompt.modality, "data": [uri for part in prompt.media for uri in _uris(part, thumbnail)]}


def _uris(part: Part, thumbnail: bool) -> list[str]:
    draw = _thumbnail if thumbnail else _enlarged
    if part.kind == "image":
        return [draw(load_image(part.value))]
    if part.kind == "video":
        frames = list(load_video(part.value))
        few = [frames[k * len(frames) // FRAMES] for k in range(FRAMES)] if len(frames) > FRAMES else frames
        return [draw(frame) for frame in (few if thumbnail else frames)]
    rate, width, most = (TELEPHONE, 1, SECONDS * TELEPHONE) if thumbnail else (SAMPLE_RATE, 2, None)
    raw = _pcm(np.asarray(load_audio(part.value, rate=rate))[:most], rate, width)
    return ["data:audio/wav;base64," + base64.b64encode(raw).decode()]


def spectrogram(inputs: Mapping[str, torch.Tensor]) -> list[str]:
    """The sound features of one encoded prompt as a picture, time from left to right; empty without any."""
    features = inputs.get("input_features")
    if features is None or features.ndim != 3:
        return []
    mask = inputs.get("feature_attention_mask")
    used = features[0, :, mask[0].bool()] if mask is not None and mask.shape[-1] == features.shape[-1] else features[0]
    low, high = used.min(), used.max()
    levels = (255 * (used.flip(0) - low) / (high - low).clamp_min(1e-9)).byte().numpy()
    return [_png(Image.fromarray(levels))]


def _pcm(samples: np.ndarray, rate: int, width: int) -> bytes:
    """A mono WAV file of 8 or 16 bits, which every browser plays; louder than 1 is clipped."""
    levels = np.rint(np.clip(samples, -1, 1) * (127 if width == 1 else 32767))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, width, rate, 0, "NONE", ""))
        file.writeframes((levels + 128).astype("u1").tobytes() if width == 1 else levels.astype("<i2").tobytes())
    return buffer.getvalue()


def _thumbnail(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _enlarged(image: Image.Image) -> str:
    factor = max(1, -(-SMALLEST // min(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return _png(image)


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
