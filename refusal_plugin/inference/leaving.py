"""Answers on this machine: `generate` in torch hooks, and rows that have ended leave the batch.

    plain      rows x steps of the longest answer
    leaving    a quarter of the rows has ended: `generate` stops, the others go on from their keys and values

A greedy answer is a function of what stands before it, so the ids are those of the whole batch. What an edit holds for
each row (vectors, strengths, what it remembers of a prompt) leaves with the row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..models import hf_module
from ..models.generation import enough_ended, greedy
from ..traced.read import next_logits
from ..traced.write import on_rows
from .edits import BOUND, Edit
from .prefix import PLACES, device_of

SHARE = 0.25
"""Share of the rows that has to end before the others go on alone: each time costs a call of `generate`."""

Memories: TypeAlias = dict[str, dict[str, Any]]


def generate_here(
    model: Any,
    inputs: Mapping[str, Any],
    edit: Edit,
    max_new_tokens: int,
    stop: Collection[int],
    *,
    leave: bool,
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, " batch"]]:
    """Greedy answers of one encoded batch under an edit.

    Args:
        model: a loaded model, on this machine.
        inputs: of `generate`, left-padded; with the keys and values of what was read before.
        edit: what acts.
        max_new_tokens: longest answer.
        stop: token ids that end an answer.
        leave: whether rows may leave; else the batch runs until the last has ended.

    Returns:
        the new tokens, what follows an end token without meaning; per row whether all logits were finite.
    """
    module, device = hf_module(model), device_of(model)
    given = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    n = len(given["input_ids"])
    new, good = torch.full((n, max_new_tokens), min(stop, default=0)), torch.ones(n, dtype=torch.bool)
    rows, done, memories = torch.arange(n), 0, Memories()
    ends = torch.tensor(sorted(stop), dtype=torch.long, device=device)
    while True:
        finite: list[Tensor] = []
        handle = None
        try:
            with edit.attached(model, memories=memories), torch.no_grad():
                handle = module.register_forward_hook(
                    lambda _module, _args, output: finite.append(next_logits(output).amax(-1).isfinite())  # noqa: B023
                )
                settings = greedy(max_new_tokens - done) | {"return_dict_in_generate": True}
                settings["stopping_criteria"] = enough_ended(ends, SHARE if leave else 1.0)
                found = module.generate(**given, **settings)  # type: ignore[operator]
        finally:
            if handle is not None:
                handle.remove()
        said = found.sequences[:, given["input_ids"].shape[1] :]
        new[rows, done : done + said.shape[1]] = said.cpu()
        good[rows] &= torch.stack(finite).all(0).cpu()
        done += said.shape[1]
        stay = (~torch.isin(said, ends).any(1)).nonzero()[:, 0]
        if done >= max_new_tokens or not len(stay) or not leave:
            return new[:, :done], good
        edit, memories = _edit_of(edit, stay.tolist(), memories)
        given = _inputs_of(module, given, found, stay)
        rows = rows[stay.cpu()]


def _inputs_of(module: Any, given: Mapping[str, Any], found: Any, stay: Tensor) -> dict[str, Any]:
    """Inputs of the rows that stay: what was said counts as read, but for the newest token."""
    longer = found.sequences.shape[1] - given["input_ids"].shape[1]
    inputs: dict[str, Any] = {"input_ids": found.sequences[stay]}
    for name in (name for name in PLACES if name in given and name not in inputs):
        value = given[name][stay]
        steps = torch.arange(1, longer + 1, device=value.device) if name == "position_ids" else 0
        inputs[name] = torch.cat([value, value[:, -1:].expand(-1, longer) + steps], 1)
    for part in module.modules():
        deltas = getattr(part, "rope_deltas", None)
        if isinstance(deltas, Tensor) and len(deltas) == len(found.sequences):
            part.rope_deltas = deltas[stay]
    found.past_key_values.reorder_cache(stay)
    return inputs | {"past_key_values": found.past_key_values}


def _edit_of(edit: Edit, stay: Sequence[int], memories: Memories) -> tuple[Edit, Memories]:
    """An edit of the rows that stay, and what it remembers of them."""
    kept, parts = Memories(), []
    for part in edit.parts:
        own = part.tensors["rows"].tolist() if part.function is on_rows else None
        places = stay if own is None else [place for place, row in enumerate(own) if row in stay]
        if places:
            tensors = _rows_of(part.tensors, places, memories, kept)
            if own is not None:
                tensors["rows"] = torch.tensor([stay.index(own[place]) for place in places])
            parts.append(replace(part, tensors=tensors))
    return replace(edit, parts=tuple(parts)), kept


def _rows_of(tensors: Mapping[str, Any], places: Sequence[int], memories: Memories, kept: Memories) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            value = _rows_of(value, places, memories, kept)
        elif name == "memory":
            known = memories.get(value, {})
            kept[value] = {what: v[places] if isinstance(v, Tensor) else v for what, v in known.items()}
        elif name in BOUND and isinstance(value, Tensor) and value.ndim == 3 and len(value) > 1:
            value = value[places]
        found[name] = value
    return found
