"""Media as data URIs, so that a page or a notebook shows them without any other file and without a request."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from .media import load_audio, load_image, load_video
from .prompt import Prompt
from .waveforms import wav_bytes

SMALLEST = 96
"""Shorter side in pixels to which tiny images are enlarged, without smoothing."""


def media_record(prompt: Prompt) -> dict[str, Any] | None:
    """A prompt's medium: {"kind": image, video or audio, "data": data URIs}, None for text."""
    if prompt.image is not None:
        return {"kind": "image", "data": [_enlarged(load_image(prompt.image))]}
    if prompt.video is not None:
        return {"kind": "video", "data": [_enlarged(frame) for frame in load_video(prompt.video)]}
    if prompt.audio is not None:
        raw = wav_bytes(np.asarray(load_audio(prompt.audio)))
        return {"kind": "audio", "data": ["data:audio/wav;base64," + base64.b64encode(raw).decode()]}
    return None


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


def _enlarged(image: Image.Image) -> str:
    factor = max(1, -(-SMALLEST // min(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return _png(image)


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
