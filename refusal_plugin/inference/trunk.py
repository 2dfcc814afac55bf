"""Blocks before the first edited one run once for rows that are the same prompts.

    S strengths of a vector added behind block l of L     blocks 0 ... l once for each prompt, the others S times

The model's own forward pass makes masks and positions, and the encoders of media run, for every row; the blocks hand on
the stream that is known instead of running. For passes without a cache.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import anatomy, hf_layers, hf_module
from ..traced.read import residual
from .edits import Edit


class Enough(Exception):
    """Raised in a block's hook: what lies behind that block has nothing to say."""


def untouched_blocks(model: Any, edit: Edit | None) -> int:
    """How many blocks from the first on put out what they put out without the edit, before it acts."""
    parts = () if edit is None else edit.parts
    return min((p.layer + (p.site == "resid_post") for p in parts), default=anatomy(model).n_layers)


@contextlib.contextmanager
def left_out(model: Any, inputs: dict[str, Any], rows: Sequence[int], depth: int) -> Iterator[None]:
    """Within, the first `depth` blocks are left out: behind them row i has the stream of row `rows[i]` of `inputs`.

    Args:
        model: a loaded model, on this machine, with no edit attached yet.
        inputs: of a pass over every prompt once, read up to there on entering.
        rows: one for each row of the passes within.
        depth: at least 1.
    """
    blocks = hf_layers(model)[:depth]
    kept: list[Any] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        kept.append(output)
        raise Enough

    handle = blocks[-1].register_forward_hook(keep)
    try:
        with torch.no_grad(), contextlib.suppress(Enough):
            hf_module(model)(**inputs)
    finally:
        handle.remove()
    (output,) = kept
    stream = residual(output)[torch.tensor(list(rows), device=residual(output).device)]

    def known(*_args: Any, **_options: Any) -> Any:
        own: Tensor = stream.clone()  # edits write in place
        return (own, *[None] * (len(output) - 1)) if isinstance(output, (tuple, list)) else own

    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = known
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
