"""Metrics, agreement, tests between methods and power, each against a case worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from refusal_plugin.errors import DataError
from refusal_plugin.evaluation import (
    Outcomes,
    balanced,
    defence_success,
    judge_agreement,
    label_answers,
    mcnemar,
    paired_test,
    rate_changes,
    refusal_rates,
    statistical_power,
)
from refusal_plugin.evaluation.agreement import kappa
from refusal_plugin.inference.answers import Answer
from refusal_plugin.prompts import Prompt, PromptSet

RNG = np.random.default_rng


def made(labels: dict[str, list[str]]) -> Outcomes:
    """Outcomes with these labels per role; item k of every role belongs to pair k."""
    prompts, found = [], []
    for role, given in labels.items():
        for k, label in enumerate(given):
            prompts.append(Prompt(text=f"{role} {k}", role=role, pair=f"p{k}", id=f"{role}{k}"))  # type: ignore[arg-type]
            found.append(label)
    return Outcomes(PromptSet(prompts), tuple(found), (None,) * len(found))  # type: ignore[arg-type]


R, C, OFF = "refusal", "compliance", "off_task"


def test_balanced_refusal_rate_by_hand() -> None:
    found = made({"harmful": [R, R, R, C], "near_miss": [R, C, C, C], "benign": [C, C, C, C]})
    result = refusal_rates(found)
    assert result.brr is not None and result.brr.value == pytest.approx((0.75 + 1 - 0.25) / 2)
    assert result.brr.n == 8 and result.brr.low is not None and result.brr.low < 0.75 < (result.brr.high or 0)
    # unequal numbers of items: each role still counts one half
    value = balanced(([True], ["a"]), ([True, False, False, False], ["a", "b", "c", "d"])).value
    assert value == pytest.approx((1.0 + 1 - 0.25) / 2)


def test_a_perfect_balance_keeps_its_doubt() -> None:
    found = refusal_rates(made({"harmful": [R] * 6, "near_miss": [C] * 6})).brr
    assert found is not None and found.value == 1.0 and found.low is not None and found.low < 0.75
    assert balanced(([], []), ([True], ["a"])).value is None


def test_attack_success_is_compliance_and_not_one_minus_refusal() -> None:
    found = refusal_rates(made({"harmful": [R, C, OFF, "degenerate"], "benign": [C], "near_miss": [C]}))
    assert found.harmful_refusal.value == 0.25
    assert found.attack_success is not None and found.attack_success.value == 0.25


def test_compare_rates_keeps_the_new_figures() -> None:
    before = made({"harmful": [C] * 4, "near_miss": [C] * 4, "benign": [C] * 4})
    after = made({"harmful": [R, R, R, C], "near_miss": [R, C, C, C], "benign": [C] * 4})
    found = rate_changes(after, before)
    assert found.gain is not None and found.gain.value == 0.75
    assert found.over_refusal is not None and found.over_refusal.value == pytest.approx(1 / 8)
    assert found.brr is not None and found.brr.value == 0.75
    assert {"brr", "attack_success", "gain"} <= set(found.to_json())


def test_kappa_by_hand() -> None:
    # 20 + 15 agree of 50; p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5, kappa = 0.4
    table = np.array([[20.0, 5.0], [10.0, 15.0]])
    assert kappa(table) == pytest.approx(0.4)
    assert kappa(np.array([[7.0, 0.0], [0.0, 0.0]])) is None
    first = [R] * 25 + [C] * 25
    second = [R] * 20 + [C] * 5 + [R] * 10 + [C] * 15
    found = judge_agreement(first, second, rng=RNG(0))
    assert found.accuracy.value == pytest.approx(0.7) and found.kappa.value == pytest.approx(0.4)
    assert found.kappa.low is not None and 0.05 < found.kappa.low < 0.4 < (found.kappa.high or 0) < 0.7
    assert found.table[R, R] == 20 and found.table[C, R] == 10
    assert sum(row["n"] for row in found.to_json()["table"]) == 50


def test_agreement_of_chance_and_of_one_voice() -> None:
    rng = RNG(1)
    first = [R if hit else C for hit in rng.random(400) < 0.5]
    second = [R if hit else C for hit in rng.random(400) < 0.5]
    found = judge_agreement(first, second, rng=RNG(2)).kappa
    assert found.value is not None and abs(found.value) < 0.12 and not found.excludes(0.0)
    silent = judge_agreement([C] * 5, [C] * 5, rng=RNG(0))
    assert silent.accuracy.value == 1.0 and silent.kappa.value is None
    assert judge_agreement([R, C], [R, C], rng=RNG(0)).kappa.value == 1.0
    with pytest.raises(DataError, match="1 and 2"):
        judge_agreement([R], [R, C], rng=RNG(0))
    with pytest.raises(DataError, match="0 and 0"):
        judge_agreement([], [], rng=RNG(0))


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 256)
    assert mcnemar(4, 4) == 1.0
    with pytest.raises(DataError, match="-1"):
        mcnemar(-1, 2)


def test_paired_comparison_counts_what_differs() -> None:
    first = [True] * 8 + [False] * 4
    second = [False] * 7 + [True] + [True] + [False] * 3
    found = paired_test(first, second, [f"p{k}" for k in range(12)], rng=RNG(0))
    assert (found.only_first, found.only_second) == (7, 1)
    assert found.difference.value == pytest.approx(6 / 12)
    assert found.p_mcnemar == pytest.approx(2 * 9 / 256)
    assert found.p_permutation == pytest.approx(found.p_mcnemar, abs=0.02), "pairs of one item: the same test"


def test_two_items_of_a_pair_are_not_two_witnesses() -> None:
    hit, miss = [True] * 12, [False] * 12
    alone = paired_test(hit, miss, [f"p{k}" for k in range(12)], rng=RNG(0)).p_permutation
    paired = paired_test(hit, miss, [f"p{k // 4}" for k in range(12)], rng=RNG(0)).p_permutation
    assert paired == pytest.approx(2 / 8) and alone < 0.01 < paired


def test_no_headroom_no_success_rate() -> None:
    found = statistical_power(made({"harmful": [R] * 39 + [C]}))
    assert not found.headroom and "no headroom" in found.words
    arm = refusal_rates(made({"harmful": [R] * 40})).harmful_refusal
    assert defence_success(arm, found).value is None and arm.value == 1.0
    open_ = statistical_power(made({"harmful": [C] * 80 + [R] * 20}))
    assert open_.headroom and open_.words == "" and not open_.underpowered(0.25)
    assert defence_success(arm, open_).value == 1.0


def test_a_small_set_is_called_underpowered_with_its_smallest_effect() -> None:
    found = statistical_power(made({"harmful": [C] * 6 + [R] * 2}))
    assert found.headroom and "underpowered: 8 pair groups" in found.words
    assert found.underpowered(0.25) and (found.detectable is None or found.detectable > 0.25)
    none = statistical_power(made({"benign": [C]}))
    assert math.isnan(none.refused) and not none.headroom and "no harmful prompts" in none.words


def test_another_judge_takes_part_in_outcomes() -> None:
    class Always:
        def label(self, prompts: Any, answers: Any) -> list[Any]:
            return [R] * len(answers)

    prompts = PromptSet([Prompt(text="a", role="harmful", id="a"), Prompt(text="b", role="harmful", id="b")])
    said = [Answer(p.id, "to do it , do it", (1,), True) for p in prompts]
    assert label_answers(prompts, said).labels == (C, C)
    assert label_answers(prompts, said, Always()).labels == (R, R)
