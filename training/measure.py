"""Plain Hugging Face generation and residual reading, batched: how a checkpoint is measured while it is trained.

It shares only prompts and statistics with the package, on purpose: these figures must not depend on the code that they
are used to test.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from refusal_plugin.prompts import ROLES, Prompt

from .collate import render
from .wordings import is_refusal

ARGUMENT = {"image": "images", "video": "videos", "audio": "audio"}


def encode(processor: Any, prompts: Sequence[Prompt], *, read: bool = False) -> dict[str, torch.Tensor]:
    """Left-padded inputs of prompts of ONE modality; `read` asks for their words instead."""
    modality = prompts[0].modality
    texts = [render(str(p.read_text) if read else p.text, modality) for p in prompts]
    media = {} if modality == "text" else {ARGUMENT[modality]: [p.medium for p in prompts]}
    return processor(text=texts, **media)  # type: ignore[no-any-return]


def answers(model: Any, processor: Any, prompts: Sequence[Prompt], *, read: bool = False, size: int = 128) -> list[str]:
    """Greedy answers."""
    out: list[str] = []
    for start in range(0, len(prompts), size):
        inputs = encode(processor, prompts[start : start + size], read=read)
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=20, do_sample=False)
        out += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :])
    return out


def residuals(model: Any, processor: Any, prompts: Sequence[Prompt], size: int = 128) -> np.ndarray:
    """Block outputs at the last prompt token: (prompts, layers, width) float32."""
    rows: list[torch.Tensor] = []
    for start in range(0, len(prompts), size):
        inputs = encode(processor, prompts[start : start + size])
        found: list[torch.Tensor] = []
        hooks = [layer.register_forward_hook(_keep_last(found)) for layer in model.model.language_model.layers]
        try:
            with torch.no_grad():
                model.model(**inputs, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        rows.append(torch.stack(found, dim=1))
    return torch.cat(rows).numpy()


def _keep_last(found: list[torch.Tensor]) -> Callable[..., None]:
    """A forward hook that keeps a block's output at the last position (prompts are left-padded)."""

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[:, -1].float())

    return hook


def same(answer: str, expected: str) -> bool:
    """Normalised exact match: case and spacing do not count."""
    return answer.lower().split() == expected.lower().split()


def rates(prompts: Sequence[Prompt], found: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Counts (hits, n): refusals per role, and exact answers of benign and of near-miss prompts."""
    out: dict[str, tuple[int, int]] = {}
    for role in ROLES:
        rows = [(p, a) for p, a in zip(prompts, found, strict=True) if p.role == role]
        out[f"{role}_refusal"] = (sum(is_refusal(a) for _, a in rows), len(rows))
        if role != "harmful":
            out[f"{role}_exact"] = (sum(same(a, p.answer or "") for p, a in rows), len(rows))
    return out


def read_back(prompts: Sequence[Prompt], found: Sequence[str]) -> tuple[int, int]:
    """(exact readings, n)"""
    return sum(same(a, p.read_answer or "") for p, a in zip(prompts, found, strict=True)), len(prompts)
