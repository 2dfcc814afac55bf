"""Steered generation at every layer and step, against the same model unsteered; strengths as rows of one batch."""

import warnings

import torch

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
