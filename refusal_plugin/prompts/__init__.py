"""Prompts: what is asked, in which modality and role; rendering, media and encoding for a model.

`Prompt` and `PromptSet` import neither torch nor NumPy. `Batch`, `encode`, `batches` and `render` are loaded when
first used, because they need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .prompt import MODALITIES, ROLES, SPLITS, Modality, Prompt, Role, Split
from .prompt_set import PromptSet

if TYPE_CHECKING:
    from .batch import Batch
    from .chat import render
    from .encoding import batches, encode
    from .images import load_image
    from .sound import load_audio
    from .video import Clip, load_video

_LAZY = {
    "Batch": "batch",
    "Clip": "video",
    "batches": "encoding",
    "encode": "encoding",
    "load_audio": "sound",
    "load_image": "images",
    "load_video": "video",
    "render": "chat",
}

__all__ = [
    "MODALITIES",
    "ROLES",
    "SPLITS",
    "Batch",
    "Clip",
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
