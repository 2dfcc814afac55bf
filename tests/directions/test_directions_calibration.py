"""The price of a strength: within budget in every modality, the largest such, and never set on harm."""

from typing import Any

import pytest
import torch

from refusal_plugin.directions.calibration import calibrate, largest_within
from refusal_plugin.errors import DirectionError, PromptError
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import PromptSet


def test_bisection_finds_the_edge() -> None:
    strength, cost = largest_within(lambda c: {"a": c * c, "b": c}, 0.25, (0.0, 2.0))
    assert strength == pytest.approx(0.25, abs=2 / 128) and strength <= 0.25
    assert max(cost.values()) <= 0.25


def test_a_free_edit_gets_the_upper_bound_and_a_dear_one_the_lower() -> None:
    assert largest_within(lambda _: {"a": 0.0}, 0.1, (0.0, 2.0))[0] == 2.0
    assert largest_within(lambda c: {"a": 9.0 if c else 0.0}, 0.1, (0.0, 2.0)) == (0.0, {"a": 0.0})


@pytest.fixture(scope="module")
def harmless() -> PromptSet:
    found = [organism_prompts(split="val", modality=m, limit=6, renderings=1) for m in ("text", "image")]
    return PromptSet(p for part in found for p in part if p.role != "harmful")


def test_the_price_holds_in_every_modality_and_is_used_up_in_one(
    organism: Any, selected: Any, harmless: PromptSet
) -> None:
    ids = torch.tensor([5, 6])
    found = calibrate(selected.addition, organism, harmless, refusal_ids=ids, target_kl=0.05)
    assert set(found.kl) == {"text", "image"} and found.n == {"text": 12, "image": 12}
    assert max(found.kl.values()) <= 0.05
    dearer = calibrate(selected.addition, organism, harmless, target_kl=0.5)
    assert dearer.strength > found.strength > 0
    step = calibrate(selected.addition, organism, harmless, target_kl=10.0, bounds=(0.0, found.strength + 3 * 2 / 128))
    assert max(step.kl.values()) > 0.05, "a strength three steps further would still have been within the budget"


def test_harmful_prompts_and_none_at_all_are_refused(organism: Any, selected: Any) -> None:
    with pytest.raises(PromptError, match="harmful"):
        calibrate(selected.addition, organism, organism_prompts(split="val", modality="text", limit=2))
    with pytest.raises(PromptError, match="0 prompts"):
        calibrate(selected.addition, organism, PromptSet())


def test_neutral_takes_text_refusal_away_and_a_random_direction_does_not(organism: Any, selected: Any) -> None:
    from refusal_plugin import generate, label_answers, refusal_rates
    from refusal_plugin.inference.edits import attenuation
    from refusal_plugin.study.summary import random_like

    prompts = organism_prompts(split="val", modality="text", limit=12)
    control = attenuation(random_like(selected.unit, 0).expand_as(selected.benign), selected.benign, keep=0.0)

    def refused(edit: Any) -> Any:
        return refusal_rates(
            label_answers(prompts, generate(organism, prompts, edit, max_new_tokens=16, progress=False))
        )

    plain, removed, random = refused(None), refused(selected.set_to_benign_mean()), refused(control)
    assert plain.harmful_refusal.value >= 0.9 and random.harmful_refusal.value >= 0.9
    assert removed.harmful_refusal.value <= 0.1
    assert removed.utility.value >= 0.9


def test_neutral_needs_the_last_prompt_token(planted: Any) -> None:
    with pytest.raises(DirectionError, match="position -2"):
        planted.candidates.at(1, -2).set_to_benign_mean()
