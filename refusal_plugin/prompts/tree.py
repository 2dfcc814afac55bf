"""Packed prompts as a batch: what takes a `Batch`'s place where no position is special but the prompts' ends.

Mask and positions say all, so the order of the columns is free, and the prompts' last tokens come last: the output head
need not run before them. What reads or edits all positions alike works on trees as on rows; what means "the last token"
has to ask `ends`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..traced.passes import additive
from .batch import Batch
from .packing import Packed, pack


@dataclass(frozen=True, eq=False)
class Trees:
    """Encoded text prompts as a few rows, each a prefix tree (see `packing`).

    Attributes:
        inputs: `input_ids` and `position_ids` (tree, node), `attention_mask` (tree, 1, node, node), to be added to the
            logits of attention, or bool; further per-token inputs (tree, node).
        ends: (prompt, 2) row and column of each prompt's last token.
        tail: the ends are among the last `tail` columns.
    """

    inputs: dict[str, Tensor]
    ends: Int[Tensor, "prompt 2"]
    tail: int

    @property
    def size(self) -> int:
        """Number of prompts."""
        return len(self.ends)

    @property
    def n_tokens(self) -> int:
        """Number of nodes, padding included."""
        return self.inputs["input_ids"].numel()

    def deepest(self) -> tuple[list[int], Trees]:
        """The tree that holds the longest prompt: which prompts are in it, and it alone."""
        row = int(self.inputs["position_ids"].max(1).values.argmax())
        here = (self.ends[:, 0] == row).nonzero().flatten()
        inputs = {name: value[row : row + 1] for name, value in self.inputs.items()}
        return here.tolist(), Trees(inputs, self.ends[here] - torch.tensor([row, 0]), self.tail)


def trees(
    batches: Sequence[tuple[list[int], Batch]],
    *,
    width: int,
    head: int,
    most: int,
    budget: int,
    dtype: torch.dtype | None,
    keep: Sequence[int],
) -> list[tuple[list[int], Trees]] | None:
    """The prompts of encoded batches as trees; None where they cannot be: media, or inputs that are not all alike.

    Args:
        batches: row numbers and batches of text prompts.
        width, head, most: see `packing.pack`.
        budget: nodes in one batch of trees.
        dtype: of the model, for the attention mask; None leaves it bool: whether the one sees the other.
        keep: the rows that are wanted, which are numbered anew in this order.

    Returns:
        row numbers and trees; every wanted row once.
    """
    every: dict[int, list[int]] = {}
    others: dict[str, torch.dtype] = {}
    for rows, batch in batches:
        for name, value in batch.inputs.items():
            if value.shape != (batch.size, batch.length):
                return None
            if name not in ("input_ids", "attention_mask", "position_ids"):
                if bool((value != 0).any()):
                    return None
                others[name] = value.dtype
        every |= dict(zip(rows, words(batch), strict=True))
    packed = pack([every[row] for row in keep], width=width, head=head, most=most)
    if packed is None:
        return None
    made = list(in_batches(packed, budget=budget, dtype=dtype))
    for _, some in made:
        ids = some.inputs["input_ids"]
        some.inputs.update({name: torch.zeros_like(ids, dtype=kind) for name, kind in others.items()})
    return made


def in_batches(packed: Packed, *, budget: int, dtype: torch.dtype | None) -> Iterator[tuple[list[int], Trees]]:
    """Packed rows in batches of at most `budget` nodes, ends in the last columns; numbers of prompts, and trees."""
    n_rows, length = packed.ids.shape
    is_end = torch.zeros(n_rows, length, dtype=torch.bool)
    is_end[packed.rows, packed.columns] = True
    order = is_end.int().argsort(dim=1, stable=True)
    column = order.argsort(1)  # of each old column the new one
    ids, places = packed.ids.gather(1, order), packed.positions.gather(1, order)
    sees = packed.visible.gather(1, order.unsqueeze(2).expand(-1, -1, length))
    sees = sees.gather(2, order.unsqueeze(1).expand(-1, length, -1))
    ends = torch.stack([packed.rows, column[packed.rows, packed.columns]], 1)
    step = max(1, budget // length)
    for first in range(0, n_rows, step):
        here = slice(first, first + step)
        some = ((packed.rows >= first) & (packed.rows < first + step)).nonzero().flatten()
        mask = sees[here].unsqueeze(1)
        inputs = {"input_ids": ids[here], "position_ids": places[here]}
        inputs["attention_mask"] = mask if dtype is None else additive(mask, dtype)
        yield some.tolist(), Trees(inputs, ends[some] - torch.tensor([first, 0]), int(is_end[here].sum(1).max()))


def words(batch: Batch) -> list[list[int]]:
    """The token ids of rows without media."""
    lengths = batch.inputs["attention_mask"].sum(1).tolist()
    return [ids[len(ids) - n :] for ids, n in zip(batch.inputs["input_ids"].tolist(), lengths, strict=True)]
