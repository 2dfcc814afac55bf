"""Quick ways that not every architecture allows are tried on a few rows against the plain way before they are believed.

A window of attention or a scaling of positions shows only in prompts that are long enough: a way is tried anew when its
rows reach the next power of two, and once it has failed at some length it is not taken at that length or beyond.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..models import anatomy, hf_module
from ..traced.measure import agrees
from .loop import is_out_of_memory

TRIED = 2
"""Prompts of a trial, the longest."""


@dataclass
class _Known:
    """Lengths, in powers of two: believed up to one, not from the other on."""

    good: int = -1
    bad: int = 10**9


_TRIALS: weakref.WeakKeyDictionary[Any, dict[str, _Known]] = weakref.WeakKeyDictionary()


Check: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From the streams of a quick way to some of them, and to the same streams of the plain way."""


def trusted(model: Any, way: str, length: int, quick: Callable[[], Tensor], check: Check) -> Tensor | None:
    """The quick result, or None where this model does not allow it.

    Args:
        model: a loaded model.
        way: name of the quick way, with the modality.
        length: columns of its longest row.
        quick: reads the streams, (..., d_model); whatever it raises counts as a failure.
        check: reads some of them the plain way.
    """
    known = _TRIALS.setdefault(model, {}).setdefault(way, _Known())
    size = length.bit_length()
    if size >= known.bad:
        return None
    try:
        found = quick()
    except Exception as why:  # whatever a cache or a mask raises: the plain way then says what is wrong
        if not is_out_of_memory(why):  # which says nothing of the model: the plain way halves its batches
            known.bad = size
        return None
    if size > known.good:
        if not bool(agrees(*check(found), next(hf_module(model).parameters()).dtype).all()):
            known.bad = size
            return None
        known.good = size
    return found if bool(torch.isfinite(found).all()) else None


def longest_row(model: Any) -> int:
    """Most columns that a packed row may have: the context, and the narrowest window of attention."""
    from transformers import DynamicCache

    limits: list[int] = [anatomy(model).context_length or 10**9]
    config: Any = hf_module(model).config
    try:
        kinds: Sequence[Any] = DynamicCache(config=config).layers
    except Exception:  # a cache of its own kind: nothing is known of its windows
        return 0
    return min(limits + [int(layer.sliding_window) for layer in kinds if getattr(layer, "is_sliding", False)])
