"""The price of a strength: within budget in every modality, the largest such, and never set on harm."""

from collections import Counter
from typing import Any

import pytest
import torch

from refusal_plugin.directions.calibration import TARGET_KL, KLPrice, at_price, calibrate, harmless_items, price
from refusal_plugin.directions.selection import select_direction
from refusal_plugin.errors import DirectionError, PromptError
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import PromptSet


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
    past = calibrate(selected.addition, organism, harmless, target_kl=10.0, bounds=(0.0, 1.05 * found.strength))
    assert max(past.kl.values()) > 0.05, "five percent further would no longer have been within the budget"
    assert found.looks <= 4


def test_the_price_of_an_answer_is_the_sum_over_its_tokens_and_begins_with_the_first(
    organism: Any, selected: Any, harmless: PromptSet
) -> None:
    images = harmless.filter(modality="image")
    whole, first = KLPrice(organism, images), KLPrice(organism, images, tokens=1)
    (all_of_it,), (begin,) = (part.costs(selected.addition, [0.5]) for part in (whole, first))
    assert len(begin.by_token) == 1 and len(all_of_it.by_token) == max(len(a) for a in whole.answers) + 1
    assert all_of_it.by_token[0] == pytest.approx(begin.kl, rel=1e-3, abs=1e-6)
    assert all_of_it.kl == pytest.approx(sum(all_of_it.by_token)) and all_of_it.kl > begin.kl


def test_what_breaks_behind_the_first_word_is_free_there_and_dear_over_the_answer(
    organism: Any, selected: Any, harmless: PromptSet
) -> None:
    """A push that begins with the second step: invisible to the price of the first token."""
    from refusal_plugin.inference.edits import Edit, SiteEdit
    from refusal_plugin.traced import gate, write

    def late(strength: float) -> Edit:
        note = SiteEdit(5, "resid_post", gate.remember, {"memory": "m", "gate": gate.always, "condition": {}}, "all")
        act = {"function": write.add, "tensors": {"vector": selected.vector}, "first": 1, "last": None}
        step = SiteEdit(5, "resid_post", gate.recall, {"memory": "m", "strength": strength, **act}, "last")
        return Edit("late", (note, step))

    images = harmless.filter(modality="image")
    first = price(late, {"image": KLPrice(organism, images, tokens=1)}, 0.05)
    whole = price(late, {"image": KLPrice(organism, images)}, 0.05)
    assert first.at_bound and first.kl["image"] == pytest.approx(0.0, abs=1e-6)
    assert not whole.at_bound and whole.strength < 2.0


def test_a_direction_says_whether_its_strength_was_priced(
    organism: Any, selected: Any, harmless: PromptSet, tmp_path: Any
) -> None:
    from refusal_plugin import Direction

    assert "not priced" in repr(selected)
    priced = at_price(selected, organism, harmless, target_kl=0.1)
    assert set(priced.price["kl"]) == {"text", "image"} and max(priced.price["kl"].values()) <= 0.1
    assert "costs image" in repr(priced) and priced.strength != selected.strength
    priced.save(tmp_path / "priced")
    assert Direction.load(tmp_path / "priced", organism).price == dict(priced.price)


def test_a_selected_direction_is_priced_like_any_other_where_harmless_prompts_are_given(
    organism: Any, selected: Any, candidates: Any, tokens: Any, val: PromptSet, harmless: PromptSet
) -> None:
    asked: dict[str, Any] = {"removal": False, "progress": False}
    harmful = organism_prompts(split="val", modality="image", limit=2).filter(role="harmful")
    found = select_direction(organism, candidates, val, tokens, harmless=harmless + harmful, **asked)
    same = at_price(selected, organism, harmless)
    assert (found.layer, found.strength, dict(found.price)) == (selected.layer, same.strength, dict(same.price))
    assert found.price["target_kl"] == TARGET_KL and "costs image" in repr(found)
    for other, error, options in (
        (harmful, PromptError, {}),
        (harmless, DirectionError, {"remote": True}),
    ):
        with pytest.raises(error, match="price a strength"):
            select_direction(organism, candidates, val, tokens, harmless=other, **asked, **options)


def test_a_price_rests_on_harmless_items_balanced_over_modalities_and_roles() -> None:
    prompts = organism_prompts(split="val", limit=20, renderings=1)
    some = harmless_items(prompts, 10)
    assert Counter((p.modality, p.role) for p in some) == {
        (m, role): 5 for m in ("text", "image", "video", "audio") for role in ("benign", "near_miss")
    }
    assert harmless_items(prompts).hash == prompts.filter(role=("benign", "near_miss")).hash


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
