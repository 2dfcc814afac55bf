"""Reading streams of prompts that begin alike, once: in packed rows, or behind the keys and values of the beginning.

With torch hooks: a trace would check every input against the rows of `input_ids`, and positions of multimodal rotary
embeddings have three rows.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models import hf_layers, hf_module
from ..prompts.batch import PER_TOKEN, Batch
from ..prompts.input_spec import input_spec_of
from ..prompts.packing import Packed, same
from ..traced.passes import additive
from ..traced.read import residual


@dataclass(frozen=True, eq=False)
class Stem:
    """Rows that were read whole, and the keys and values they left.

    Attributes:
        batch: the rows.
        streams: their `resid_post` at the last token, float32.
        cache: keys and values.
        deltas: (row, 1), how far a model with multimodal rotary positions is ahead of the count of tokens; else None.
    """

    batch: Batch
    streams: Float[Tensor, "row layer d_model"]
    cache: Any
    deltas: Tensor | None


@dataclass(frozen=True, eq=False)
class Branches:
    """Where branches leave a stem, and with what; branch by branch behind one another.

    Attributes:
        drops: of every branch, how many tokens at the stem's end it does not see.
        lengths: of every branch, its number of tokens.
        tokens: (row, all branches' tokens).
    """

    drops: tuple[int, ...]
    lengths: tuple[int, ...]
    tokens: Int[Tensor, "row new"]


def branches_of(stem: Batch, own: Sequence[list[int]], arms: Sequence[Sequence[list[int]]]) -> Branches | None:
    """The branches' tokens behind the beginning they share with the stem; None where they are no branches of it.

    Args:
        stem: the encoded rows that are read whole.
        own: the token ids of these rows, a medium as one token.
        arms: the token ids of the branches, per branch and row. A medium before the place where they part counts as
            one token there, which does not move the distance from the end.
    """
    drops, lengths, tails = [], [], []
    for rows in arms:
        drop = max(len(mine) - same(mine, row[:-1]) for mine, row in zip(own, rows, strict=True))
        tail = [list(row[len(mine) - drop :]) for mine, row in zip(own, rows, strict=True)]
        sizes = {len(part) for part in tail}
        if len(sizes) != 1 or 0 in sizes or drop >= stem.length:
            return None
        drops.append(drop)
        lengths.append(sizes.pop())
        tails.append(torch.tensor(tail))
    if bool(stem.roles["media"][:, stem.length - max(drops) :].any()):
        return None
    return Branches(tuple(drops), tuple(lengths), torch.cat(tails, 1))


def read_stem(model: Any, batch: Batch) -> Stem:
    """The rows of a batch, with their keys and values."""
    inputs: dict[str, Any] = {**batch.inputs, "use_cache": True}
    if "logits_to_keep" in (input_spec_of(model).accepts or ()):
        inputs["logits_to_keep"] = 1
    streams, output = _read(model, inputs, lambda hidden: hidden[:, -1], whole=True)
    return Stem(batch, streams, output.past_key_values, getattr(output, "rope_deltas", None))


def read_branches(
    model: Any, stem: Stem, branches: Branches, *, cut: bool = False
) -> Float[Tensor, "row branch layer d_model"]:
    """`resid_post` at the last token of every branch, float32; one pass over all branches' tokens.

    The branches stand behind one another and behind the whole stem; a mask of four dimensions hides the stem's end and
    the other branches.

    Args:
        model: a loaded model.
        stem: what they leave.
        branches: the branches.
        cut: cut the stem where its only branch leaves, for good; the usual mask will then do.
    """
    batch, (rows, new) = stem.batch, branches.tokens.shape
    real = batch.inputs["attention_mask"].bool()
    places = _places(real, branches)
    inputs: dict[str, Any] = {name: torch.zeros(rows, new, dtype=torch.long) for name in PER_TOKEN[2:]}
    inputs = {name: value for name, value in inputs.items() if name in batch.inputs}
    inputs |= {"input_ids": branches.tokens, "past_key_values": stem.cache, "use_cache": True}
    if cut:
        (drop,) = branches.drops
        if drop:
            stem.cache.crop(-drop)
        inputs["attention_mask"] = torch.cat([real[:, : batch.length - drop], real.new_ones(rows, new)], 1).long()
    else:
        inputs["attention_mask"] = _added(model, _seen(real, branches))
    if stem.deltas is not None:
        inputs["position_ids"] = (places + stem.deltas.cpu()).expand(3, -1, -1)
    elif "position_ids" in (input_spec_of(model).accepts or ()):
        inputs["position_ids"] = places
    ends = torch.tensor(branches.lengths).cumsum(0) - 1
    streams, _ = _read(model, inputs, lambda hidden: hidden[:, ends])
    if not cut:
        stem.cache.crop(-new)
    return streams


def read_packed(model: Any, packed: Packed) -> Float[Tensor, "prompt layer d_model"]:
    """`resid_post` at the last token of packed prompts, float32; one pass."""
    inputs: dict[str, Any] = {"input_ids": packed.ids, "attention_mask": _added(model, packed.visible)}
    inputs |= {"position_ids": packed.positions, "use_cache": False}
    return _read(model, inputs, lambda hidden: hidden[packed.rows, packed.columns])[0]


def _places(real: Tensor, branches: Branches) -> Tensor:
    """(row, new) places of the branches' tokens, counted over real tokens."""
    begun = real.sum(1, keepdim=True)
    parts = [begun - drop + torch.arange(n) for drop, n in zip(branches.drops, branches.lengths, strict=True)]
    return torch.cat(parts, 1)


def _seen(real: Tensor, branches: Branches) -> Tensor:
    """(row, new, stem + new) bool: what the branches' tokens see."""
    lengths = torch.tensor(branches.lengths)
    whose = torch.arange(len(lengths)).repeat_interleave(lengths)
    kept = real.shape[1] - torch.tensor(branches.drops)[whose]
    before = real.unsqueeze(1) & (torch.arange(real.shape[1]) < kept.unsqueeze(1))
    own = (whose.unsqueeze(1) == whose).tril().expand(len(real), -1, -1)
    return torch.cat([before, own], 2)


def _added(model: Any, visible: Tensor) -> Tensor:
    """What is added to attention's scores, (row, 1, pos, seen)."""
    added: Tensor = additive(visible.unsqueeze(1), next(hf_module(model).parameters()).dtype)
    return added


@cache
def keep_memory() -> None:
    """Lets glibc keep up to 62 MB of freed memory instead of handing it back after every block of a model on the CPU.

    It sets its limits by the largest block that was freed, up to 32 MB: here by one that nobody has touched. Otherwise
    the pages of every activation are mapped and cleared anew, which takes a third of a pass of a small model.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


class _Enough(Exception):
    """Raised behind the last block: the final norm and the output head have nothing to say."""


def _read(
    model: Any, inputs: dict[str, Any], pick: Callable[[Tensor], Tensor], *, whole: bool = False
) -> tuple[Float[Tensor, "*picked layer d_model"], Any]:
    """Streams of all layers at the picked places, float32, and where the pass goes on to its end the model's output."""
    module, blocks = hf_module(model), hf_layers(model)
    device = next(module.parameters()).device
    if device.type == "cpu":
        keep_memory()
    kept: list[Tensor] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        kept.append(pick(residual(output)).float())
        if len(kept) == len(blocks) and not whole:
            raise _Enough

    handles = [block.register_forward_hook(keep) for block in blocks]
    output = None
    try:
        with torch.no_grad(), contextlib.suppress(_Enough):
            output = module(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()})
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(kept, -2).cpu(), output
