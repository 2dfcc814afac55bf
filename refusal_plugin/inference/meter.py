"""What work costs, counted in the model itself: tokens that went through its blocks, whatever the clock says.

    passes = tokens x blocks that ran / number of blocks          forward; padding included, skipped blocks not
           + the same for every backward pass through them        (towards activations it costs about a forward pass)

A study says its cost in *equivalents*: passes divided by the real tokens of its prompts, so 1 is one bare pass over
them. Encoders of media and the output head are not counted.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..models import anatomy, hf_layers
from ..prompts import Prompt, batches
from ..traced.read import residual


@dataclass
class Meter:
    """Tokens through blocks, in the unit of a whole pass of the model.

    Attributes:
        n_blocks: of the model.
        block_tokens: tokens times blocks that ran.
        step_tokens: those of them that came one position at a time, as answers do.
    """

    n_blocks: int
    block_tokens: int = 0
    step_tokens: int = 0

    def tokens(self) -> float:
        """Tokens that whole passes would have taken."""
        return self.block_tokens / self.n_blocks


@contextmanager
def metered_blocks(model: Any) -> Iterator[Meter]:
    """Count inside the block, by hooks on a model of this machine (on a server nothing is counted)."""
    facts = anatomy(model)
    meter, handles = Meter(facts.n_layers), []

    def count(_module: Any, _args: Any, output: Any) -> None:
        hidden = residual(output)
        n = hidden.shape[:-1].numel()
        meter.block_tokens += n
        meter.step_tokens += n if hidden.ndim == 3 and hidden.shape[1] == 1 else 0
        if hidden.requires_grad:

            def back(_gradient: Tensor) -> None:
                meter.block_tokens += n

            hidden.register_hook(back)

    if not facts.remote:
        for block, parts in zip(hf_layers(model), facts.parts, strict=True):
            # A block that is left out calls its own hooks, but nothing inside it runs.
            inner = parts.attention or parts.mlp
            handles.append((block.get_submodule(inner) if inner else block).register_forward_hook(count))
    try:
        yield meter
    finally:
        for handle in handles:
            handle.remove()


def prompt_tokens(model: Any, prompts: Iterable[Prompt]) -> int:
    """Real tokens of some prompts as the model reads them, padding excluded."""
    return sum(batch.n_tokens for _rows, batch in batches(model, list(prompts)))
