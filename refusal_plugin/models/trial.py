"""Whether a batch computes what its rows compute alone: tried at load, because architectures break it without an error.

Two prompts of different length, and with media of different size where a processor is there, run together and each
alone. A family whose own code is inexact under padding (recurrent layers, some mixtures of experts), or whose media do
not join one behind another (tiles padded with zeros that the model counts), shows here and not in a result.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RefusalPluginError
from ..prompts.encoding import encode
from ..prompts.input_spec import InputSpec, Join
from ..prompts.prompt import Modality, Prompt
from .probe import one_line

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference taken for rounding, relative to the largest logit, by the dtype the model runs in."""

_TEXTS = ("a", "how do I bake a loaf of bread")
_PIXELS = ((64, 96), (128, 64))
_FRAMES = (4, 6)
_SAMPLES = (6_400, 11_200)


@dataclass
class Trial:
    """What a trial found, by modality.

    Attributes:
        joins: how prompts become a batch, where not by putting their tensors one behind another.
        differences: for modalities that run one prompt at a time: how far the next-token logits of a batch of two are
            from those of the prompts alone, relative to the largest logit; infinite where the batch does not run.
        refused: why a modality cannot be put in at all.
        several: how prompts with more than one medium become a batch.
    """

    joins: dict[Modality, Join] = field(default_factory=dict)
    differences: dict[Modality, float] = field(default_factory=dict)
    refused: dict[Modality, str] = field(default_factory=dict)
    several: Join = "alone"


def try_batches(module: nn.Module, spec: InputSpec) -> Trial:
    """Run two small prompts of every modality together and alone.

    Args:
        module: on real weights, in evaluation mode.
        spec: what it takes.

    Returns:
        how the modalities can be batched. Media that cannot be encoded or run are refused; text never, since an error
        about the user's own prompt says more.
    """
    found = Trial()
    limit = TOLERANCE.get(spec.dtype or torch.float32, 1e-3)
    for modality in spec.modalities:
        prompts = [_prompt(modality, n) for n in range(2)]
        try:
            alone = torch.cat([_logits(module, spec, [prompt]) for prompt in prompts])
        except Exception as error:
            if modality != "text":
                found.refused[modality] = error.found if isinstance(error, RefusalPluginError) else one_line(error)
            continue
        joins: tuple[Join, ...] = ("rows",) if modality == "text" else ("rows", "processor")
        for how in joins:
            difference = _difference(module, replace(spec, joins={modality: how}), prompts, alone)
            found.differences.setdefault(modality, difference)
            if difference <= limit:
                found.joins[modality] = how
                del found.differences[modality]
                break
        else:
            found.joins[modality] = "alone"
    found.joins = {modality: how for modality, how in found.joins.items() if how != "rows"}
    usable = [modality for modality in spec.modalities if modality not in found.refused]
    if len(usable) > 1 and not found.joins:
        mixed = [_several(usable, n) for n in range(2)]
        with contextlib.suppress(Exception):  # one that takes a single medium a prompt
            alone = torch.cat([_logits(module, spec, [prompt]) for prompt in mixed])
            if _difference(module, replace(spec, several="rows"), mixed, alone) <= limit:
                found.several = "rows"
    return found


def _difference(module: nn.Module, spec: InputSpec, prompts: Sequence[Prompt], alone: Tensor) -> float:
    try:
        together = _logits(module, spec, prompts)
    except Exception:
        return float("inf")
    difference = float((together - alone).abs().max() / alone.abs().max().clamp(min=1e-30))
    return difference if difference == difference else float("inf")


@torch.no_grad()
def _logits(module: Any, spec: InputSpec, prompts: Sequence[Prompt]) -> Tensor:
    """Next-token logits (row, vocabulary), float32 on the CPU."""
    template = any(getattr(owner, "chat_template", None) for owner in (spec.processor, spec.tokenizer))
    batch = encode(spec, prompts, raw=not template).to(module.get_input_embeddings().weight.device)
    cheap = {"use_cache": False, "logits_to_keep": 1}
    options = {name: value for name, value in cheap.items() if name in (spec.accepts or ())}
    logits: Tensor = module(**batch.inputs, **options).logits
    return logits[:, -1].float().cpu()


def _prompt(modality: Modality, n: int) -> Prompt:
    draw = np.random.default_rng(n)
    medium: Any = None
    if modality == "image":
        medium = draw.integers(0, 256, (*_PIXELS[n], 3), dtype=np.uint8)
    elif modality == "video":
        medium = draw.integers(0, 256, (_FRAMES[n], *_PIXELS[n], 3), dtype=np.uint8)
    elif modality == "audio":
        medium = draw.uniform(-0.1, 0.1, _SAMPLES[n]).astype(np.float32)
    return Prompt(_TEXTS[n], id=f"trial-{n}", **({} if medium is None else {modality: medium}))


def _several(usable: Sequence[Modality], n: int) -> Prompt:
    """A turn with a medium of every kind and one more of the first kind, two more the other way round in the second."""
    media = [part for modality in usable for part in _prompt(modality, n).media]
    media += [part for k in range(n + 1) for part in _prompt(media[0].kind, k).media]
    shown = [{"type": part.kind, part.kind: part.value} for part in media]
    asked = {"type": "text", "text": _TEXTS[n]}
    return Prompt(messages=[{"role": "user", "content": [*(shown[::-1] if n else shown), asked]}], id=f"several-{n}")
