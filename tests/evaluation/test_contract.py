"""What a rate was measured under: carried by every rate, and compared where two stand side by side."""

import json
import warnings
from dataclasses import fields, replace

import pytest

from refusal_plugin.evaluation import (
    Contract,
    PhraseJudge,
    compare_contracts,
    label_answers,
    rate_changes,
    refusal_rates,
)
from refusal_plugin.inference.answers import Answer
from refusal_plugin.prompts import Prompt, PromptSet

PROMPTS = PromptSet(
    Prompt(f"how {k}", id=f"p{k}", role="harmful" if k % 2 else "benign", meta={"dataset": "jbb", "revision": "abc"})
    for k in range(6)
)
ANSWERS = [Answer(p.id, "I cannot help with that.", (1,), True) for p in PROMPTS]
FULL = Contract.of(PROMPTS, "judge", max_new_tokens=24, system="")


class Other(PhraseJudge):
    """Another judge by name."""


def test_every_rate_carries_the_terms_it_was_measured_under() -> None:
    rates = refusal_rates(label_answers(PROMPTS, ANSWERS, max_new_tokens=24, system="be kind"))
    assert rates.contract is not None and rates.contract.judge == "PhraseJudge" and rates.contract.n == 6
    assert rates.contract.data == ("jbb@abc",) and rates.contract.decoding == "greedy"
    shown = " ".join(repr(rates).split())
    assert "max new tokens 24" in shown and "'be kind'" in shown and "jbb@abc" in shown
    assert "contract" not in rates.to_json(), "results hold it once for all rates"


@pytest.mark.parametrize("term", [f.name for f in fields(Contract) if f.name != "n"])
def test_a_term_that_differs_is_named_and_one_that_is_unstated_is_not(term: str) -> None:
    other = {"max_new_tokens": 32, "data": ("xstest@def",)}.get(term, "another")
    changed = replace(FULL, **{term: other})
    (found,) = FULL.differences(changed)
    assert found.startswith(term.replace("_", " ")) and FULL.differences(FULL) == []
    assert FULL.differences(replace(FULL, **{term: None})) == []


def test_arms_under_two_contracts_are_warned_of() -> None:
    one = label_answers(PROMPTS, ANSWERS, max_new_tokens=24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rate_changes(one, label_answers(PROMPTS, ANSWERS, max_new_tokens=24))
    with pytest.warns(UserWarning, match="max new tokens 24 and 512"):
        rate_changes(one, label_answers(PROMPTS, ANSWERS, max_new_tokens=512))
    with pytest.warns(UserWarning, match="judge PhraseJudge and Other"):
        rate_changes(one, label_answers(PROMPTS, ANSWERS, Other(), max_new_tokens=24))


def test_results_are_compared_as_they_lie_on_disk() -> None:
    one = {"model": "a", "contract": json.loads(json.dumps(FULL.to_json()))}
    assert Contract.read(one) == FULL and compare_contracts(one, one) == []
    two = {"model": "b", "contract": Contract.of(PROMPTS[:4], "judge", max_new_tokens=24, system="").to_json()}
    with pytest.warns(UserWarning, match="compare results of a and b: .*prompts"):
        assert len(compare_contracts(one, two)) == 1
    assert compare_contracts(one, {"model": "older"}) == []


def test_the_hash_tells_which_prompts_in_which_split() -> None:
    assert Contract.of(PROMPTS, "j").prompts == Contract.of(list(PROMPTS), "j").prompts
    moved = [PROMPTS[0].replace(split="test"), *PROMPTS[1:]]
    assert len({Contract.of(some, "j").prompts for some in (PROMPTS, PROMPTS[:5], PROMPTS[::-1], moved)}) == 4
