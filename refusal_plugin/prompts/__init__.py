"""Prompts: what is asked, in which modality and role; rendering, media and encoding for a model.

`Prompt` and `PromptSet` import neither torch nor NumPy. `Batch`, `encode`, `batches` and `render` are loaded when
first used, because they need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from refusal_plugin.prompts.prompt import MODALITIES, ROLES, SPLITS, Modality, Prompt, Role, Split
from refusal_plugin.prompts.prompt_set import PromptSet

if TYPE_CHECKING:
    from refusal_plugin.prompts.batch import Batch
    from refusal_plugin.prompts.chat import render
    from refusal_plugin.prompts.encoding import batches, encode
    from refusal_plugin.prompts.media import load_audio, load_image, load_video

_LAZY = {
    "Batch": "batch",
    "batches": "encoding",
    "encode": "encoding",
    "load_audio": "media",
    "load_image": "media",
    "load_video": "media",
    "render": "chat",
}

__all__ = [
    "MODALITIES",
    "ROLES",
    "SPLITS",
    "Batch",
    "Modality",
    "Prompt",
    "PromptSet",
    "Role",
    "Split",
    "batches",
    "encode",
    "load_audio",
    "load_image",
    "load_video",
    "render",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
