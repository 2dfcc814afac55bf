"""Prompt and PromptSet: what they refuse, how they split, count, limit and hash."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_plugin.errors import PromptError
from refusal_plugin.prompts import EVERY_MODALITY, MODALITIES, ROLES, Prompt, PromptSet


def many(n: int = 12, roles: tuple[str, ...] = ("harmful", "benign")) -> PromptSet:
    """n pair groups with one text and one image prompt per role."""
    image = np.zeros((4, 4, 3), np.uint8)
    return PromptSet(
        Prompt(f"do {i}", role=role, pair=f"p{i}", id=f"{role}-{i}-{kind}", image=image if kind == "image" else None)
        for i in range(n)
        for role in roles
        for kind in ("text", "image")
    )


def test_a_prompt_tells_its_modality() -> None:
    assert Prompt("hi").modality == "text"
    assert Prompt("hi", image="a.png").modality == "image"
    assert Prompt("hi", video=["a.png"]).modality == "video"
    assert Prompt("hi", audio="a.wav").modality == "audio"


def test_a_bad_prompt_is_refused_at_once(complaints) -> None:
    cases = {
        "Prompt('  ')": "text is empty",
        "Prompt('hi', messages=[{'role': 'user', 'content': 'ho'}])": "messages and text",
        "Prompt(messages=[])": "no list of turns",
        "Prompt(messages=[{'role': 'boss', 'content': 'ho'}])": "role 'boss'",
        "Prompt(messages=[{'role': 'user', 'content': [{'type': 'smell'}]}])": "type 'smell'",
        "Prompt(messages=[{'role': 'user', 'content': [{'type': 'image', 'image': 'a.png'}]}])": "its last user",
        "Prompt(messages=[{'role': 'user', 'content': 'a'}, {'role': 'system', 'content': 'b'}])": "turn 2 is a system",
        "Prompt(messages=[{'role': 'assistant', 'content': 'b'}])": "no user turn",
        "Prompt('hi', system=' ')": "system text is empty",
        "Prompt('hi', tools=[print])": "tools are no list",
        "Prompt('hi', thinking='much')": "thinking",
        "Prompt('hi', role='evil')": "harmful, benign, near_miss",
        "Prompt('hi', split='dev')": "train, val, test",
        "Prompt(3)": "int",
        "Prompt('\\ud800')": "surrogate",
        "Prompt('hi', answer=4)": "answer",
        "Prompt('hi', meta=[1])": "mapping",
        "Prompt('hi').replace(txt='ho')": "no such field",
        "PromptSet(['hi'])": "str",
        "PromptSet().filter(role='harmfull')": "harmful, benign, near_miss",
        "PromptSet().filter(modality=['text', 'smell'])": "text, image, video, audio",
        "PromptSet([Prompt('hi')]).split({'dev': 1.0})": "no such split",
    }
    for (case, says), answer in zip(cases.items(), complaints(list(cases)), strict=True):
        assert answer.startswith("PromptError") and says in answer, (case, answer)


def test_names_are_given_automatically_and_tell_prompts_apart() -> None:
    one, two = Prompt("hi", image=np.zeros((4, 4, 3), np.uint8)), Prompt("hi", image=np.ones((4, 4, 3), np.uint8))
    assert one.id != two.id != Prompt("hi").id
    assert one.id == Prompt("hi", image=np.zeros((4, 4, 3), np.uint8)).id
    assert one.pair == one.id


def test_read_back_asks_about_the_same_medium() -> None:
    prompt = Prompt("do it", image="a.png", id="x", read_text="what does it say ?", read_answer="bake", answer="ok")
    back = prompt.read_back()
    assert (back.text, back.answer, back.image, back.pair) == ("what does it say ?", "bake", "a.png", prompt.pair)
    assert back.id != prompt.id
    with pytest.raises(PromptError, match="read_text"):
        Prompt("do it").read_back()


def test_replace_changes_fields() -> None:
    assert Prompt("hi", id="x").replace(split="val").split == "val"


def test_reprs_are_short() -> None:
    assert len(repr(Prompt("word " * 100, role="harmful"))) < 120
    assert "48 prompts" in repr(many()) and len(repr(many())) < 120
    assert repr(PromptSet()) == "PromptSet(0 prompts)"


def test_html_is_escaped() -> None:
    shown = PromptSet([Prompt("<script>alert(1)</script>")])._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "<table>" in PromptSet()._repr_html_()


def test_a_set_is_a_sequence_with_unique_ids() -> None:
    prompts = many(3)
    assert len(prompts) == 12 and prompts[0].id == "harmful-0-text"
    assert [p.id for p in prompts[2:4]] == [p.id for p in prompts[[2, 3]]]
    assert len(prompts[:4] + prompts[4:]) == 12
    with pytest.raises(PromptError, match="more than once"):
        prompts + prompts[:1]


def test_filter() -> None:
    prompts = many(3)
    assert len(prompts.filter(modality="image", role=["harmful", "benign"])) == 6
    assert len(prompts.filter(split="test")) == 0
    assert len(prompts.where(lambda p: p.pair == "p1")) == 4


def test_require_names_what_is_missing() -> None:
    prompts = many(3)
    assert prompts.require(at_least=6) is prompts
    with pytest.raises(PromptError, match="0 prompts"):
        PromptSet().require()
    with pytest.raises(PromptError, match="0 benign"):
        prompts.filter(role="harmful").require()
    with pytest.raises(PromptError, match="12 prompts"):
        prompts.require(roles=(), at_least=13)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([("harmful",), ("harmful", "benign"), ROLES]), min_size=5, max_size=60),
    seed=st.integers(0, 99),
)
def test_split_keeps_pairs_whole_strata_even_and_does_not_depend_on_order(
    sizes: list[tuple[str, ...]], seed: int
) -> None:
    prompts = PromptSet(
        Prompt("do", role=role, pair=f"p{i}", id=f"{i}{role}") for i, roles in enumerate(sizes) for role in roles
    )
    parts = prompts.split({"train": 0.6, "val": 0.2, "test": 0.2}, seed=seed)
    homes = {name: {p.pair for p in part} for name, part in parts.items()}
    assert sum(len(part) for part in parts.values()) == len(prompts)
    assert sum(len(pairs) for pairs in homes.values()) == len(sizes)  # disjoint
    assert all(p.split == name for name, part in parts.items() for p in part)
    again = prompts[::-1].split({"train": 0.6, "val": 0.2, "test": 0.2}, seed=seed)
    assert {name: {p.pair for p in part} for name, part in again.items()} == homes
    for stratum, n in Counter(sizes).items():
        pairs = {f"p{i}" for i, roles in enumerate(sizes) if roles == stratum}
        for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
            assert abs(len(pairs & homes[name]) - share * n) <= 2  # type: ignore[index]


def test_split_seed_matters_and_bad_fractions_are_refused() -> None:
    prompts = many(40)
    first, second = (prompts.split({"train": 0.5, "test": 0.5}, seed=s)["train"] for s in (0, 1))
    assert {p.pair for p in first} != {p.pair for p in second}
    for fractions in ({"train": 0.5}, {"train": 1.5, "test": -0.5}, {}):
        with pytest.raises(PromptError, match="add up to 1"):
            prompts.split(fractions)
    with pytest.raises(PromptError, match="empty"):
        many(2).split({"train": 0.6, "val": 0.2, "test": 0.2})


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), seed=st.none() | st.integers(0, 9))
def test_limit_is_balanced(n: int, seed: int | None) -> None:
    prompts = many(12)
    part = prompts.limit(n, seed)
    assert len(part) == min(n, 48)
    counts = part.counts()
    assert max(counts.values()) - min(counts.get(cell, 0) for cell in prompts.counts()) <= 1
    assert [p.id for p in part] == [p.id for p in prompts if p.id in {q.id for q in part}]
    if n % 4 == 0:
        assert all(len(group) == 4 for group in part.groups().values())


def test_limit_of_two_keeps_both_classes() -> None:
    assert {p.role for p in many().limit(2)} == {"harmful", "benign"}
    with pytest.raises(PromptError):
        many().limit(0)


def test_the_hash_depends_on_fields_order_and_pixels() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    base = PromptSet([Prompt("a", id="1", image=image), Prompt("b", id="2")])
    same = PromptSet([Prompt("a", id="1", image=image.copy()), Prompt("b", id="2")])
    assert base.hash == same.hash
    assert base.hash != base[::-1].hash
    assert base.hash != PromptSet([Prompt("a", id="1", image=image + 1), Prompt("b", id="2")]).hash
    assert base.hash != PromptSet([Prompt("a", id="1", image=image, role="benign"), Prompt("b", id="2")]).hash


def test_prompts_are_cheap_to_import() -> None:
    code = "import sys, refusal_plugin.prompts.prompt_set; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_modalities_and_roles_are_those_of_the_types() -> None:
    assert MODALITIES == ("text", "image", "video", "audio") and EVERY_MODALITY[4] == "image+video"
    assert ROLES == ("harmful", "benign", "near_miss")
