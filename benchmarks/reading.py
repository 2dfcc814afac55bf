"""Reading the residual stream of every layer: against the bare forward pass, and against the usual way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import refusal_plugin as rp
from refusal_plugin.inference.prefix import collect_variants
from refusal_plugin.models import hf_layers

from . import clock
from .clock import Row, against, faster
from .shapes import Shape, mixed

REFUSAL = "w50 w51 w52 w53 w54 w55"
REFUSAL_ORGANISM = "I cannot assist with that."


def rows(shape: Shape, *, repeats: int, prompts: int = 64) -> list[Row]:
    """Two rows. Tokenization belongs to both sides of the first, one prompt at a time to one side of the second."""
    chosen, device = mixed(shape, prompts), next(shape.bare.parameters()).device

    def forward() -> None:
        with torch.no_grad():
            for _, batch in rp.batches(shape.model, chosen, token_budget=8192, max_rows=128):
                shape.bare(**batch.to(device).inputs, logits_to_keep=1)

    def read() -> None:
        rp.collect_activations(shape.model, chosen, progress=False)

    suffix = REFUSAL_ORGANISM if shape.name == "organism" else REFUSAL

    def both_arms() -> None:
        collect_variants(shape.model, chosen, (None, suffix), progress=False)

    return [
        against(
            f"residuals of all layers, {prompts} prompts, against the bare forward pass",
            shape.name,
            read,
            forward,
            repeats=repeats,
            target="<= 1.10" if shape.name.startswith("0.1B") else "",
        ),
        faster(
            f"residuals of {prompts} prompts in both arms, against one prompt at a time with hooks",
            shape.name,
            both_arms,
            usual_way(shape, chosen, suffix),
            repeats=repeats if shape.name == "organism" else 2,
            target=">= 8.00",
        ),
    ]


def on_all_cores(shape: Shape, *, repeats: int, prompts: int = 64, threads: int = 2) -> Row:
    """Both arms with the threads torch takes by itself on two cores: a single short prompt hardly fills the second."""
    chosen, before, clock_before = mixed(shape, prompts), torch.get_num_threads(), clock.CLOCK
    suffix = REFUSAL_ORGANISM if shape.name == "organism" else REFUSAL
    torch.set_num_threads(threads)
    clock.CLOCK = "wall"
    try:
        return faster(
            f"residuals of {prompts} prompts in both arms, {threads} threads by the wall clock, against one at a time",
            shape.name,
            lambda: collect_variants(shape.model, chosen, (None, suffix), progress=False),
            usual_way(shape, chosen, suffix),
            repeats=repeats,
            target=">= 8.00",
        )
    finally:
        torch.set_num_threads(before)
        clock.CLOCK = clock_before


def usual_way(shape: Shape, prompts: Any, suffix: str) -> Callable[[], None]:
    """One prompt at a time, a pass for `t` and one for `t + p`, every layer copied to the CPU by a hook."""
    blocks, device = hf_layers(shape.bare, rp.anatomy(shape.model)), next(shape.bare.parameters()).device

    def run() -> None:
        arms: dict[Any, list[torch.Tensor]] = {None: [], suffix: []}
        with torch.no_grad():
            for prompt in prompts:
                for text, found in arms.items():
                    batch = rp.encode(shape.model, prompt, suffix=text).to(device)
                    kept: list[torch.Tensor] = []

                    def keep(_module: nn.Module, _args: Any, output: Any, kept: list[torch.Tensor] = kept) -> None:
                        hidden = output[0] if isinstance(output, tuple) else output
                        kept.append(hidden.cpu().float()[0, -1].clone())

                    handles = [block.register_forward_hook(keep) for block in blocks]
                    shape.bare(**batch.inputs)
                    for handle in handles:
                        handle.remove()
                    found.append(torch.stack(kept))

    return run
