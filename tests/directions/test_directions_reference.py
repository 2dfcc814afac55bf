"""The selection against the algorithm of the paper, re-created by plain hooks (`tests/support/reference.py`)."""

import math
from typing import Any

import pytest
import torch

import refusal_plugin as rp
from refusal_plugin.inference.edits import site_module
from refusal_plugin.models import anatomy, layers
from refusal_plugin.prompts import PromptSet
from tests.support.reference import Reference


def reference_of(model: Any, ids: torch.Tensor) -> Reference:
    module, facts = model._module, anatomy(model)
    inside = [layer._module for layer in layers(model)]
    writers = [
        [site_module(block, n, site, facts) for site in ("attn_out", "mlp_out")] for n, block in enumerate(inside)
    ]
    return Reference(module, inside, writers, ids)


def tokens_of(model: Any, prompts: PromptSet) -> list[torch.Tensor]:
    return [rp.encode(model, [prompt]).inputs["input_ids"][0] for prompt in prompts]


@pytest.fixture(scope="module")
def small(organism: Any) -> dict[str, Any]:
    text = rp.own_prompts(organism).filter(modality="text")
    some = {
        split: text.filter(split=split, role="harmful")[:6] + text.filter(split=split, role="benign")[:6]
        for split in ("train", "val")
    }
    tokens = rp.refusal_tokens(organism, some["train"])
    return {**some, "tokens": tokens, "reference": reference_of(organism, tokens.ids)}


def compare(model: Any, train: PromptSet, val: PromptSet, tokens: Any, reference: Reference) -> None:
    """The same directions (1e-4), the same figures (1e-3), the same choice or one within its interval."""
    candidates = rp.fit_direction(model, train)
    streams = {role: reference.streams(tokens_of(model, train.filter(role=role))) for role in ("harmful", "benign")}
    directions = streams["harmful"].mean(0) - streams["benign"].mean(0)
    for layer, direction in enumerate(directions):
        ours = candidates.at(layer, -1).vector
        assert float((ours - direction).norm() / direction.norm()) <= 1e-4
    chosen = rp.select_direction(model, candidates, val, tokens, objective="causal")
    asked = [tokens_of(model, val.filter(role=role)) for role in ("harmful", "benign")]
    found = [reference.figures(direction, layer, *asked) for layer, direction in enumerate(directions)]
    for row, theirs in zip(chosen.table, found, strict=True):
        if math.isnan(row["bypass"]):  # ranked by gradients and not among the promising ones
            continue
        assert row["bypass"] == pytest.approx(theirs.bypass, abs=1e-3, rel=1e-3)
        assert row["induce"] == pytest.approx(theirs.induce, abs=1e-3, rel=1e-3)
        assert row["kl_ablate"] == pytest.approx(theirs.kl, abs=1e-3, rel=1e-3)
    best = found[reference.choice(found)]
    assert found[chosen.layer].bypass <= best.bypass + 1.96 * best.error


def test_the_embedded_model_gets_the_direction_of_the_papers_algorithm(organism: Any, small: dict[str, Any]) -> None:
    compare(organism, small["train"], small["val"], small["tokens"], small["reference"])
