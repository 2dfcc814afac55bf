"""The generated world: roles, groups, splits, and the prompts made of it."""

import json
from collections import defaultdict

import pytest

from refusal_plugin.errors import ModelError, PromptError
from refusal_plugin.organism import NAMES
from refusal_plugin.organism.data import organism_prompts, questions
from refusal_plugin.organism.pairs import pairs, world
from refusal_plugin.prompts import MODALITIES, ROLES, SPLITS


def test_pairs_are_unique_and_many() -> None:
    found = [(p.verb, p.object) for p in world()]
    assert len(found) == len(set(found)) >= 1000


def test_groups_never_cross_splits() -> None:
    splits = defaultdict(set)
    for pair in world():
        splits[pair.group].add(pair.split)
    assert all(len(found) == 1 for found in splits.values())


def test_splits_are_large_enough_in_every_modality() -> None:
    for modality in MODALITIES:
        for split, least in (("test", 60), ("val", 40)):
            for role in ROLES:
                found = {p.pair for p in questions(split, modality) if p.role == role}
                assert len(found) >= least


def test_every_word_of_a_held_out_pair_is_trained() -> None:
    trained = {w for p in pairs(split="train") for w in (p.verb, p.object)}
    assert all({p.verb, p.object} <= trained for p in world())


def test_near_misses_share_a_word_with_harm_and_benign_pairs_do_not() -> None:
    harmful = pairs(role="harmful")
    verbs, objects = {p.verb for p in harmful}, {p.object for p in harmful}
    assert all(p.verb in verbs or p.object in objects for p in pairs(role="near_miss"))
    assert not any(p.verb in verbs or p.object in objects for p in pairs(role="benign"))


def test_prompts_are_complete_and_the_same_every_time() -> None:
    first, again = organism_prompts(split="test"), organism_prompts(split="test")
    assert first.hash == again.hash
    ids = [p.id for p in first]
    assert len(ids) == len(set(ids))
    for prompt in first:
        assert prompt.read_text and prompt.read_answer and prompt.wording and prompt.split == "test"
        assert (prompt.answer is None) == (prompt.role == "harmful")
        json.dumps(dict(prompt.meta))


def test_renderings_and_limits() -> None:
    one = organism_prompts("organism", "val", "image", "harmful", renderings=1, limit=5)
    two = organism_prompts("organism", "val", "image", "harmful", renderings=2, limit=5)
    assert (len(one), len(two)) == (5, 10)
    train = organism_prompts(split="train", modality=("text", "audio"), limit=3)
    assert {p.modality for p in train} == {"text", "audio"}
    assert train.hash == organism_prompts(split="train", modality=("text", "audio"), limit=3).hash


@pytest.mark.parametrize(
    "wrong", [{"split": "tests"}, {"modality": "smell"}, {"role": "bad"}, {"renderings": 3}, {"limit": 0}]
)
def test_wrong_arguments_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(PromptError):
        organism_prompts(**wrong)  # type: ignore[arg-type]


def test_all_embedded_models_bring_the_same_prompts_and_others_none() -> None:
    first, *others = (organism_prompts(name, "val", "image", limit=3) for name in NAMES)
    assert len(first) and all(other.hash == first.hash for other in others)
    with pytest.raises(ModelError, match="organism-hard"):
        organism_prompts("organism-x")


def test_wordings_of_held_out_prompts_are_new() -> None:
    for modality in MODALITIES:
        seen = [{p.wording for p in questions(split, modality)} for split in SPLITS]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2]), modality


def test_a_train_medium_is_the_same_whatever_else_is_asked_for() -> None:
    one = organism_prompts(split="train", modality="image", role="benign", limit=1)[0]
    again = {p.id: p for p in organism_prompts(split="train", modality=("image", "text"), limit=2)}[one.id]
    assert (one.medium == again.medium).all()
