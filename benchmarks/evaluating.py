"""Answers under many defences: rows of (defence, strength, prompt) in shared batches, against separate runs."""

import warnings
from collections.abc import Iterable, Sequence

import torch

import refusal_plugin as rp
from refusal_plugin.inference.arms import generate_arms
from refusal_plugin.inference.edits import Edit
from refusal_plugin.prompts import Prompt

from .clock import Row, summary, take_turns
from .shapes import Shape, mixed


def rows(shape: Shape, *, repeats: int, prompts: int = 16, tokens: int = 16) -> list[Row]:
    """Against D x N runs of one prompt each in hooks on the bare model, and against D batched runs."""
    chosen, edits = list(mixed(shape, prompts)), arms(shape)
    facts = rp.anatomy(shape.model)
    settings = {"max_new_tokens": tokens, "do_sample": False}

    def plain(some: Sequence[Prompt], edit: Edit) -> None:
        inputs = rp.encode(shape.model, some).inputs
        with edit.attached(shape.bare, facts), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape.bare.generate(**inputs, **settings)  # type: ignore[operator]

    def one_by_one() -> None:
        for edit in edits.values():
            for prompt in chosen:
                plain([prompt], edit)

    def one_defence_at_a_time() -> None:
        for edit in edits.values():
            rp.generate(shape.model, chosen, edit, max_new_tokens=tokens, progress=False)

    def as_rows() -> None:
        generate_arms(shape.model, chosen, list(edits.values()), max_new_tokens=tokens, progress=False)

    mine, single, batched = take_turns((as_rows, one_by_one, one_defence_at_a_time), repeats, warm=False)
    name = f"answers of {tokens} tokens under {len(edits)} (defence, strength) x {len(chosen)} prompts as rows"
    return [
        summary(f"{name}, against one after the other", shape.name, ratios(single, mine), unit="x faster"),
        summary(f"{name}, against one batched run for each", shape.name, ratios(mine, batched)),
    ]


def ratios(top: Iterable[float], bottom: Iterable[float]) -> list[float]:
    """Of every repetition."""
    return [a / b for a, b in zip(top, bottom, strict=True)]


def arms(shape: Shape) -> dict[str, Edit]:
    """Three kinds of edit at two strengths, small enough that answers keep their length."""
    unit = torch.randn(shape.d_model, generator=torch.Generator().manual_seed(0))
    unit /= unit.norm()
    blocks, middle = range(shape.n_layers), shape.n_layers // 2
    found: dict[str, Edit] = {}
    for strength in (0.01, 0.02):
        found[f"one layer {strength}"] = rp.addition({middle: unit}, strength=strength)
        found[f"all layers {strength}"] = rp.addition(dict.fromkeys(blocks, unit), strength=strength, where="last")
    found["without, middle"], found["without, all"] = rp.ablation(unit, [middle]), rp.ablation(unit, blocks)
    return found
