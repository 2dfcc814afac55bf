"""Prompts that begin alike as trees: every common beginning stands once, and next to nothing is padding.

    <user> how do i bake bread <assistant>           <user> - how - do - i - bake - bread - <assistant>
    <user> how do i bake bread please <assistant>                      |             ` please - <assistant>
    <user> how do i bake a cake <assistant>                            `- - a - cake - <assistant>

A row holds the tokens of one tree, every branch behind the one before it. A token sees those it descends from, which a
mask of three dimensions says; its position is its depth. So a system text, the words that prompts share and the
beginning of a prompt with two endings are read once in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

WIDEST = 1024
"""Longest row that more than one prompt shares: a mask of a row takes the square of its length."""
MULTIPLE = 16
"""Rows are this many columns long, or twice, ...: attention on a CPU takes longer over 63 columns than over 64."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows of packed prompts.

    Attributes:
        ids: (row, pos) token ids, 0 on padding.
        positions: (row, pos) place of every token in its prompt, 0 on padding.
        visible: (row, pos, seen) bool, which columns a token sees; padding sees itself.
        rows, columns: (prompt,) where each prompt's last token stands.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor
    rows: Tensor
    columns: Tensor


def pack(prompts: Sequence[list[int]], *, width: int, head: int, most: int) -> Packed | None:
    """Packs prompts.

    Args:
        prompts: token ids, at least one each.
        width, head: of the residual stream and of an attention head, which say how much attention in a long row costs.
        most: longest row allowed.

    Returns:
        None where a prompt is longer than `most`.
    """
    if max(len(prompt) for prompt in prompts) > most:
        return None
    order = sorted(range(len(prompts)), key=lambda k: prompts[k])
    shared = [0, *(same(prompts[a], prompts[b]) for a, b in pairwise(order))]
    length, cuts = _cuts([len(prompts[k]) for k in order], shared, width, head, most)
    rows, columns = torch.empty(2, len(prompts), dtype=torch.long)
    trees, begin = [], 0
    for row, end in enumerate(cuts):
        tree = _Tree([], [], [])
        for n in range(begin, end):
            rows[order[n]] = row
            columns[order[n]] = tree.add(prompts[order[n]], shared[n] if n > begin else 0)
        trees.append(tree)
        begin = end
    ids = torch.tensor([tree.ids + [0] * (length - len(tree.ids)) for tree in trees])
    depths = torch.tensor([tree.depths + [0] * (length - len(tree.ids)) for tree in trees])
    until = torch.tensor([tree.until + [0] * (length - len(tree.ids)) for tree in trees])
    places = torch.arange(length)
    # Branches stand behind one another, so a token's descendants are all that stand between it and the last of them.
    visible = (places.unsqueeze(1) >= places) & (places.unsqueeze(1) <= until.maximum(places).unsqueeze(1))
    return Packed(ids, depths, visible, rows, columns)


@dataclass
class _Tree:
    """One row as it grows.

    Attributes:
        ids: token ids.
        depths: number of tokens before each in its prompt.
        until: column of each token's last descendant.
    """

    ids: list[int]
    depths: list[int]
    until: list[int]
    path: tuple[int, ...] = ()

    def add(self, prompt: list[int], shared: int) -> int:
        """Adds a prompt that shares its beginning with the one before; returns the column of its last token."""
        begin, new = len(self.ids), len(prompt) - shared
        self.path = (*self.path[:shared], *range(begin, begin + new))
        self.ids += prompt[shared:]
        self.depths += range(shared, len(prompt))
        self.until += [0] * new
        for column in self.path:
            self.until[column] = begin + new - 1
        return self.path[-1]


def _cuts(lengths: Sequence[int], shared: Sequence[int], width: int, head: int, most: int) -> tuple[int, list[int]]:
    """The row length that costs least, and where the rows end; every prompt shares `shared` tokens with the one before.

    Per token a block's linear maps take about 12 width² multiplications; attention over n columns takes 2 n width, and
    its exponentials about as much as 64 n for each of the width / head heads.
    """
    longest, best = max(lengths), (float("inf"), 0, [0])
    first = -(-longest // MULTIPLE) * MULTIPLE
    for room in range(first, max(first, min(WIDEST, 6 * longest)) + 1, MULTIPLE * max(1, longest // 64)):
        room = min(room, most)
        cuts, used, filled = [], 0, 0
        for n, (length, known) in enumerate(zip(lengths, shared, strict=True)):
            if used and used + length - known > room:
                cuts.append(n)
                used = 0
            used += length - (known if used else 0)
            filled = max(filled, used)
        cuts.append(len(lengths))
        filled = min(most, -(-filled // MULTIPLE) * MULTIPLE)
        best = min(best, (len(cuts) * filled * (6 * width + filled * (1 + 32 / head)), filled, cuts))
    return best[1:]


def same(left: list[int], right: list[int]) -> int:
    """Length of the common beginning."""
    n = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        n += 1
    return n
