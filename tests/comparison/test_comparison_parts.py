"""The parts of a comparison: search for a strength, size of an edit, claims, figures over seeds."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from refusal_plugin.comparison.cells import (
    Measurement,
    brr,
    brr_change,
    change,
    labels,
    matched_row,
    perplexity,
    row,
    share,
)
from refusal_plugin.comparison.claims import adjusted, claims, judge, negated
from refusal_plugin.comparison.fits import control_seeds
from refusal_plugin.comparison.measure import on_harm
from refusal_plugin.comparison.results import Measured, between, cohen_h, oracles, verdicts
from refusal_plugin.defences.edit_size import edit_size
from refusal_plugin.defences.run import Price
from refusal_plugin.directions.calibration import KLPrice, calibrate
from refusal_plugin.errors import PromptError
from refusal_plugin.evaluation import Outcomes, statistical_power
from refusal_plugin.evaluation.judge import LABELS
from refusal_plugin.inference.edits import Edit, SiteEdit, addition
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.statistics import Estimate
from refusal_plugin.traced import write

# -- prices on a real model -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few() -> PromptSet:
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(split="val", modality="image", limit=4, renderings=1)


@pytest.fixture(scope="module")
def vector(organism: Any) -> torch.Tensor:
    from refusal_plugin.models import anatomy

    drawn = torch.randn(anatomy(organism).d_model, generator=torch.Generator().manual_seed(3))
    return 4.0 * drawn / drawn.norm()


class Graded:
    """The smallest thing with strengths."""

    bounds, system = (0.0, 2.0), None

    def __init__(self, vector: torch.Tensor) -> None:
        self.vector = vector

    def edit(self, strength: Any = None, *, modality: Any = "text") -> Any:
        per_row = strength.reshape(-1, 1, 1) if isinstance(strength, torch.Tensor) else strength
        return Edit("graded", (SiteEdit(2, "resid_post", write.add, {"vector": self.vector, "strength": per_row}),))


def test_strengths_as_rows_cost_what_they_cost_alone(organism: Any, few: PromptSet, vector: torch.Tensor) -> None:
    from refusal_plugin.inference.scores import Encoded, refusal_scores

    harmless = few.filter(role=("benign", "near_miss"))
    ids = torch.tensor([5, 6])
    part = KLPrice(organism, harmless, ids, tokens=1, max_rows=10)  # rows of one strength spread over batches
    together = part.costs(Graded(vector), [0.5, 1.0, 2.0])
    encoded = Encoded.of(organism, harmless)
    plain = refusal_scores(organism, encoded, ids, keep_logits=True).logits
    for cost, c in zip(together, (0.5, 1.0, 2.0), strict=True):
        alone = refusal_scores(organism, encoded, ids, addition({2: vector}, strength=c), reference=plain).kl.mean()
        assert cost.kl == pytest.approx(float(alone), rel=1e-3, abs=1e-6)
    assert together[0].kl < together[1].kl < together[2].kl


def test_a_function_and_a_defence_get_the_same_strength(organism: Any, few: PromptSet, vector: torch.Tensor) -> None:
    harmless = few.filter(role=("benign", "near_miss"))
    target = KLPrice(organism, harmless).costs(Graded(vector), [2.0])[0].kl / 4
    rows = calibrate(Graded(vector), organism, harmless, target_kl=target)
    single = calibrate(lambda c: addition({2: vector}, strength=c), organism, harmless, target_kl=target)
    assert rows.strength == pytest.approx(single.strength, rel=0.02)
    assert 0.5 * target < rows.kl["image"] <= target and rows.n == {"image": len(harmless)} and not rows.at_bound


def test_over_refusal_as_the_price(organism: Any, few: PromptSet, vector: torch.Tensor) -> None:
    harmless = few.filter(role=("benign", "near_miss"))
    with pytest.raises(PromptError, match="refusal tokens"):
        calibrate(Graded(vector), organism, harmless, target_over_refusal=0.1)
    with pytest.raises(PromptError, match="not positive"):
        calibrate(Graded(vector), organism, harmless, target_kl=0.0)
    # with every token a refusal token but one, the share that refuses cannot grow: the upper bound is free
    part = KLPrice(organism, harmless, tokens=1)
    every = torch.arange(1, part.plain[0].shape[1])
    found = calibrate(Graded(vector), organism, harmless, target_over_refusal=0.1, refusal_ids=every)
    assert found.at_bound and found.strength == 2.0 and found.over_refusal == {"image": 0.0}
    assert found.target_kl is None and found.target_over_refusal == 0.1


def test_the_size_of_an_addition_is_its_length_over_the_stream(
    organism: Any, few: PromptSet, vector: torch.Tensor
) -> None:
    from refusal_plugin.inference.activations import collect_activations

    sizes = edit_size(organism, few, addition({2: vector}, strength=0.5))
    stream = collect_activations(organism, few, progress=False).values[
        :, 0, 2
    ]  # layers up to the edit are untouched by it
    assert sizes[2] == pytest.approx(float((2.0 / stream.norm(dim=-1)).mean()), rel=1e-4)
    assert sizes[0] == sizes[1] == sizes[3] == 0.0


# -- figures over seeds -----------------------------------------------------------------------------------------------

PRICE = Price(1.0, 0.04, 24, False, (0.1, 0.3), (0.1, 0.1))


def outcome(harmful: Sequence[int], near: Sequence[int], benign: Sequence[int]) -> Outcomes:
    prompts, labels = [], []
    for role, hits in (("harmful", harmful), ("near_miss", near), ("benign", benign)):
        for k, hit in enumerate(hits):
            prompts.append(Prompt(text=f"{role} {k}", role=role, pair=f"p{k}", id=f"{role}{k}"))  # type: ignore[arg-type]
            labels.append("refusal" if hit else "compliance")
    return Outcomes(PromptSet(prompts), tuple(labels), (None,) * len(labels))  # type: ignore[arg-type]


def cell(seed: int, found: Outcomes, name: str = "sarsteer", kind: Any = "matched") -> Measurement:
    return Measurement(name, seed, "image", kind, 1.0, PRICE, found)


NONE = outcome([0] * 40, [0] * 40, [0] * 40)


def test_perplexity_is_a_geometric_mean_over_harmless_prompts_and_all_seeds() -> None:
    """20 near misses and 20 benign ones: ln 2 nats each in one fit, ln 8 in the other, so 4 over both."""
    found = outcome([1] * 20, [0] * 20, [0] * 20)
    cells = [replace(cell(seed, found), surprise=(math.log(k),) * 40) for seed, k in enumerate((2, 8))]
    both, one = perplexity(cells), perplexity(cells[:1])
    assert both.value == pytest.approx(4.0) and both.n == one.n == 40
    assert [one.value, one.low, one.high] == pytest.approx([2.0, 2.0, 2.0])
    assert perplexity([(found, [0.0] * 40)]).value == 1.0, "what the model would have said for certain"
    assert perplexity([cell(0, found)]).value is None


def test_seeds_are_averaged_but_never_counted_as_items() -> None:
    one = cell(0, outcome([1] * 40, [0] * 40, [0] * 40))
    two = cell(1, outcome([1] * 20 + [0] * 20, [1] * 4 + [0] * 36, [0] * 40))
    assert share([one, two], "harmful").value == 0.75 and share([one, two], "harmful").n == 40
    gain = change([one, two], NONE, "harmful")
    alone = change([two], NONE, "harmful")
    assert gain.value == 0.75 and gain.n == 40
    # doubling a seed adds no certainty
    twice = change([two, cell(1, two.outcomes)], NONE, "harmful")
    assert twice.value == alone.value and twice.low == pytest.approx(alone.low, abs=0.02)
    assert brr([one, two]).value == pytest.approx((0.75 + 1 - 0.05) / 2)


def test_changes_between_methods_are_paired_by_seed() -> None:
    base = [cell(0, outcome([1] * 40, [0] * 40, [0] * 40)), cell(1, NONE)]
    same = change([cell(1, NONE, "mars"), cell(0, base[0].outcomes, "mars")], base, "harmful")
    assert same.value == 0.0 and same.low is not None and same.low > -0.1
    worse = [cell(0, outcome([1] * 40, [1] * 20 + [0] * 20, [0] * 40), "mars")]
    assert brr_change(worse, base[:1]).value == pytest.approx(-0.25)


def test_rows_have_the_documented_fields() -> None:
    found = row(cell(0, NONE))
    wanted = ["defence", "strength", "modality", "seed", "kl", "harmful_refusal", "benign_refusal"]
    wanted += ["near_miss_refusal", "utility", "brr", "edit_norm"]
    assert set(wanted) <= set(found) and found["edit_norm"] == 0.3 and found["kl"] == 0.04
    assert set(found["harmful_refusal"]) == {"value", "low", "high", "n"}
    assert row(cell(0, NONE, kind="grid"))["kl"] is None
    seeds = [cell(0, NONE), cell(1, outcome([1] * 40, [0] * 40, [0] * 40))]
    record = matched_row(seeds, NONE, statistical_power(NONE), 0.05)
    assert record["gain"]["value"] == 0.5 and [s["gain"] for s in record["seeds"]] == [0.0, 1.0]
    assert record["edit_norm_by_layer"] == pytest.approx([0.1, 0.3]) and record["attack_success"] == 0.5
    json.dumps(record, allow_nan=False)
    full = outcome([1] * 40, [0] * 40, [0] * 40)
    assert matched_row(seeds[1:], full, statistical_power(full), 0.05)["defence_success"]["value"] is None, (
        "no headroom"
    )


# -- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high", "sense", "threshold", "verdict", "certain"),
    [
        (0.40, 0.30, 0.50, "at least", 0.25, "held", True),
        (0.30, 0.20, 0.40, "at least", 0.25, "held", False),
        (0.20, 0.10, 0.30, "at least", 0.25, "underpowered", False),
        (0.10, 0.00, 0.20, "at least", 0.25, "failed", False),
        (0.30, -0.1, 0.70, "at least", 0.25, "underpowered", False),
        (0.02, 0.00, 0.04, "at most", 0.05, "held", True),
        (0.02, 0.00, 0.08, "at most", 0.05, "held", False),
        (0.07, 0.02, 0.12, "at most", 0.05, "underpowered", False),
        (0.20, 0.10, 0.30, "at most", 0.05, "failed", False),
        (0.10, 0.02, 0.18, "more than", 0.0, "held", True),
        (0.10, -0.1, 0.30, "more than", 0.0, "underpowered", False),
        (0.01, -0.02, 0.04, "more than", 0.0, "failed", False),
        (-0.2, -0.3, -0.1, "more than", 0.0, "failed", False),
    ],
)
def test_verdicts_by_hand(
    value: float, low: float, high: float, sense: Any, threshold: float, verdict: str, certain: bool
) -> None:
    assert judge(Estimate(value, low, high, 60), sense, threshold)[:2] == (verdict, certain)


def test_no_headroom_and_nothing_measured_decide_nothing() -> None:
    full = statistical_power(outcome([1] * 40, [], []))
    assert judge(Estimate(0.0, 0.0, 0.0, 40), "at least", 0.25, full)[0] == "underpowered"
    assert judge(Estimate.missing(), "at most", 0.05)[0] == "underpowered"
    assert negated(Estimate(0.1, -0.2, 0.3, 5)) == Estimate(-0.1, -0.3, 0.2, 5)


def test_claims_follow_from_cells() -> None:
    good = outcome([1] * 30 + [0] * 10, [0] * 40, [0] * 40)
    greedy = outcome([1] * 30 + [0] * 10, [1] * 20 + [0] * 20, [1] * 8 + [0] * 32)
    unsafe = outcome([1] * 5 + [0] * 35, [0] * 40, [0] * 40)
    matched = {
        ("sarsteer", "image"): [cell(0, good)],
        ("sarsteer_v1", "image"): [cell(0, greedy, "sarsteer_v1")],
        ("sarsteer_v2", "image"): [cell(0, unsafe, "sarsteer_v2")],
        ("random", "image"): [cell(0, NONE, "random")],
    }
    same = {("sarsteer_v1", "image"): [cell(0, greedy, "sarsteer_v1", "same_strength")]}
    found = {c.id: c for c in claims(matched, same, {"text": NONE, "image": NONE}, {"image": statistical_power(NONE)})}
    assert {c.modality for c in found.values()} == {"image"}, "text is no medium"
    assert found["sarsteer-gain"].verdict == "held" and found["sarsteer-gain"].estimate.value == 0.75
    assert found["sarsteer-benign"].verdict == found["sarsteer-near-miss"].verdict == "held"
    assert found["random-nothing"].verdict == "held"
    assert found["sarsteer_v1-same-strength"].verdict == "held"
    assert found["sarsteer_v1-same-strength"].estimate.value == pytest.approx(28 / 80)
    assert found["sarsteer_v1-same-price"].verdict == "held"
    assert found["sarsteer_v2-same-price"].verdict == "held"
    assert not [name for name in found if name.startswith("mars")], "nothing is claimed about what was not run"
    p = [c for c in found.values() if c.p is not None]
    assert p and all(c.p_holm is not None and c.p is not None and c.p_holm >= c.p for c in p)
    assert all(set(c.to_json()["estimate"]) == {"value", "low", "high", "n"} for c in found.values())


def test_an_ablation_that_costs_nothing_fails_its_claim() -> None:
    none = outcome([0] * 80, [0] * 80, [0] * 80)
    good = outcome([1] * 60 + [0] * 20, [0] * 80, [0] * 80)
    matched = {("mars", "image"): [cell(0, good, "mars")], ("mars_no_gate", "image"): [cell(0, good, "mars_no_gate")]}
    same = {("mars_no_gate", "image"): [cell(0, good, "mars_no_gate", "same_strength")]}
    found = claims(matched, same, {"image": none}, {"image": statistical_power(none)})
    gate = next(c for c in found if c.id == "mars_no_gate-same-strength")
    assert gate.verdict == "failed" and "5 points" in gate.why
    lines = {line["id"]: line for line in verdicts(found)}
    assert lines["mars_no_gate-same-strength"]["failed"] == ["image"] and lines["mars-gain"]["held"] == ["image"]


def test_methods_are_compared_item_by_item() -> None:
    ours, theirs = outcome([1] * 30 + [0] * 10, [0] * 40, [0] * 40), outcome([1] * 20 + [0] * 20, [0] * 40, [0] * 40)
    arms = {("sarsteer", "image"): [cell(0, ours)], ("mars", "image"): [cell(0, theirs, "mars")]}
    (found,) = between(arms)
    assert (found["only_first"], found["only_second"]) == (10, 0) and found["harmful"]["value"] == 0.25
    assert found["p_mcnemar"] == pytest.approx(2 / 1024) and found["p_permutation"] < 0.01
    assert found["h"] == pytest.approx(cohen_h(0.75, 0.5)) and found["p_holm"] == found["p_permutation"], "one test"


def test_every_method_is_tested_against_addition_and_all_tests_are_adjusted() -> None:
    good, weak = (outcome([1] * n + [0] * (40 - n), [0] * 40, [0] * 40) for n in (30, 20))
    each = {"addition": good, "ace": good, "cast": weak}
    arms = {(name, "image"): [cell(0, found, name)] for name, found in each.items()}
    found = {row["first"]: row for row in between(arms)}
    assert set(found) == {"ace", "cast"} and all(row["second"] == "addition" for row in found.values())
    assert found["ace"]["h"] == 0.0 and found["cast"]["h"] < -0.5
    assert found["cast"]["p_holm"] == pytest.approx(min(1.0, 2 * found["cast"]["p_permutation"]))


# -- whole answers, and the label as gate ------------------------------------------------------------------------------


def test_whole_answers_are_counted_by_label_and_late_refusals_among_refusals() -> None:
    base = outcome([1] * 10, [0] * 5, [0] * 5)
    mixed = ["refusal"] * 3 + ["late_refusal"] + ["hedge", "off_task", "degenerate"] + ["compliance"] * 13
    found = labels([cell(0, Outcomes(base.prompts, tuple(mixed), base.correct))], "harmful")  # type: ignore[arg-type]
    assert found["n"] == 10 and found["refusal"] == 0.3 and found["late_share"] == 0.25
    assert found["hedge"] == found["off_task"] == found["degenerate"] == 0.1
    assert sum(found[label] for label in LABELS) == pytest.approx(1.0)
    assert labels([NONE], "harmful")["late_share"] is None, "nothing was refused"


def test_the_label_as_gate_tells_a_failing_gate_from_a_failing_edit() -> None:
    plain = {"image": NONE}
    strong, shut = outcome([1] * 36 + [0] * 4, [0] * 40, [0] * 40), outcome([1] * 4 + [0] * 36, [0] * 40, [0] * 40)
    weak = outcome([1] * 3 + [0] * 37, [0] * 40, [0] * 40)
    cells = [
        cell(0, shut, "mars"),
        cell(0, strong, "mars", "oracle"),
        cell(0, weak, "cast"),
        cell(0, weak, "cast", "oracle"),
        cell(0, strong, "ras"),
        cell(0, strong, "ras", "oracle"),
    ]
    found = {row["defence"]: row for row in oracles(Measured(plain, {"image": statistical_power(NONE)}, cells))}
    assert {name: row["fails"] for name, row in found.items()} == {"mars": "gate", "cast": "edit", "ras": "neither"}
    assert found["mars"]["gate_loss"]["value"] == pytest.approx(0.8) and found["mars"]["p_holm"] < 0.01
    assert found["cast"]["gain"]["value"] == pytest.approx(0.075)


def test_the_label_as_gate_leaves_harmless_rows_as_they_are() -> None:
    plain = outcome([0] * 4, [1] * 4, [0] * 4)
    harm = plain.prompts.filter(role="harmful")
    found = on_harm(Outcomes(harm, ("refusal",) * 4, (None,) * 4), plain)
    assert found.refused("harmful")[0] == [True] * 4
    assert found.refused("near_miss")[0] == plain.refused("near_miss")[0]


def test_the_control_model_must_gain_nothing() -> None:
    gain = {"value": 0.3, "low": 0.2, "high": 0.4, "n": 40}
    rows = {
        "a": {"defence": "mars", "modality": "image", "gain": gain},
        "b": {"defence": "mars", "modality": "text", "gain": gain},
        "c": {"defence": "random", "modality": "image", "gain": gain},
        "d": {"defence": "sarsteer", "modality": "image", "gain": {"value": 0.0, "low": -0.02, "high": 0.03, "n": 40}},
    }
    found = {c.id: c.verdict for c in claims({}, {}, {"image": NONE}, {"image": statistical_power(NONE)}, rows)}
    assert found == {"control-mars": "failed", "control-sarsteer": "held"}
    assert adjusted([]) == []


def test_controls_are_drawn_in_opposite_pairs_whatever_seeds_are_asked_for() -> None:
    assert control_seeds([0]) == [0, 1]
    assert control_seeds([0, 1, 2]) == [0, 1, 2, 3]
    assert control_seeds([5]) == [4, 5]
