"""Choosing a direction over all layers and template positions, against three full passes for every candidate."""

from dataclasses import replace
from typing import Any

import torch

import refusal_plugin as rp
from refusal_plugin.directions.direction import Candidates, template_positions
from refusal_plugin.directions.ranking import estimate
from refusal_plugin.evaluation.refusal_tokens import RefusalTokens
from refusal_plugin.inference.edits import ablation, addition
from refusal_plugin.prompts import PromptSet
from refusal_plugin.traced.measure import kl_divergence, refusal_score

from .clock import Row, summary, take_turns
from .shapes import Shape, word_prompts

Place = tuple[int, int]
# Random weights refuse nothing, so half of the vocabulary plays the refusal tokens and the KL filter lets all pass.
LIMITS: dict[str, float] = {"max_kl": 1e9, "max_depth": 0.8}


def rows(shape: Shape, *, repeats: int) -> list[Row]:
    """The embedded model: the whole table and the strength of the chosen one; the choice must be the reference's."""
    candidates, prompts, tokens = material(shape)
    chosen: dict[str, Place] = {}

    def plain() -> None:
        chosen["plain"] = reference(shape, candidates, prompts, tokens)

    def ours() -> None:
        options: dict[str, Any] = {"objective": "causal", "measured": "all", "progress": False, **LIMITS}
        found = rp.select_direction(shape.model, candidates, prompts, tokens, **options)
        chosen["ours"] = (found.layer, found.position)

    seconds = take_turns((plain, ours), repeats)
    if len(set(chosen.values())) != 1:
        raise AssertionError(f"the choices differ: {chosen}")
    n = f"{len(candidates.positions)} x {candidates.n_layers} candidates"
    ratios = [a / b for a, b in zip(*reversed(seconds), strict=True)]
    return [summary(f"selection among {n}, whole table and strength, against three passes each", shape.name, ratios)]


def ranked(shape: Shape, *, repeats: int) -> list[Row]:
    """Ranked by gradients, the most promising measured: against the reference's three passes for every candidate.

    The reference is timed on one candidate of a middle layer: its passes are equally long for all of them.
    """
    candidates, prompts, tokens = material(shape)
    one = replace(candidates, positions=(-1,), harmful=candidates.harmful[-1:], benign=candidates.benign[-1:])
    options: dict[str, Any] = {"objective": "causal", "progress": False, **LIMITS}

    def plain() -> None:
        reference(shape, one, prompts, tokens, only=candidates.n_layers // 2)

    def ours() -> None:
        rp.select_direction(shape.model, candidates, prompts, tokens, **options)

    def ranking() -> None:
        estimate(shape.model, candidates, prompts, tokens, objective="causal")

    n = len(candidates.positions) * candidates.n_layers
    seconds = take_turns((plain, ours, ranking), repeats, warm=False)
    what = f"among {len(candidates.positions)} x {candidates.n_layers} candidates"
    found = []
    for name, mine in ((f"selection {what}, choice and strength", seconds[1]), (f"ranking {what}", seconds[2])):
        ratios = [a / (b * n) for a, b in zip(mine, seconds[0], strict=True)]
        found.append(summary(f"{name}, against three passes each", shape.name, ratios, "<= 0.05"))
    return found


def material(shape: Shape) -> tuple[Candidates, PromptSet, RefusalTokens]:
    """Candidates, validation prompts, and the half of the vocabulary that is likeliest on benign prompts."""
    if shape.name == "organism":
        from refusal_plugin.organism.data import organism_prompts

        train = organism_prompts(split="train", modality="text", limit=20)
        val = organism_prompts(split="val", modality="text", limit=32).filter(role=("harmful", "benign"))
        positions = template_positions(shape.model, train)
    else:
        train, val = word_prompts(16, longest=20), word_prompts(8, longest=20, seed=1)
        positions = (-5, -4, -3, -2, -1)
    with torch.no_grad():
        logits = shape.bare(**rp.encode(shape.model, list(val.filter(role="benign"))).inputs).logits[:, -1].mean(0)
    tokens = RefusalTokens(logits.argsort(descending=True)[: len(logits) // 2], (), 1.0, 0.0, frozenset())
    return rp.fit_direction(shape.model, train, positions=positions, progress=False), val, tokens


def reference(
    shape: Shape, candidates: Candidates, prompts: PromptSet, tokens: RefusalTokens, only: int | None = None
) -> Place:
    """Arditi et al. 2024: per candidate, harmful with ablation, benign with ablation, benign with addition.

    Args:
        shape, candidates, prompts, tokens: what is chosen among, and where.
        only: the one layer that is measured, without the untouched pass; None for all.
    """
    facts = rp.anatomy(shape.model)
    inputs = {role: rp.encode(shape.model, list(prompts.filter(role=role))).inputs for role in ("harmful", "benign")}

    def logits(role: str, edit: Any = None) -> torch.Tensor:
        with torch.no_grad():
            if edit is None:
                return shape.bare(**inputs[role]).logits[:, -1]  # type: ignore[no-any-return]
            with edit.attached(shape.bare, facts):
                return shape.bare(**inputs[role]).logits[:, -1]  # type: ignore[no-any-return]

    untouched = logits("benign") if only is None else None
    kept: dict[Place, float] = {}
    for position in candidates.positions:
        for layer in range(candidates.n_layers) if only is None else (only,):
            direction = candidates.at(layer, position)
            removed = ablation(direction.unit, range(facts.n_layers))
            bypass = float(refusal_score(logits("harmful", removed), tokens.ids).mean())
            without = logits("benign", removed)
            kl = float(kl_divergence(without, without if untouched is None else untouched).mean())
            added = addition({layer: direction.vector})
            induce = float(refusal_score(logits("benign", added), tokens.ids).mean())
            if layer < LIMITS["max_depth"] * facts.n_layers and kl <= LIMITS["max_kl"] and induce >= 0:
                kept[layer, position] = bypass
    return min(kept, key=lambda place: kept[place], default=(-1, -1))
