"""Blocks before the first edit run once per prompt: scores and prices of the plain way, whatever the family."""

from typing import Any

import pytest
import torch

from refusal_plugin.directions.calibration import KLPrice
from refusal_plugin.inference import prefix
from refusal_plugin.inference.arm_sets import ArmSet, score_arm_sets
from refusal_plugin.inference.edits import NO_EDIT, Edit, SiteEdit, addition, together
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.inference.trunk import untouched_blocks
from refusal_plugin.models import anatomy, hf_layers, load
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.traced.write import add
from tests.support.counting import counted
from tests.support.tiny import FAMILIES, tiny_model

PROMPTS = PromptSet(Prompt(text, id=text) for text in ("w1 w2 w3", "w5 w6 w7 w8 w9 w10", "w11 w12"))
IDS = torch.tensor([5, 6, 7])


def added(model: Any, layer: int, strength: float = 1.0) -> Edit:
    width = anatomy(model).d_model
    return addition({layer: torch.randn(width, generator=torch.Generator().manual_seed(layer))}, strength=strength)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma3n"])  # four streams: no edit
def test_scores_are_those_of_each_edit_alone_in_every_family(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "LEAST", 1)
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    edits = [added(model, layer, c) for layer in range(anatomy(model).n_layers) for c in (0.5, -1.0)]
    forwards = [vars(block).get("forward") for block in hf_layers(model)]
    (found,) = score_arm_sets(model, [ArmSet(PROMPTS, edits)], IDS, price=True)
    encoded = Encoded.of(model, PROMPTS)
    plain = refusal_scores(model, encoded, IDS, keep_logits=True).logits
    for arm, edit in enumerate(edits):
        alone = refusal_scores(model, encoded, IDS, edit, reference=plain)
        torch.testing.assert_close(found.score[arm], alone.score, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(found.kl[arm], alone.kl, atol=2e-3, rtol=1e-3)
    assert [vars(block).get("forward") for block in hf_layers(model)] == forwards, "blocks run again"


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_price_behind_the_trunk_is_the_price_and_reads_the_trunk_once(
    organism: Any, modality: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = organism_prompts(split="val", modality=modality, limit=8, renderings=1).filter(role="benign")
    part, layers = KLPrice(organism, prompts, IDS), anatomy(organism).n_layers
    strengths = [0.1 * k for k in range(1, 9)]
    part.costs(lambda c: added(organism, layers - 2, c), strengths)  # and the trial
    with counted(organism) as quick:
        found = part.costs(lambda c: added(organism, layers - 2, c), strengths)
    monkeypatch.setattr(prefix, "LEAST", 10**12)
    with counted(organism) as plain:
        expected = part.costs(lambda c: added(organism, layers - 2, c), strengths)
    for one, other in zip(found, expected, strict=True):
        assert one.by_token == pytest.approx(other.by_token, abs=1e-4) and one.refused == other.refused
    share = ((layers - 1) / len(strengths) + 1) / layers
    assert quick.block_tokens == pytest.approx(share * plain.block_tokens, rel=0.05)


def test_an_edit_says_which_blocks_it_leaves_as_they_are(organism: Any) -> None:
    vector = torch.ones(anatomy(organism).d_model)
    inside = Edit("inside", (SiteEdit(3, "attn_out", add, {"vector": vector, "strength": 1.0}),))
    assert untouched_blocks(organism, addition({3: vector})) == 4, "it acts on what block 3 has put out"
    assert untouched_blocks(organism, inside) == 3
    assert untouched_blocks(organism, together("both", inside, addition({1: vector}))) == 2
    assert untouched_blocks(organism, NO_EDIT) == untouched_blocks(organism, None) == anatomy(organism).n_layers
