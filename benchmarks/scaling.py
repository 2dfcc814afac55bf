"""How cost grows: time with layers; what a safe space keeps with layers and width.

    python -m benchmarks --only scaling

Twice the layers of a model of the same width are twice the blocks, with no more of embedding, head or tokenization: so
that these do not hide the growth, reading stops behind the last block and the head never runs. What a safe space keeps
is counted in bytes, exactly: tensors have no moods.
"""

from collections.abc import Iterable
from itertools import pairwise

import torch

import refusal_plugin as rp
from refusal_plugin.geometry import Moments

from .clock import Job, Row, against, summary
from .shapes import random_qwen, word_prompts, words_tokenizer

LAYERS = 12
WIDTHS = (128, 256, 512)  # of the stream
ITEMS = 64  # items of a second moment


def rows(*, repeats: int, quick: bool = False) -> Iterable[Row]:
    """Time with layers, unless it must be quick; bytes with layers and width."""
    if not quick:
        yield depth(repeats)
    yield from kept()


def depth(repeats: int) -> Row:
    """Reading through twice as many blocks of the same width."""
    chosen = word_prompts(16)

    def read(layers: int) -> Job:
        module = random_qwen("0.1B", layers).eval().requires_grad_(False)
        model = rp.load(module, tokenizer=words_tokenizer())
        return lambda: rp.collect_activations(model, chosen, progress=False)

    name = f"residuals of all layers of a model of {2 * LAYERS} layers, against {LAYERS}"
    return against(name, "0.1B", read(2 * LAYERS), read(LAYERS), repeats=repeats, target="<= 2.20")


def kept() -> Iterable[Row]:
    """Bytes of what safe-space fitting keeps, at twice the layers, and at twice the width."""

    sizes = {(layers, width): size(layers, width) for layers in (LAYERS, 2 * LAYERS) for width in WIDTHS}
    name = "what a safe space keeps as second moments"
    deeper = [sizes[2 * LAYERS, width] / sizes[LAYERS, width] for width in WIDTHS]
    yield summary(f"{name}, {2 * LAYERS} layers against {LAYERS}", "-", deeper, "<= 2.00", "x memory")
    wider = [sizes[LAYERS, b] / sizes[LAYERS, a] for a, b in pairwise(WIDTHS)]
    yield summary(f"{name}, twice the width", "-", wider, "<= 4.00", "x memory")


def size(layers: int, width: int) -> int:
    """Bytes kept of random items."""
    items = torch.randn(ITEMS, layers, width, generator=torch.Generator().manual_seed(0))
    found = Moments.of(items, second="full")
    return sum(tensor.untyped_storage().nbytes() for tensor in (found.mean, found.m2))
