"""Rows of a batch that begin alike are read once: all of the prompt but its last token, where no edit acts there.

    prompt without its last token     one row per different prompt, nothing edited: its keys and values
    last token and the answer         one row per (edit, prompt), edited; each continues a copy of them

What an edit of the newest token does to a row begins at the last prompt token, so S strengths of N prompts need N
beginnings and not S x N. Edits that look back at the prompt ("all" positions) keep the plain way, as do media and rows
that all differ. A model's cache is tried once against the plain way, and not used where the two disagree. Sums are the
same to rounding, as after any change of a batch's shape; the tests hold the answers to the same ids.
"""

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor

from ..models import anatomy, hf_module
from ..prompts.input_spec import input_spec_of
from ..traced.gate import remember
from ..traced.measure import agrees
from ..traced.write import on_rows
from .edits import Edit, SiteEdit, has_attached
from .loop import is_out_of_memory

LEAST = 192
"""Positions that must be saved: a further pass has a price of its own, that of so many on the embedded model."""

_TRUSTED: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def begun(model: Any, inputs: dict[str, Tensor], edit: Edit | None) -> dict[str, Any]:
    """What `generate` needs beside the inputs to begin at the last prompt token.

    Args:
        model: a loaded model, on this machine.
        inputs: of a batch, left-padded, as for `answers.generate_ids`.
        edit: what will be changed while it answers.

    Returns:
        `past_key_values`, new for this call, and where the model takes them `position_ids` (batch, pos); nothing where
        the batch is to run the plain way.
    """
    if edit is not None and not all(map(_newest_only, edit.parts)):
        return {}
    if not {"input_ids", "attention_mask"} <= inputs.keys():
        return {}
    shape = inputs["input_ids"].shape
    if anatomy(model).remote or shape[1] < 2 or any(value.shape != shape for value in inputs.values()):
        return {}
    if has_attached(hf_module(model)):  # an edit in hooks would take the beginning for the prompt
        return {}
    stems, copies = _stems(inputs)
    if (shape[0] - len(stems)) * (shape[1] - 1) < LEAST or not bool(inputs["attention_mask"][:, :-1].any(1).all()):
        return {}
    if not _trusted(model, inputs):
        return {}
    return _read(model, inputs, stems, copies)


def _newest_only(part: SiteEdit) -> bool:
    """Whether a part does nothing to the tokens before the newest one, and does not look at them."""
    function = part.tensors["function"] if part.function is on_rows else part.function
    return part.where == "last" or function is remember


def _stems(inputs: dict[str, Tensor]) -> tuple[list[int], list[int]]:
    """One row of each different beginning, and per row of the batch which of them is its own."""
    known: dict[tuple[int, ...], int] = {}
    stems: list[int] = []
    copies: list[int] = []
    for row, values in enumerate(torch.cat([value[:, :-1] for value in inputs.values()], 1).tolist()):
        copies.append(known.setdefault(tuple(values), len(known)))
        if len(known) > len(stems):
            stems.append(row)
    return stems, copies


def _read(model: Any, inputs: dict[str, Tensor], stems: list[int], copies: list[int]) -> dict[str, Any]:
    """Keys and values of the beginnings, a copy for every row that continues them."""
    module, accepts = hf_module(model), input_spec_of(model).accepts or frozenset()
    device = next(module.parameters()).device
    positions: dict[str, Any] = {}
    if "position_ids" in accepts:
        # Also where a model would count them itself: what it remembers for that has as many rows as it read last.
        positions["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    begin: dict[str, Any] = {name: value[stems, :-1].to(device) for name, value in (inputs | positions).items()}
    if "logits_to_keep" in accepts:
        begin["logits_to_keep"] = 1
    with torch.no_grad():
        cache = module(**begin, use_cache=True).past_key_values
    cache.reorder_cache(torch.tensor(copies, device=device))
    return {"past_key_values": cache, **positions}


def _trusted(model: Any, inputs: dict[str, Tensor]) -> bool:
    """Whether this model goes on from copied keys and values as if it had read the prompt; tried at first use."""
    if model not in _TRUSTED:
        try:
            _TRUSTED[model] = _tried(model, inputs)
        except Exception as error:  # whatever a cache raises when it is copied or goes on: the plain way then
            if is_out_of_memory(error):
                raise
            _TRUSTED[model] = False
    return _TRUSTED[model]


def _tried(model: Any, inputs: dict[str, Tensor]) -> bool:
    """Logits of two steps both ways, of the longest row and of the same without its first token, padded on the left."""
    longest = int(inputs["attention_mask"].sum(1).argmax())
    first = int(inputs["attention_mask"][longest].argmax())
    if inputs["input_ids"].shape[1] - first < 3:
        return False
    rows = {name: value[longest, first:].repeat(2, 1) for name, value in inputs.items()}
    padded = rows["attention_mask"]
    padded[1, 0] = 0
    if "position_ids" in rows:
        rows["position_ids"] = (padded.cumsum(-1) - 1).clamp_min(0)
    module = hf_module(model)
    device = next(module.parameters()).device
    twice = {name: value.repeat(2, 1).to(device) for name, value in rows.items()}
    settings = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = module.generate(**twice, **settings)  # type: ignore[operator]
        quick = module.generate(**(twice | _read(model, twice, [0, 1], [0, 1, 0, 1])), **settings)  # type: ignore[operator]
    # Where two words were all but equally likely, the answers part, and what follows cannot be compared.
    same = torch.ones(4, dtype=torch.bool, device=device)
    for step, (found, expected) in enumerate(zip(quick.logits, plain.logits, strict=True)):
        if not bool(agrees(found, expected, found.dtype)[same].all()):
            return False
        place = step - len(plain.logits)
        same &= quick.sequences[:, place] == plain.sequences[:, place]
    return True
