"""What encoding needs to know about a model: its tokenizer, its processor, its modalities, its limits.

The rest of this package only sees an `InputSpec`, so that rendering and encoding can be tested without a model. Loading
a model files its specification here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch

from ..errors import ModelError
from .prompt import Modality, Prompt

Join: TypeAlias = Literal["rows", "processor", "alone"]
"""How the media of several prompts become one batch: their tensors one behind another; as the processor itself joins
them; or not at all, each prompt in a batch of its own."""


@dataclass(frozen=True)
class InputSpec:
    """The parts of a model that prompts pass through.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        processor: a Hugging Face processor, or None for a text model.
        modalities: what the model takes.
        context_length: most tokens a prompt may have; None if there is no limit.
        media_ids: token id that stands for one piece of a medium, by modality.
        accepts: names of the arguments of the model's forward pass; None if unknown, then all tensors are passed on.
        explicit_positions: whether the batch carries `position_ids`. Most text models count positions from the first
            column, padding included, which is wrong for a left-padded row of a model with absolute positions; models
            with multimodal rotary positions derive theirs from the mask and the media grids, and must be left to it.
        dtype: of the model, in which pixels and sound features are passed on; None leaves them as they come.
        joins: how prompts of a modality become one batch; "rows" for those not named.
        several: how prompts with more than one medium become one batch.
        vocabulary: rows of the model's embedding; None if unknown.
    """

    tokenizer: Any
    processor: Any | None = None
    modalities: tuple[Modality, ...] = ("text",)
    context_length: int | None = None
    media_ids: Mapping[Modality, int] = field(default_factory=dict)
    accepts: frozenset[str] | None = None
    explicit_positions: bool = True
    dtype: torch.dtype | None = None
    joins: Mapping[Modality, Join] = field(default_factory=dict)
    vocabulary: int | None = None
    several: Join = "rows"

    def join_of(self, prompt: Prompt) -> Join:
        """How a prompt joins others in a batch."""
        return self.several if len(prompt.media) > 1 else self.joins.get(prompt.modality, "rows")


# Beside the models, not on them: an nnsight Envoy turns attributes into parts of its tree and ships them to the server.
_KNOWN: WeakKeyDictionary[Any, InputSpec] = WeakKeyDictionary()


def file_input_spec(model: Any, spec: InputSpec) -> None:
    """Keep what a model takes as long as the model lives."""
    _KNOWN[model] = spec


def input_spec_of(model: Any) -> InputSpec:
    """What a loaded model takes; an InputSpec is returned as it is.

    Raises:
        ModelError: the model was not loaded by `load`.
    """
    if isinstance(model, InputSpec):
        return model
    try:
        return _KNOWN[model]
    except (KeyError, TypeError):
        found = f"a {type(model).__name__} that load() did not return"
        raise ModelError("encode prompts", found, "load it with refusal_plugin.load(...)") from None
