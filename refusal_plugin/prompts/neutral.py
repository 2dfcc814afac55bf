"""Meaningless media of the size of real ones: what a medium does to a model just by being there.

    image    one uniform random colour
    video    every frame one uniform random colour
    audio    silence, then white noise at three levels, in turn

Sizes (height, width, number and times of frames, number of samples) are those of the media of given prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any, TypeAlias, cast

import numpy as np

from ..errors import PromptError
from .conversation import Part
from .media import SAMPLE_RATE, load, named
from .prompt import Modality, Prompt
from .prompt_set import PromptSet
from .video import Clip

SIZE = (224, 224)
FRAMES = 8
SECONDS = 2.0
Shape: TypeAlias = tuple[tuple[int, ...], list[float] | None]
"""(height, width), (frames, height, width) or (samples,); and the schedule of a clip that has a clock."""
LEVELS = (0.0, 0.002, 0.02, 0.1)
"""Standard deviations of the noise; 0 is silence."""


def neutral_media(modality: Modality, n: int = 8, *, like: Iterable[Prompt] = (), seed: int = 0) -> list[Any]:
    """`n` meaningless media of one modality.

    Args:
        modality: "image", "video" or "audio".
        n: how many.
        like: prompts whose media give the sizes, in turn; those of other modalities are passed over. Without any:
            224 x 224 pixels, 8 frames, 2 seconds.
        seed: of colours and noise.

    Returns:
        uint8 arrays (height, width, 3), clips of such frames, or float32 waveforms (samples,) at 16 kHz.

    Raises:
        PromptError: text has no media, or n < 1.
        MediaError: a medium of `like` cannot be read.
    """
    if modality == "text" or n < 1:
        raise PromptError(f"{n} neutral media of modality {modality!r}", "there are none", "use image, video or audio")
    known = (next((one for one in named(p) if one[0].kind == modality), None) for p in like)
    shapes = [_shape(*one) for one in islice((one for one in known if one is not None), n)]
    default: dict[str, Shape] = {
        "image": (SIZE, None),
        "video": ((FRAMES, *SIZE), None),
        "audio": ((round(SECONDS * SAMPLE_RATE),), None),
    }
    rng = np.random.default_rng(seed)
    chosen = islice(cycle(shapes or [default[modality]]), n)
    return [_draw(modality, shape, number, rng) for number, shape in enumerate(chosen)]


def neutral_prompts(
    texts: Iterable[Prompt], modality: Modality, n: int = 4, *, like: Iterable[Prompt] = (), seed: int = 0
) -> PromptSet:
    """Every text beside each of `n` meaningless media.

    Args:
        texts: text prompts; role, pair and split stay theirs.
        modality, n, like, seed: see `neutral_media`.

    Returns:
        n prompts per text, text by text; ids are "<text id>#<modality><number>.<seed>".
    """
    kinds, like = modality.split("+"), list(like)
    media = zip(*(neutral_media(cast("Modality", kind), n, like=like, seed=seed) for kind in kinds), strict=True)
    shown = [dict(zip(kinds, some, strict=True)) for some in media]
    return PromptSet(
        prompt.replace(id=f"{prompt.id}#{modality}{number}.{seed}", **some)
        for prompt in texts
        for number, some in enumerate(shown)
    )


def _shape(part: Part, name: str) -> Shape:
    found: Any = load(part, name)
    if part.kind == "image":
        return (found.height, found.width), None
    if part.kind == "video":
        return (len(found), found[0].height, found[0].width), found.schedule if found.timed else None
    return (len(found),), None


def _draw(modality: Modality, shape: Shape, number: int, rng: np.random.Generator) -> Any:
    size, schedule = shape
    if modality == "audio":
        return (LEVELS[number % len(LEVELS)] * rng.standard_normal(size[0])).astype(np.float32)
    if modality == "image":
        return _colour(size, rng)
    frames = [_colour(size[1:], rng) for _ in range(size[0])]
    return Clip(frames) if schedule is None else Clip(frames, schedule[:-1], schedule[-1])


def _colour(size: tuple[int, ...], rng: np.random.Generator) -> Any:
    return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (*size, 3)).copy()
