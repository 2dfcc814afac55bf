"""Statistics: hand-computed values, coverage of intervals, false-positive rates of tests, and errors for bad input."""

import json
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refusal_plugin.errors import DataError
from refusal_plugin.statistics import (
    Estimate,
    auroc,
    auroc_interval,
    holm,
    mean_interval,
    minimum_detectable_effect,
    paired_difference,
    permutation_test,
    random_direction_null,
    rate,
    student,
    wilson,
)

SIMULATIONS = 200


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


# -- estimates ---------------------------------------------------------------------------------------------------------


def test_estimate_survives_json() -> None:
    for estimate in (Estimate(0.5, 0.4, 0.6, 60), Estimate.missing(3)):
        record = json.loads(json.dumps(estimate.to_json()))
        assert list(record) == ["value", "low", "high", "n"]
        assert Estimate.from_json(record) == estimate
    assert str(Estimate(0.5, 0.4, 0.6, 60)) == "0.50 [0.40, 0.60] (n = 60)"
    assert str(Estimate.missing(3)) == "not measured (n = 3)"
    assert Estimate(0.5, 0.4, 0.6, 60).excludes(0.3)
    assert not Estimate(0.5, 0.4, 0.6, 60).excludes(0.45)
    assert not Estimate.missing().excludes(0.0)


# -- AUROC -------------------------------------------------------------------------------------------------------------


def test_auroc_by_hand() -> None:
    assert auroc([2, 3], [0, 1]) == 1.0
    assert auroc([0, 1], [2, 3]) == 0.0
    assert auroc([1, 1], [1, 1]) == 0.5
    assert auroc([1, 3], [1, 2]) == (0.5 + 0 + 1 + 1) / 4
    assert auroc(torch.tensor([2.0, 3.0], dtype=torch.bfloat16), [True, False]) == 1.0


scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(pos=scores, neg=scores)
def test_auroc_is_the_share_of_ordered_pairs(pos: list[float], neg: list[float]) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p in pos for n in neg]
    assert auroc(pos, neg) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(neg, pos) == pytest.approx(1 - auroc(pos, neg))
    assert auroc([math.atan(p) for p in pos], [math.atan(n) for n in neg]) == pytest.approx(auroc(pos, neg))


def test_auroc_interval_covers_the_truth_with_paired_groups() -> None:
    """Harmful and benign of one pair share a random offset; ignoring the pairing would give too wide an interval."""
    gap, offset, covered = 1.0, 0.7, 0
    truth = normal_cdf(gap / math.sqrt(2 * (1 + offset**2)))
    random = rng(1)
    for _ in range(SIMULATIONS):
        shared = offset * random.standard_normal(50)
        pos, neg = shared + gap + random.standard_normal(50), shared + random.standard_normal(50)
        estimate = auroc_interval(pos, neg, range(50), range(50), rng=random, resamples=500)
        covered += estimate.low <= truth <= estimate.high
    assert 0.90 * SIMULATIONS <= covered <= 0.99 * SIMULATIONS


def test_auroc_interval_covers_the_truth_without_groups() -> None:
    truth, covered, random = normal_cdf(0.8 / math.sqrt(2)), 0, rng(2)
    for _ in range(SIMULATIONS):
        pos, neg = random.standard_normal(40) + 0.8, random.standard_normal(70)
        estimate = auroc_interval(pos, neg, rng=random, resamples=500)
        covered += estimate.low <= truth <= estimate.high
    assert 0.90 * SIMULATIONS <= covered <= 0.99 * SIMULATIONS


def test_perfect_separation_is_no_certainty() -> None:
    estimate = auroc_interval(range(100, 160), range(60), rng=rng())
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(wilson(60, 60)[0])
    grouped = auroc_interval(
        range(100, 160), range(60), [i // 6 for i in range(60)], [i // 6 for i in range(60)], rng=rng()
    )
    assert grouped.low < estimate.low  # ten groups say less than sixty items


def test_duplicated_items_in_a_group_do_not_narrow_the_interval() -> None:
    random = rng(3)
    pos, neg = random.standard_normal(30) + 1, random.standard_normal(30)
    once = auroc_interval(pos, neg, range(30), range(30), rng=rng(4))
    ids = np.repeat(np.arange(30), 10)
    tenfold = auroc_interval(np.repeat(pos, 10), np.repeat(neg, 10), ids, ids, rng=rng(4))
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_auroc_interval_is_fast_and_repeatable() -> None:
    random = rng(5)
    pos, neg, ids = random.standard_normal(100) + 1, random.standard_normal(100), range(100)
    assert auroc_interval(pos, neg, ids, ids, rng=rng(6)) == auroc_interval(pos, neg, ids, ids, rng=rng(6))
    times = []
    for _ in range(9):
        start = time.perf_counter()
        auroc_interval(pos, neg, ids, ids, rng=random, resamples=1000)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


# -- rates and means ---------------------------------------------------------------------------------------------------


def test_wilson_against_the_published_formula() -> None:
    assert wilson(0, 60) == pytest.approx((0.0, 0.0602), abs=1e-4)
    assert wilson(60, 60) == pytest.approx((0.9398, 1.0), abs=1e-4)
    assert wilson(30, 60) == pytest.approx((0.3773, 0.6227), abs=1e-4)
    with pytest.raises(DataError, match="0 <= successes <= n"):
        wilson(3, 2)


def test_equal_outcomes_do_not_give_a_point() -> None:
    none = rate([False] * 60, rng=rng())
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.0602, abs=1e-4)
    grouped = rate([True] * 60, [i // 3 for i in range(60)], rng=rng())
    assert grouped.low == pytest.approx(wilson(20, 20)[0])  # groups count, not items
    assert grouped.n == 60
    assert rate([True, False], ["one", "one"], rng=rng()).value == 0.5  # a single group cannot be resampled


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.9])
def test_rate_covers_the_truth_with_correlated_groups(truth: float) -> None:
    random, covered = rng(7), 0
    for _ in range(SIMULATIONS):
        chance = random.beta(3 * truth, 3 * (1 - truth), size=60)
        labels = (random.random((60, 2)) < chance[:, None]).ravel()
        estimate = rate(labels, np.repeat(np.arange(60), 2).tolist(), rng=random, resamples=500)
        covered += estimate.low <= truth <= estimate.high
    assert 0.90 * SIMULATIONS <= covered <= 0.99 * SIMULATIONS


def test_paired_difference_covers_the_truth() -> None:
    random, covered = rng(8), 0
    for _ in range(SIMULATIONS):
        common = random.standard_normal((40, 1))  # both arms answer the same item
        a = (common + random.standard_normal((40, 2)) > -0.4).ravel()
        b = (common + random.standard_normal((40, 2)) > 0.4).ravel()
        estimate = paired_difference(a, b, np.repeat(np.arange(40), 2).tolist(), rng=random, resamples=500)
        truth = normal_cdf(0.4 / math.sqrt(2)) - normal_cdf(-0.4 / math.sqrt(2))
        covered += estimate.low <= truth <= estimate.high
    assert 0.90 * SIMULATIONS <= covered <= 0.99 * SIMULATIONS


@pytest.mark.parametrize("groups", [8, 60])
def test_mean_covers_the_truth_also_with_few_groups(groups: int) -> None:
    random, covered = rng(9), 0
    for _ in range(SIMULATIONS):
        x = (random.standard_normal((groups, 1)) + 0.5 * random.standard_normal((groups, 3))).ravel()
        estimate = mean_interval(x, np.repeat(np.arange(groups), 3).tolist(), rng=random, resamples=500)
        covered += estimate.low <= 0 <= estimate.high
    assert 0.90 * SIMULATIONS <= covered <= 0.99 * SIMULATIONS


def test_paired_difference_by_hand() -> None:
    estimate = paired_difference([1, 1, 1, 0], [0, 0, 1, 0], rng=rng())
    assert (estimate.value, estimate.n) == (0.5, 4)
    same = paired_difference([True] * 60, [True] * 60, rng=rng())
    assert (same.value, same.low, same.high) == pytest.approx((0.0, -0.0602, 0.0602), abs=1e-4)
    gained = paired_difference([1] * 60, [0] * 60, rng=rng())
    assert (gained.value, gained.low, gained.high) == pytest.approx((1.0, 0.9398, 1.0), abs=1e-4)


def test_clusters_may_be_any_names_in_any_order() -> None:
    labels, names = [1, 0, 1, 1, 0, 0], ["b", "a", "b", "c", "a", "d"]
    assert rate(labels, names, rng=rng()) == rate(labels, [9, (1,), 9, 7, (1,), 0], rng=rng())


def test_student_quantiles_against_the_tables() -> None:
    z = 1.959963985
    for df, table in ((4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)):
        assert student(z, df) == pytest.approx(table, rel=0.01)


# -- tests -------------------------------------------------------------------------------------------------------------


def test_permutation_test_is_exact_for_few_groups() -> None:
    assert permutation_test([1, 1, 1], [0, 0, 0], rng=rng()) == pytest.approx(2 / 8)
    assert permutation_test([1, 1, 1], [0, 0, 0], rng=rng(), alternative="greater") == pytest.approx(1 / 8)
    assert permutation_test([1, 1, 1], [0, 0, 0], rng=rng(), alternative="less") == 1.0
    assert permutation_test([1, 1, 1, 1], [0, 0, 0, 0], ["x", "x", "y", "y"], rng=rng()) == pytest.approx(2 / 4)
    assert permutation_test([1, 0], [1, 0], rng=rng()) == 1.0


def test_permutation_test_keeps_its_level_and_finds_effects() -> None:
    random, false, true = rng(10), 0, 0
    ids = np.repeat(np.arange(30), 2).tolist()
    for _ in range(SIMULATIONS):
        a, b = (random.standard_normal((30, 1)) + random.standard_normal((30, 2)) for _ in range(2))
        false += permutation_test(a.ravel(), b.ravel(), ids, rng=random, permutations=399) <= 0.05
        true += permutation_test(a.ravel() + 1.5, b.ravel(), ids, rng=random, permutations=399) <= 0.05
    assert false <= 0.085 * SIMULATIONS  # 5 % plus two standard errors of 200 simulations
    assert true >= 0.95 * SIMULATIONS


@pytest.mark.parametrize("draw", ["isotropic", "within_class"])
def test_random_direction_null_keeps_its_level(draw: str) -> None:
    """Activations with a few strong directions and no class difference; a direction fitted on other items is no better
    than a random one. An isotropic direction fitted elsewhere is exchangeable with the isotropic null, one fitted on
    such activations with the within-class null."""
    random, false = rng(11), 0
    scale = np.concatenate([[5.0, 3.0], np.ones(14)])
    for _ in range(SIMULATIONS):
        if draw == "isotropic":
            fitted = random.standard_normal(16)
        else:
            train = random.standard_normal((2, 200, 16)) * scale
            fitted = train[0].mean(0) - train[1].mean(0)
        pos, neg = (torch.from_numpy(random.standard_normal((30, 16)) * scale) for _ in range(2))
        null = random_direction_null(pos, neg, rng=random, directions=199, draw=draw)
        direction = torch.from_numpy(fitted)
        false += null.p_value(auroc(pos @ direction, neg @ direction)) <= 0.05
    assert false <= 0.085 * SIMULATIONS


def test_random_direction_null_is_beaten_by_a_real_direction() -> None:
    random = rng(12)
    direction = random.standard_normal(64)
    direction /= np.linalg.norm(direction)
    pos = torch.from_numpy(random.standard_normal((60, 64)) + 3 * direction)
    neg = torch.from_numpy(random.standard_normal((60, 64)))
    null = random_direction_null(pos, neg, rng=random, directions=999)
    assert null.values.shape == (999,)
    assert null.low < 0.5 < null.high < 0.9
    assert null.p_value(auroc(pos.numpy() @ direction, neg.numpy() @ direction)) == pytest.approx(0.001)
    assert null.p_value(0.5, alternative="two-sided") == 1.0


def test_random_direction_null_counts_ties_like_auroc() -> None:
    pos, neg = torch.tensor([[1.0], [1.0], [2.0]]), torch.tensor([[1.0], [0.0]])
    null = random_direction_null(pos, neg, rng=rng(), directions=50)
    area = auroc([1, 1, 2], [1, 0])
    assert set(null.values.round(12)) == {round(area, 12), round(1 - area, 12)}


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_no_smaller_than_the_raw_p(pvalues: list[float]) -> None:
    adjusted = holm(pvalues)
    assert (adjusted >= np.asarray(pvalues)).all()
    assert (adjusted <= 1).all()
    order = np.argsort(pvalues, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_minimum_detectable_effect_against_simulated_power() -> None:
    n, baseline = 100, 0.3
    delta = minimum_detectable_effect(n, baseline)
    assert delta == pytest.approx(0.19, abs=0.01)  # textbook value for 80 % power at n = 100 per arm
    random = rng(13)
    a = random.binomial(n, baseline, size=4000) / n
    b = random.binomial(n, baseline + delta, size=4000) / n
    middle = (a + b) / 2
    found = np.abs(b - a) > 1.96 * np.sqrt(2 * middle * (1 - middle) / n)
    assert found.mean() == pytest.approx(0.8, abs=0.04)


def test_minimum_detectable_effect_moves_the_right_way() -> None:
    assert minimum_detectable_effect(400, 0.3) < minimum_detectable_effect(100, 0.3)
    assert minimum_detectable_effect(100, 0.3, correlation=0.5) < minimum_detectable_effect(100, 0.3)
    assert minimum_detectable_effect(100, 0.3, design_effect=2) > minimum_detectable_effect(100, 0.3)
    assert minimum_detectable_effect(100, 0.3, direction="decrease") == pytest.approx(
        minimum_detectable_effect(100, 0.7), abs=1e-9
    )
    assert minimum_detectable_effect(3, 0.5) is None  # three items show nothing
    assert minimum_detectable_effect(60, 1.0) is None  # no room above


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_input_gives_one_clear_line() -> None:
    random, nan = rng(), float("nan")
    good, wide = torch.randn(5, 4), torch.randn(5, 6)
    cases = [
        (lambda: auroc([], [1]), "at least one value"),
        (lambda: auroc([1], []), "scores of the negatives"),
        (lambda: auroc([1, nan], [1]), "1 of 2 are NaN"),
        (lambda: auroc_interval([1, 2], [1], [0, 1], None, rng=random), "one class only"),
        (lambda: auroc_interval([1, 2], [1], [0, 1], [0, 1], rng=random), "one pair id per item"),
        (lambda: auroc_interval([1, 2], [1, 2], rng=random, resamples=3), "at least 100"),
        (lambda: rate([], rng=random), "at least one value"),
        (lambda: rate([0.5], rng=random), "other than 0 and 1"),
        (lambda: rate([1, 0], ["a"], rng=random), "1 pair ids for 2 items"),
        (lambda: mean_interval([1.0, 2.0], ["a", "a"], rng=random), "1 pair group"),
        (lambda: mean_interval([nan], rng=random), "NaN"),
        (lambda: paired_difference([1, 0], [1], rng=random), "2 and 1 items"),
        (lambda: permutation_test([1], [1, 0], rng=random), "1 and 2 items"),
        (lambda: random_direction_null(good, wide, rng=random), "d = 4 and d = 6"),
        (lambda: random_direction_null(good[:0], good, rng=random), "n >= 1"),
        (lambda: random_direction_null(good * nan, good, rng=random), "NaN"),
        (lambda: random_direction_null(good[:1], good[1:2], rng=random, draw="within_class"), "do not vary"),
        (lambda: holm([1.5]), "outside"),
        (lambda: holm([nan]), "NaN"),
        (lambda: minimum_detectable_effect(0, 0.5), "n >= 1"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
