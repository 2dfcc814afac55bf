"""Scores and selection: what the table says is what plain hooks measure, and the choice follows from the table."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.directions.selection import select_direction
from refusal_plugin.errors import DataError, DirectionError, PromptError
from refusal_plugin.evaluation.refusal_tokens import refusal_tokens
from refusal_plugin.inference.edits import ablation, addition
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.models import anatomy, hf_module, load
from refusal_plugin.prompts import PromptSet, encode
from refusal_plugin.traced.measure import kl_divergence, refusal_score
from tests.support.planting import REFUSE, WordJudge
from tests.support.tiny import tiny_model


def logits_by_hooks(model: Any, module: Any, prompts: PromptSet, edit: Any = None) -> Tensor:
    inputs, facts = encode(model, list(prompts)).inputs, anatomy(model)
    with torch.no_grad():
        if edit is None:
            return module(**inputs).logits[:, -1]  # type: ignore[no-any-return]
        with edit.attached(module, facts):
            return module(**inputs).logits[:, -1]  # type: ignore[no-any-return]


# -- scores ----------------------------------------------------------------------------------------------------------


def test_scores_and_kl_equal_plain_hooks(organism: Any, bare: Any, direction: Any, val: PromptSet, tokens: Any) -> None:
    plain = logits_by_hooks(organism, bare, val)
    encoded = Encoded.of(organism, val, max_rows=7)
    before = refusal_scores(organism, encoded, tokens.ids, keep_logits=True)
    torch.testing.assert_close(before.logits, plain, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(before.score, refusal_score(plain, tokens.ids), atol=1e-3, rtol=1e-4)
    assert float(before.kl.abs().max()) == 0
    for edit in (direction.addition(0.8), direction.ablation()):
        steered = logits_by_hooks(organism, bare, val, edit)
        after = refusal_scores(organism, encoded, tokens.ids, edit, reference=before.logits)
        torch.testing.assert_close(after.score, refusal_score(steered, tokens.ids), atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(after.kl, kl_divergence(steered, plain), atol=1e-3, rtol=1e-3)
        assert float(after.kl.max()) > 0.01
        kept = refusal_scores(organism, encoded, tokens.ids, edit, keep_residual=True)
        torch.testing.assert_close(kept.score, after.score, atol=1e-4, rtol=1e-4)


def test_residuals_are_kept_behind_the_edit(organism: Any, direction: Any, val: PromptSet, tokens: Any) -> None:
    encoded = Encoded.of(organism, val)
    before = refusal_scores(organism, encoded, tokens.ids, keep_residual=True).residual
    after = refusal_scores(organism, encoded, tokens.ids, direction.addition(1.0), keep_residual=True).residual
    assert before is not None and after is not None
    torch.testing.assert_close(after[:, : direction.layer], before[:, : direction.layer])
    moved = after[:, direction.layer] - before[:, direction.layer]
    torch.testing.assert_close(moved, direction.vector.expand_as(moved), atol=1e-3, rtol=1e-3)


def test_refusal_tokens_open_the_organisms_refusals(organism: Any, tokens: Any, train: PromptSet) -> None:
    from refusal_plugin.evaluation import PhraseJudge
    from refusal_plugin.inference.answers import generate

    assert tokens.harmful_refusal > 0.9 and tokens.benign_refusal < 0.1
    harmful = train.filter(role="harmful")
    answers = generate(organism, harmful, max_new_tokens=8, progress=False)
    refused = [a for a in answers if PhraseJudge().is_refusal(a.text)]
    assert {a.prompt_id for a in refused} <= tokens.refused
    opens = [a.ids[0] in tokens.ids.tolist() for a in refused]
    assert sum(opens) / len(opens) > 0.9
    assert all(a.text.split()[0] in tokens.words for a, good in zip(refused, opens, strict=True) if good)
    benign = generate(organism, train.filter(role="benign"), max_new_tokens=2, progress=False)
    assert not any(a.ids[0] in tokens.ids.tolist() for a in benign)


def test_the_planted_models_refusal_token_is_the_planted_one(planted: Any) -> None:
    assert planted.tokens.words == (REFUSE,)
    assert planted.tokens.harmful_refusal == 1.0 and planted.tokens.benign_refusal == 0.0


def test_a_model_that_refuses_nothing_has_no_refusal_tokens(planted: Any) -> None:
    with pytest.raises(DataError, match="refused none of 120 prompts") as error:
        refusal_tokens(planted.model, planted.train, max_new_tokens=2, progress=False)  # by phrases: there are none
    assert "\n" not in str(error.value)


def test_refusals_that_begin_like_answers_have_no_tokens(planted: Any) -> None:
    class Opposite:
        """Calls half of the answers a refusal, whatever they say."""

        def label(self, prompts: Any, answers: Any) -> list[Any]:
            return ["refusal" if k % 4 < 2 else "compliance" for k in range(len(answers))]

    with pytest.raises(DataError, match="begin like its answers"):
        refusal_tokens(planted.model, planted.train, judge=Opposite(), max_new_tokens=1, progress=False)


def test_scores_of_nothing_and_of_nan(planted: Any) -> None:
    with pytest.raises(PromptError, match="0 prompts"):
        Encoded.of(planted.model, [])
    module, tokenizer = tiny_model("qwen2")
    broken = load(module, tokenizer=tokenizer)
    with torch.no_grad():
        hf_module(broken).get_submodule("model.norm").weight[0] = float("nan")
    with pytest.raises(DataError, match="NaN or infinite logits"):
        refusal_scores(broken, Encoded.of(broken, planted.val), planted.tokens.ids)


# -- selection on a model whose answer is known ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def causal(planted: Any) -> Any:
    return select_direction(
        planted.model, planted.candidates, planted.val, planted.tokens, objective="causal", progress=False
    )


def test_the_table_is_complete(causal: Any, selected: Any, organism: Any) -> None:
    assert {(row["layer"], row["position"]) for row in causal.table} == {(l, p) for l in range(3) for p in (-2, -1)}  # noqa: E741
    assert len(causal.table) == 6 and len(selected.table) == anatomy(organism).n_layers
    for table in (causal.table, selected.table):
        assert sum(row["chosen"] for row in table) == 1
        for row in table:
            assert all(math.isfinite(row[name]) for name in ("bypass", "induce", "kl_ablate", "auroc", "cosmic"))
            assert row["kept"] == (row["reason"] == "")


def test_the_causal_choice_removes_refusal_and_little_else(planted: Any, causal: Any) -> None:
    chosen = next(row for row in causal.table if row["chosen"])
    assert (causal.layer, causal.position) == (chosen["layer"], chosen["position"])
    kept = [row for row in causal.table if row["kept"]]
    assert chosen["bypass"] == min(row["bypass"] for row in kept)
    assert chosen["induce"] >= 0 and chosen["kl_ablate"] <= 0.1 and causal.layer < 0.8 * 3
    assert abs(float(causal.unit @ planted.truth)) > 0.99

    module, ids = hf_module(planted.model), planted.tokens.ids
    harmful, benign = planted.val.filter(role="harmful"), planted.val.filter(role="benign")
    untouched = refusal_score(logits_by_hooks(planted.model, module, harmful), ids)
    removed = refusal_score(logits_by_hooks(planted.model, module, harmful, ablation(causal.unit, range(3))), ids)
    assert float(untouched.mean()) > 0 > float(removed.mean())
    assert float(removed.mean()) == pytest.approx(chosen["bypass"], abs=1e-3)
    given = refusal_score(logits_by_hooks(planted.model, module, benign, addition({causal.layer: causal.vector})), ids)
    assert float(given.mean()) == pytest.approx(chosen["induce"], abs=1e-3)


def check_cost(model: Any, module: Any, direction: Any, val: PromptSet, target: float) -> float:
    safe = val.filter(role=("benign", "near_miss"))
    plain = logits_by_hooks(model, module, safe)
    cost = float(kl_divergence(logits_by_hooks(model, module, safe, direction.addition()), plain).mean())
    chosen = next(row for row in direction.table if row["chosen"])
    assert cost == pytest.approx(chosen["kl_add"], abs=1e-3) and cost <= target + 1e-4
    assert direction.strength == chosen["strength"]
    return cost


def test_the_stored_strength_costs_no_more_than_asked(
    organism: Any, bare: Any, selected: Any, planted: Any, causal: Any, val: PromptSet
) -> None:
    assert check_cost(organism, bare, selected, val, 0.1) > 0.05, "bisection ends near the target"
    assert 0 < selected.strength < 2
    check_cost(planted.model, hf_module(planted.model), causal, planted.val, 0.1)


def test_a_smaller_budget_gives_a_smaller_strength(planted: Any, causal: Any) -> None:
    frugal = select_direction(
        planted.model, planted.candidates, planted.val, planted.tokens, target_kl=0.001, progress=False
    )
    check_cost(planted.model, hf_module(planted.model), frugal, planted.val, 0.001)
    assert frugal.strength < causal.strength


def test_the_defence_choice_has_the_largest_gain(selected: Any, organism: Any) -> None:
    kept = [row for row in selected.table if row["kept"]]
    chosen = next(row for row in selected.table if row["chosen"])
    assert chosen["gain"] == max(row["gain"] for row in kept) > 0
    assert selected.objective == "defence" and selected.selection == "interventions"
    for row in selected.table:
        if row["layer"] >= 0.8 * anatomy(organism).n_layers:
            assert row["reason"] == "layer >= 0.8 L"
        elif row["position"] == -1:
            assert row["reason"] == ("" if row["gain"] > 0 else "gain <= 0")


def test_a_defence_is_chosen_alike_without_what_removal_shows(planted: Any) -> None:
    asked = (planted.model, planted.candidates, planted.val, planted.tokens)
    whole, short = select_direction(*asked, progress=False), select_direction(*asked, removal=False, progress=False)
    assert (short.layer, short.position, short.strength) == (whole.layer, whole.position, whole.strength)
    for objective, method in (("causal", "interventions"), ("defence", "cosmic")):
        with pytest.raises(DirectionError, match="leaves out what decides"):
            select_direction(*asked, objective=objective, method=method, removal=False, progress=False)


def test_cosmic_takes_its_own_best(planted: Any) -> None:
    found = select_direction(
        planted.model, planted.candidates, planted.val, planted.tokens, method="cosmic", progress=False
    )
    kept = [row for row in found.table if row["kept"]]
    chosen = next(row for row in found.table if row["chosen"])
    assert found.selection == "cosmic"
    assert chosen["cosmic"] == max(row["cosmic"] for row in kept)
    assert float(found.unit @ planted.truth) > 0.99


def test_cosmic_by_hand(planted: Any, causal: Any) -> None:
    """cos(ablated harmful, mean benign) + cos(steered benign, mean harmful) where the means differ most."""
    chosen = next(row for row in causal.table if row["chosen"])
    direction = planted.candidates.at(chosen["layer"], chosen["position"])
    ids = planted.tokens.ids

    def mean(role: Any, edit: Any = None) -> Tensor:
        encoded = Encoded.of(planted.model, planted.val.filter(role=role))
        kept = refusal_scores(planted.model, encoded, ids, edit, keep_residual=True).residual
        assert kept is not None
        return kept.mean(0)

    cos = torch.nn.functional.cosine_similarity
    harmful, benign = mean("harmful"), mean("benign")
    layer = int(cos(harmful, benign, dim=-1).argmin())  # a tenth of three layers is one
    removed, added = (
        mean("harmful", direction.ablation()),
        mean("benign", addition({direction.layer: direction.vector})),
    )
    expected = cos(removed[layer], benign[layer], dim=0) + cos(added[layer], harmful[layer], dim=0)
    assert chosen["cosmic"] == pytest.approx(float(expected), abs=1e-3)


# -- what select refuses -----------------------------------------------------------------------------------------------


def test_no_candidate_passes_lists_the_reasons(planted: Any) -> None:
    with pytest.raises(DirectionError, match="none of 6 candidates passes") as error:
        options: dict[str, Any] = {"objective": "causal", "max_kl": -1.0, "max_depth": 0.6}
        select_direction(planted.model, planted.candidates, planted.val, planted.tokens, progress=False, **options)
    text = str(error.value)
    assert "(KL of ablation > -1: 4, layer >= 0.6 L: 2)" in text and "\n" not in text


def test_prompts_of_the_fit_may_not_choose(planted: Any) -> None:
    mixed = PromptSet([*planted.val, planted.train[4]])
    with pytest.raises(PromptError, match=f"used to fit it \\('{planted.train[4].id}"):
        select_direction(planted.model, planted.candidates, mixed, planted.tokens, progress=False)


@pytest.mark.parametrize("role", ["harmful", "benign"])
def test_one_class_cannot_choose(planted: Any, role: Any) -> None:
    with pytest.raises(PromptError, match=r"0 (harmful|benign) prompts"):
        select_direction(
            planted.model, planted.candidates, planted.val.filter(role=role), planted.tokens, progress=False
        )


def test_a_weak_vector_induces_nothing_and_is_filtered(planted: Any) -> None:
    faint = replace(planted.candidates, harmful=planted.candidates.benign + 0.01 * planted.candidates.vectors)
    with pytest.raises(DirectionError, match="induce < 0: 6"):
        select_direction(
            planted.model, faint, planted.val, planted.tokens, objective="causal", max_depth=2.0, progress=False
        )


def test_the_word_judge_is_the_planted_models(planted: Any) -> None:
    from refusal_plugin.inference.answers import generate

    answers = generate(planted.model, planted.val, max_new_tokens=1, progress=False)
    labels = WordJudge().label(planted.val, answers)
    assert [label == "refusal" for label in labels] == [p.role == "harmful" for p in planted.val]
