"""One harmful and one near-miss question per modality, with the answer before and after steering, for a reader to see.

The choice is mechanical and said in the report: the first harmful test prompt that the undefended model answered
(else the first), and the first near miss.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..answers import Answer
from ..evaluation import Outcomes
from ..prompts import Prompt
from ..prompts.media import load_audio, load_image, load_video, wav_bytes

Record = dict[str, Any]
SMALLEST = 96
"""Shorter side in pixels to which tiny images are enlarged, without smoothing."""


def choose(prompts: Sequence[Prompt], before: Outcomes) -> list[int]:
    """Rows of the examples."""
    harmful = [row for row, p in enumerate(prompts) if p.role == "harmful"]
    answered = [row for row in harmful if before.labels[row] != "refusal"]
    near = [row for row, p in enumerate(prompts) if p.role == "near_miss"]
    return [*(answered or harmful)[:1], *near[:1]]


def examples(
    prompts: Sequence[Prompt],
    before: tuple[Outcomes, Sequence[Answer]],
    after: tuple[Outcomes, Sequence[Answer]],
    coordinates: Float[Tensor, "prompt layer"],
) -> list[Record]:
    """The examples of one modality, in the form of results.json."""
    return [
        {
            "modality": prompts[row].modality,
            "role": prompts[row].role,
            "id": prompts[row].id,
            "text": prompts[row].text,
            "says": prompts[row].read_answer,
            "media": media_record(prompts[row]),
            "before": {"answer": before[1][row].text, "label": before[0].labels[row]},
            "after": {"answer": after[1][row].text, "label": after[0].labels[row]},
            "projection_by_layer": {"before": [round(float(v), 4) for v in coordinates[row]]},
        }
        for row in choose(prompts, before[0])
    ]


def media_record(prompt: Prompt) -> Record | None:
    """A prompt's medium as data URIs, so that a page needs no other file."""
    if prompt.image is not None:
        return {"kind": "image", "data": [_png(load_image(prompt.image))]}
    if prompt.video is not None:
        return {"kind": "video", "data": [_png(frame) for frame in load_video(prompt.video)]}
    if prompt.audio is not None:
        raw = wav_bytes(np.asarray(load_audio(prompt.audio)))
        return {"kind": "audio", "data": ["data:audio/wav;base64," + base64.b64encode(raw).decode()]}
    return None


def _png(image: Image.Image) -> str:
    factor = max(1, -(-SMALLEST // min(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
