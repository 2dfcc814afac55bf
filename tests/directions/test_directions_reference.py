"""The selection against the algorithm of the paper, re-created by plain hooks (`tests/support/reference.py`)."""

from typing import Any

import pytest
import torch

import refusal_plugin as rp
from refusal_plugin.directions.figures import measure
from refusal_plugin.directions.selection import choose
from refusal_plugin.errors import DirectionError
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


def compare(model: Any, train: PromptSet, val: PromptSet, tokens: Any, reference: Reference, every: int = 1) -> None:
    """The same directions (1e-4), the same figures (1e-3), the same choice or one within its interval.

    Figures of every n-th layer; where no candidate passes the filters of the paper, none may pass ours.
    """
    candidates = rp.fit_direction(model, train)
    streams = {role: reference.streams(tokens_of(model, train.filter(role=role))) for role in ("harmful", "benign")}
    directions = streams["harmful"].mean(0) - streams["benign"].mean(0)
    for layer, direction in enumerate(directions):
        ours = candidates.at(layer, -1).vector
        assert float((ours - direction).norm() / direction.norm()) <= 1e-4
    some = range(0, len(directions), every)
    figures = measure(model, candidates, val, tokens, places=[(layer, -1) for layer in some])
    asked = [tokens_of(model, val.filter(role=role)) for role in ("harmful", "benign")]
    found = {layer: reference.figures(directions[layer], layer, *asked) for layer in some}
    for layer, theirs in found.items():
        row = figures[layer, -1]
        assert row["bypass"] == pytest.approx(theirs.bypass, abs=1e-3, rel=1e-3)
        assert row["induce"] == pytest.approx(theirs.induce, abs=1e-3, rel=1e-3)
        assert row["kl_ablate"] == pytest.approx(theirs.kl, abs=1e-3, rel=1e-3)
    best = reference.choice(found)
    if best is None:
        with pytest.raises(DirectionError, match="passes"):
            choose(candidates, figures, objective="causal")
        return
    chosen = choose(candidates, figures, objective="causal")
    assert found[chosen.layer].bypass <= found[best].bypass + 1.96 * found[best].error


def test_the_embedded_model_gets_the_direction_of_the_papers_algorithm(organism: Any, small: dict[str, Any]) -> None:
    compare(organism, small["train"], small["val"], small["tokens"], small["reference"])
