"""What encoding needs to know about a module: read from its configuration and the signature of its forward pass."""

import inspect
from typing import Any

import torch

from ..prompts.input_spec import InputSpec
from ..prompts.prompt import MEDIA, Modality
from .capabilities import configurations


def module_inputs(
    module: Any,
    tokenizer: Any,
    processor: Any | None = None,
    *,
    modalities: tuple[Modality, ...] = ("text",),
    context_length: int | None = None,
) -> InputSpec:
    """What a Hugging Face module takes; shapes and signatures only, so a module without weights will do.

    Args:
        module: the module.
        tokenizer, processor, modalities, context_length: see `InputSpec`.
    """
    accepts = frozenset(inspect.signature(type(module).forward).parameters)
    inner, dtype = getattr(module, "model", None), getattr(module, "dtype", None)
    return InputSpec(
        tokenizer=tokenizer,
        processor=processor,
        modalities=modalities,
        context_length=context_length,
        media_ids=_media_ids(getattr(module, "config", None), processor),
        accepts=accepts,
        explicit_positions="position_ids" in accepts
        and not any(hasattr(part, "get_rope_index") for part in (module, inner)),
        # Weights that lie elsewhere may have been loaded in another dtype than the checkpoint's: media go as they are.
        dtype=dtype if isinstance(dtype, torch.dtype) and not _is_elsewhere(module) else None,
        vocabulary=_vocabulary(module),
    )


def _is_elsewhere(module: Any) -> bool:
    parameters = getattr(module, "parameters", None)
    first = next(parameters(), None) if callable(parameters) else None
    return first is not None and first.is_meta


def _vocabulary(module: Any) -> int | None:
    """Rows of the input embedding."""
    try:
        return int(module.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError):
        return None


def _media_ids(config: Any, processor: Any) -> dict[Modality, int]:
    """Placeholder token ids from the configuration, the outermost that has one, or else from the processor."""
    found: dict[Modality, int] = {}
    for kind in MEDIA:
        for owner in (*configurations(config), processor):
            for name in (f"{kind}_token_id", f"{kind}_token_index"):
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    found.setdefault(kind, value)
    return found
