"""Answers belong to their prompts: what is elsewhere, missing, doubled or foreign is an error that names it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from refusal_plugin.errors import DataError
from refusal_plugin.evaluation import (
    Outcomes,
    PhraseJudge,
    compare_judges,
    label_answers,
    match_answers,
    rate_changes,
    read_exactly,
    refusal_rates,
)
from refusal_plugin.inference.answers import Answer
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.study.summary import read_back

PROMPTS = PromptSet(
    [
        Prompt(f"{role} {k}", role=role, pair=f"p{k}", id=f"{role}{k}", read_text="what is said?", read_answer=f"w {k}")  # type: ignore[arg-type]
        for role in ("harmful", "near_miss")
        for k in range(3)
    ]
)
SAID = [Answer(p.id, "I can't help with that." if p.role == "harmful" else "Mix it.", (1,), True) for p in PROMPTS]
READ = [Answer(f"{p.id}#read", str(p.read_answer), (1,), True) for p in PROMPTS]

WRONG: list[tuple[Callable[[list[Answer]], list[Answer]], str]] = [
    (lambda a: a[::-1], "answer 0 belongs to prompt 5, 'near_miss2"),
    (lambda a: [a[1], a[0], *a[2:]], "answer 0 belongs to prompt 1, 'harmful1"),
    (lambda a: a[:-1], "6 prompts and 5 answers"),
    (lambda a: [*a, a[-1]], "6 prompts and 7 answers"),
    (lambda a: [a[0], a[0], *a[2:]], "answer 1 belongs to prompt 0, 'harmful0"),
    (lambda a: [*a[:5], Answer("somebody", "no", (1,), True)], "answer 5 belongs to no prompt of these"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_every_reader_of_answers_names_the_first_that_is_wrong(
    change: Callable[[list[Answer]], list[Answer]], words: str
) -> None:
    prompts = list(PROMPTS)
    for reader in (
        lambda: label_answers(PROMPTS, change(SAID)),
        lambda: PhraseJudge().label(prompts, change(SAID)),
        lambda: match_answers(prompts, change(SAID)),
    ):
        with pytest.raises(DataError, match=words):
            reader()
    for read in (lambda: read_exactly(prompts, change(READ)), lambda: read_back(prompts, change(READ), 0)):
        with pytest.raises(DataError, match=words):
            read()


def test_right_answers_are_read() -> None:
    found = refusal_rates(label_answers(PROMPTS, SAID))
    assert (found.harmful_refusal.value, found.near_miss_refusal.value) == (1.0, 0.0)
    assert read_exactly(list(PROMPTS), READ) == [True] * 6
    other = [READ[0], Answer(READ[1].prompt_id, "w -1", (1,), True), *READ[2:]]
    assert read_exactly(list(PROMPTS), other) == [True, False, *[True] * 4]


def test_a_judge_of_ones_own_gives_known_labels_to_each() -> None:
    class Odd:
        def __init__(self, labels: Sequence[str]) -> None:
            self.labels = labels

        def label(self, prompts: Any, answers: Any) -> list[Any]:
            return list(self.labels)

    with pytest.raises(DataError, match="'refused'"):
        label_answers(PROMPTS, SAID, Odd(["refused"] * 6))
    with pytest.raises(DataError, match="6 prompts, 5 labels"):
        label_answers(PROMPTS, SAID, Odd(["refusal"] * 5))


def test_arms_in_another_order_cannot_be_compared() -> None:
    arm = label_answers(PROMPTS, SAID)
    turned = Outcomes(PROMPTS[::-1], arm.labels[::-1], arm.correct[::-1])
    with pytest.raises(DataError, match="first 'harmful0' and 'near_miss2' at place 0"):
        rate_changes(arm, turned)


def test_unknown_answers_are_counted_and_warned_of() -> None:
    said = [Answer(SAID[0].prompt_id, "Przepraszam, ale nie mogę w tym pomóc.", (1,), True), *SAID[1:]]
    with pytest.warns(UserWarning, match="1 of 6 are unknown to the judge, first 'Przepraszam"):
        found = label_answers(PROMPTS, said)
    rates = refusal_rates(found)
    assert rates.unknown is not None and rates.unknown.value == pytest.approx(1 / 6)
    assert rates.harmful_refusal.value == pytest.approx(2 / 3)
    assert rates.attack_success is not None and rates.attack_success.value == 0.0
    assert refusal_rates(label_answers(PROMPTS, SAID)).unknown is None
    assert np.isclose(found.share("unknown", "harmful"), 1 / 3)


def test_two_judges_are_compared_on_the_same_answers() -> None:
    strict, mild = PhraseJudge(extra=(r"\bmix it\b",)), PhraseJudge()
    found = compare_judges(list(PROMPTS), SAID, strict, mild, rng=np.random.default_rng(0), resamples=200)
    assert found.accuracy.value == 0.5 and found.table == {("refusal", "refusal"): 3, ("refusal", "compliance"): 3}
    with pytest.raises(DataError, match="answer 0"):
        compare_judges(list(PROMPTS), SAID[::-1], strict, mild, rng=np.random.default_rng(0))
