"""Steered generation at every layer and step, against the same model unsteered; strengths as rows of one batch."""

import warnings
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

import refusal_plugin as rp
from refusal_plugin.inference.answers import generate_ids
from refusal_plugin.inference.arms import generate_arms

from .clock import Row, against, summary, take_turns
from .shapes import Shape, mixed


def rows(shape: Shape, *, repeats: int, prompts: int = 8, tokens: int = 64) -> list[Row]:
    """In a trace, and in plain torch hooks."""
    batch = rp.encode(shape.model, list(mixed(shape, prompts)))
    device = next(shape.bare.parameters()).device
    inputs = batch.to(device).inputs
    edit = rp.addition({layer: torch.zeros(shape.d_model) for layer in range(shape.n_layers)}, where="last")
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

    def plain() -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape.bare.generate(**inputs, **settings)  # type: ignore[operator]

    def hooked() -> None:
        with edit.attached(shape.bare, rp.anatomy(shape.model)):
            plain()

    def traced() -> None:
        generate_ids(shape.model, inputs, edit, max_new_tokens=tokens)

    if shape.name == "organism":  # it ends its answers, and the zero edit does not change them
        settings.pop("min_new_tokens")
    seconds = take_turns((plain, traced, hooked), repeats)
    what = f"generation of {tokens} tokens, {prompts} prompts, edited at every layer"
    found = []
    for name, times, limit in (("in a trace", seconds[1], "<= 1.25"), ("in torch hooks", seconds[2], "<= 1.03")):
        target = limit if shape.name.startswith("0.1B") else ""
        ratios = [a / b for a, b in zip(times, seconds[0], strict=True)]
        found.append(summary(f"{what}, {name}, against unsteered generate", shape.name, ratios, target))
    return found


def varied(
    shape: Shape, *, repeats: int, prompts: int = 24, tokens: int = 32, sizes: Sequence[int] = (8, 24)
) -> list[Row]:
    """Answers that end at different steps under an edit, from prompts to text, against unsteered generate.

    The end of an answer is drawn from its tokens and its length, one in sixteen steps; the baseline is given the same
    prompts in batches of each size.
    """
    chosen = list(mixed(shape, prompts))
    edit = rp.addition({layer: torch.zeros(shape.d_model) for layer in range(shape.n_layers)}, where="last")
    end = int(shape.bare.config.vocab_size) - 1  # type: ignore[arg-type,union-attr]

    def ending(_module: nn.Module, args: tuple[torch.Tensor, ...], logits: torch.Tensor) -> torch.Tensor:
        logits[..., end] = torch.where((args[0][..., 0].double() * 997).floor() % 16 == 0, 1e4, -1e4).to(logits.dtype)
        return logits

    settings = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": end}
    twins = [rp.models.hf_module(shape.model), shape.bare]
    handles = [twin.get_output_embeddings().register_forward_hook(ending) for twin in twins]  # type: ignore[operator]
    rp.models.hf_module(shape.model).generation_config.eos_token_id = end  # type: ignore[union-attr]

    def plain(size: int) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _, batch in rp.batches(shape.model, chosen, token_budget=8192, max_rows=size):
                shape.bare.generate(**batch.inputs, **settings)  # type: ignore[operator]

    def ours() -> None:
        rp.generate(shape.model, chosen, edit, max_new_tokens=tokens, progress=False)

    try:
        seconds = take_turns((ours, *(partial(plain, size) for size in sizes)), repeats)
    finally:
        for handle in handles:
            handle.remove()
        rp.models.hf_module(shape.model).generation_config.eos_token_id = None  # type: ignore[union-attr]
    mine, *theirs = seconds
    same = theirs[sizes.index(prompts)]
    best = [min(times) for times in zip(*theirs, strict=True)]
    what = f"{prompts} answers of up to {tokens} tokens that end when they end, edited at every layer, against generate"
    rows = (("in the same batch", same, "<= 1.05"), ("at its best batch size", best, "<= 1.11"))
    return [
        summary(f"{what} {how}", shape.name, [a / b for a, b in zip(mine, base, strict=True)], target)
        for how, base, target in rows
    ]


def strengths(shape: Shape, *, repeats: int, prompts: int = 8, n: int = 8, tokens: int = 16) -> Row:
    """`n` strengths as rows of shared batches, encoded and decoded, against one bare generation for each."""
    chosen = list(mixed(shape, prompts))
    inputs = rp.encode(shape.model, chosen).inputs
    vector = torch.randn(shape.d_model, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()
    layers = dict.fromkeys(range(shape.n_layers), vector)
    edits = [rp.addition(layers, strength=strength, where="last") for strength in torch.linspace(0.0, 0.7, n).tolist()]

    def one_by_one() -> None:
        for edit in edits:
            generate_ids(shape.model, inputs, edit, max_new_tokens=tokens)

    def as_rows() -> None:
        generate_arms(shape.model, chosen, edits, max_new_tokens=tokens, progress=False)

    name = f"{n} strengths of an edit as rows, {tokens} tokens, against one run for each"
    return against(name, shape.name, as_rows, one_by_one, repeats=repeats, target="<= 0.50")
