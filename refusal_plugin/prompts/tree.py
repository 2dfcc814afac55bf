"""Many prompts as one row in which every common beginning stands once: a prefix tree under its own attention mask.

    node          a token behind all tokens before it; prompts that begin alike share their first nodes
    position      the number of nodes before it on its own branch
    mask          a node sees itself and the nodes before it on its own branch, nothing else
    order         free, since mask and positions say all: the prompts' last tokens come last

A decoder computes at a node what it computes at that token of every prompt through it, to rounding: chat templates open
with the same text, and paired prompts with the same words. There is no padding. What reads or edits all positions alike
works on a tree as on rows; what means "the last token" has to ask `ends`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..traced.passes import additive
from .batch import Batch


@dataclass(frozen=True, eq=False)
class Branches:
    """Token sequences as one tree.

    Attributes:
        tokens, positions: (node,).
        sees: (node, node) bool: whether the first attends to the second.
        ends: (sequence,) the node of each sequence's last token; sequences that are equal share it.
        tail: the ends are among the last `tail` nodes.
    """

    tokens: Int[Tensor, " node"]
    positions: Int[Tensor, " node"]
    sees: Bool[Tensor, "node node"]
    ends: Int[Tensor, " sequence"]
    tail: int


@dataclass(frozen=True, eq=False)
class Trees:
    """Encoded text prompts as a few rows; takes a `Batch`'s place where no position is special but the ends.

    Attributes:
        inputs: `input_ids` and `position_ids` (tree, node), `attention_mask` (tree, 1, node, node), to be added to the
            logits of attention, or bool; further per-token inputs (tree, node). Shorter trees are padded in front.
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


def grow(sequences: Sequence[Sequence[int]]) -> Branches:
    """The prefix tree of token sequences, none of them empty."""
    nodes: dict[tuple[int, int], int] = {}  # (node before, token) to node; -1 is the root
    before: list[int] = []
    ends = []
    for sequence in sequences:
        place = -1
        for token in sequence:
            key = (place, token)
            if key not in nodes:
                nodes[key] = len(before)
                before.append(place)
            place = nodes[key]
        ends.append(place)
    sees = torch.eye(len(before), dtype=torch.bool)
    for node, earlier in enumerate(before):  # nodes come after those before them
        if earlier >= 0:
            sees[node] |= sees[earlier]
    last = sorted(set(ends))
    order = torch.tensor(sorted(set(range(len(before))) - set(last)) + last)
    column = order.argsort()
    tokens = torch.tensor([token for _, token in nodes])
    sees = sees[order][:, order]
    return Branches(tokens[order], sees.sum(1) - 1, sees, column[torch.tensor(ends)], len(last))


def portions(sequences: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Indices of sequences for trees of at most `most` nodes; those that begin alike come together.

    A sequence that is longer makes a tree of its own.
    """
    here: list[int] = []
    size, last = 0, None
    for index in sorted(range(len(sequences)), key=lambda k: list(sequences[k])):
        sequence = sequences[index]
        # In sorted order what a sequence shares with the tree it shares with the sequence before it.
        new = len(sequence) - (common(sequence, last) if last is not None else 0)
        if here and size + new > most:
            yield here
            here, size, new = [], 0, len(sequence)
        here.append(index)
        size, last = size + new, sequence
    if here:
        yield here


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    n = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        n += 1
    return n


def trees(
    batches: Sequence[tuple[list[int], Batch]],
    *,
    most: int,
    budget: int,
    dtype: torch.dtype | None,
    keep: Sequence[int],
) -> list[tuple[list[int], Trees]] | None:
    """The prompts of encoded batches as trees; None where they cannot be: media, or inputs that are not all alike.

    Args:
        batches: row numbers and batches of text prompts.
        most: nodes in one tree; a longer prompt is a tree of its own.
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
        real = batch.inputs["attention_mask"] == 1
        for row, ids, mask in zip(rows, batch.inputs["input_ids"], real, strict=True):
            every[row] = ids[mask].tolist()
    sequences = [every[row] for row in keep]
    grown = [(chosen, grow([sequences[k] for k in chosen])) for chosen in portions(sequences, most)]
    grown.sort(key=lambda one: len(one[1].tokens))
    made = []
    while grown:
        n = 1
        while n < len(grown) and (n + 1) * len(grown[n][1].tokens) <= budget:
            n += 1
        together, grown = grown[:n], grown[n:]
        made.append(([k for chosen, _ in together for k in chosen], _row_by_row([t for _, t in together], dtype)))
        zeros = torch.zeros_like(made[-1][1].inputs["input_ids"])
        made[-1][1].inputs.update({name: zeros.to(kind) for name, kind in others.items()})
    return made


def _row_by_row(branches: Sequence[Branches], dtype: torch.dtype | None) -> Trees:
    """Trees as rows of one batch, padded in front with nodes that see themselves alone."""
    n = max(len(one.tokens) for one in branches)
    ids, places = torch.zeros(len(branches), n, dtype=torch.long), torch.zeros(len(branches), n, dtype=torch.long)
    sees = torch.eye(n, dtype=torch.bool).repeat(len(branches), 1, 1)
    ends = []
    for row, one in enumerate(branches):
        first = n - len(one.tokens)
        ids[row, first:], places[row, first:], sees[row, first:, first:] = one.tokens, one.positions, one.sees
        ends.append(torch.stack([torch.full_like(one.ends, row), first + one.ends], 1))
    mask = sees.unsqueeze(1)
    inputs = {"input_ids": ids, "position_ids": places}
    inputs["attention_mask"] = mask if dtype is None else additive(mask, dtype)
    return Trees(inputs, torch.cat(ends), max(one.tail for one in branches))
