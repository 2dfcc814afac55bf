"""Sets of prompts with arms of their own: every row gives what its edit alone gives on its prompt alone."""

from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError, DirectionError, PromptError
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.arm_sets import ArmSet, generate_arm_sets, repeated, score_arm_sets
from refusal_plugin.inference.edits import NO_EDIT, addition, removal
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.inference.streams import some_pairs
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import PromptSet, encode

IDS = torch.tensor([5, 6])


@pytest.fixture(scope="module")
def sets(organism: Any) -> list[ArmSet]:
    """Arms that act in one layer, in all layers, at all positions, at the last one; media, text, and no prompts."""
    from refusal_plugin.organism.data import organism_prompts

    facts = anatomy(organism)
    asked = organism_prompts(split="test", modality=("text", "image", "audio"), renderings=1, limit=3)
    vectors = 20 * torch.randn(3, facts.d_model, generator=torch.Generator().manual_seed(0))
    means = torch.randn(facts.n_layers, facts.d_model, generator=torch.Generator().manual_seed(1))
    mixed = some_pairs(asked.filter(modality="image"), 2) + some_pairs(asked.filter(modality="audio"), 2)
    return [
        ArmSet(mixed, [NO_EDIT, *(addition({layer: vector}) for layer, vector in enumerate(vectors))]),
        ArmSet(PromptSet(), [addition({1: vectors[0]})]),
        ArmSet(asked.filter(modality="text"), [removal(vector, means, "benign_mean") for vector in vectors]),
        ArmSet(some_pairs(asked.filter(modality="audio"), 1), [removal(v, means, "project_out") for v in vectors[:2]]),
    ]


def test_every_arm_scores_what_its_edit_scores_alone(organism: Any, sets: list[ArmSet]) -> None:
    found = score_arm_sets(organism, sets, IDS, price=True)
    assert found[1].score.shape == (1, 0), "a set without prompts is a set"
    for one, scores in zip(sets, found, strict=True):
        if not len(one.prompts):
            continue
        encoded = Encoded.of(organism, one.prompts)
        plain = refusal_scores(organism, encoded, IDS, keep_logits=True)
        for arm, edit in enumerate(one.edits):
            want = refusal_scores(organism, encoded, IDS, edit if edit.parts else None, reference=plain.logits)
            assert torch.allclose(scores.score[arm], want.score, atol=1e-3), edit.name
            assert torch.allclose(scores.kl[arm], want.kl, atol=1e-3), edit.name
            assert edit.parts == () or bool((scores.kl[arm] > 0).any())
    assert all(torch.equal(one.kl, torch.zeros_like(one.kl)) for one in score_arm_sets(organism, sets, IDS))


def test_every_arm_answers_what_its_edit_answers_alone(organism: Any, sets: list[ArmSet]) -> None:
    for one, found in zip(sets, generate_arm_sets(organism, sets, max_new_tokens=5), strict=True):
        for edit, answers in zip(one.edits, found, strict=True):
            chosen = edit if edit.parts else None
            want = generate(organism, one.prompts, chosen, max_new_tokens=5, progress=False) if len(one.prompts) else []
            assert [(a.prompt_id, a.ids) for a in answers] == [(a.prompt_id, a.ids) for a in want]


def test_a_repeated_batch_is_the_batch_of_the_repeated_prompts(organism: Any, sets: list[ArmSet]) -> None:
    for m in ("image", "audio"):
        few = list(sets[0].prompts.filter(modality=m))
        again, want = repeated(encode(organism, few), 3), encode(organism, few * 3)
        assert again.prompts == want.prompts and set(again.inputs) == set(want.inputs)
        assert all(torch.equal(again.inputs[name], value) for name, value in want.inputs.items())
        assert all(torch.equal(again.roles[name], mask) for name, mask in want.roles.items())


def test_what_cannot_be_measured_is_said(organism: Any, sets: list[ArmSet]) -> None:
    facts, text = anatomy(organism), sets[2].prompts
    with pytest.raises(DirectionError, match="width"):
        score_arm_sets(organism, [ArmSet(text, [addition({0: torch.ones(facts.d_model + 1)})])], IDS)
    with pytest.raises(DataError, match="NaN or infinite logits at prompt"):
        huge = addition({layer: torch.full((facts.d_model,), 3e38) for layer in range(2)})
        score_arm_sets(organism, [ArmSet(text, [NO_EDIT, huge])], IDS)
    with pytest.raises(PromptError, match="max_new_tokens = 0"):
        generate_arm_sets(organism, [ArmSet(PromptSet(text), [NO_EDIT])], max_new_tokens=0)
