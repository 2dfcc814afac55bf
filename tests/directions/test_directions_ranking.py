"""First-order ranking: the slopes are those of finite differences, and the choice is that of measuring everything."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.directions.ranking import estimate
from refusal_plugin.directions.selection import first_measured, rank_agreement, select_direction
from refusal_plugin.errors import DirectionError
from refusal_plugin.inference.edits import Edit, SiteEdit, addition
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.models import hf_module, layers, load
from refusal_plugin.prompts import Prompt, PromptSet, encode
from refusal_plugin.remote import settings
from refusal_plugin.traced import write
from refusal_plugin.traced.slopes import probe, slopes
from tests.support.counting import counted
from tests.support.planting import plant
from tests.support.tiny import tiny_model

STEP = 0.01


@pytest.fixture(scope="module")
def slope(planted: Any) -> SimpleNamespace:
    """Slopes of the refusal score of some harmful prompts of different length, left-padded."""
    from refusal_plugin.directions.figures import sites_of

    prompts = PromptSet([*list(planted.val.filter(role="harmful"))[:3], Prompt("w1 w3", role="harmful")])
    found = planted.candidates
    units = torch.nn.functional.normalize(found.vectors, dim=-1)
    table = {
        "vectors": found.vectors,
        "origins": torch.einsum("pld,pkd->pkl", found.benign, units),
        "ids": planted.tokens.ids,
        "seed": 0,
        "removed": True,
        "levelled": True,
    }
    inputs = encode(planted.model, list(prompts)).inputs
    made = slopes(planted.model, layers(planted.model), sites_of(planted.model), inputs, [], table, ["score"])
    return SimpleNamespace(prompts=prompts, units=units, table=table, **made["score"])


def difference(planted: Any, prompts: PromptSet, edit: Any) -> Tensor:
    """Slope of the refusal scores by two runs, `edit` a function of the step."""
    runs = [refusal_scores(planted.model, Encoded.of(planted.model, prompts), planted.tokens.ids, edit(s)).score
            for s in (STEP, -STEP)]  # fmt: skip
    return (runs[0] - runs[1]) / (2 * STEP)


def test_slopes_of_addition_are_finite_differences(planted: Any, slope: Any) -> None:
    for p in range(2):
        for layer in range(3):
            vector = planted.candidates.vectors[p, layer]
            by_steps = difference(planted, slope.prompts, lambda s, v=vector, k=layer: addition({k: v}, strength=s))
            torch.testing.assert_close(slope.added[:, p, layer], by_steps, atol=0.02, rtol=0.02)


def test_slopes_of_removal_are_finite_differences_over_all_that_is_written(planted: Any, slope: Any) -> None:
    writes = [(0, "resid_pre"), *((layer, site) for layer in range(3) for site in ("attn_out", "mlp_out"))]
    for p, at in ((0, 0), (1, 2)):

        def removed(share: float, unit: Tensor = slope.units[p, at]) -> Edit:
            tensors = {"unit": unit, "keep": 1 - share}
            return Edit("", tuple(SiteEdit(layer, site, write.set_coordinate, tensors) for layer, site in writes))  # type: ignore[arg-type]

        by_steps = difference(planted, slope.prompts, removed)
        assert float(by_steps.abs().max()) > 0.1
        torch.testing.assert_close(slope.removed[:, p, at], by_steps, atol=0.02, rtol=0.02)


def test_slopes_towards_the_benign_mean_are_finite_differences(planted: Any, slope: Any) -> None:
    one = PromptSet(slope.prompts[:1])
    stream = refusal_scores(planted.model, Encoded.of(planted.model, one), planted.tokens.ids, keep_residual=True)
    assert stream.residual is not None
    unit, origin = slope.units[1, 1], slope.table["origins"][1, 1]
    gap = origin - stream.residual[0] @ unit  # what is missing at each layer; a layer brings what the last did not
    steps = gap - torch.cat([torch.zeros(1), gap[:-1]])

    def moved(share: float) -> Edit:
        return addition({k: share * float(step) * unit for k, step in enumerate(steps)}, where="last")

    torch.testing.assert_close(slope.levelled[:1, 1, 1], difference(planted, one, moved), atol=0.02, rtol=0.02)


def test_the_probe_has_the_curvature_of_kl_on_average() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, change = torch.randn(1, 12, generator=generator), torch.randn(1, 12, generator=generator)
    p = logits.softmax(-1)
    fisher = float((p * (change - (p * change).sum()) ** 2).sum())
    squares = []
    for seed in range(1500):
        point = logits.clone().requires_grad_(True)
        (g,) = torch.autograd.grad(probe(point, seed).sum(), point)
        squares.append(float((g * change).sum()) ** 2)
    assert sum(squares) / len(squares) == pytest.approx(fisher, rel=0.12)


# -- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("objective", "operator"), [("defence", "project_out"), ("causal", "benign_mean")])
def test_the_choice_on_a_planted_model_is_that_of_measuring_all(planted: Any, objective: Any, operator: Any) -> None:
    asked = (planted.model, planted.candidates, planted.val, planted.tokens)
    options: dict[str, Any] = {"objective": objective, "operator": operator, "progress": False}
    whole, few = (select_direction(*asked, measured=n, **options) for n in ("all", 1))
    assert (few.layer, few.position, few.strength) == (whole.layer, whole.position, whole.strength)
    by_place = {(row["layer"], row["position"]): row for row in whole.table}
    name = "gain" if objective == "defence" else "bypass"
    unmeasured = [row for row in few.table if math.isnan(row["auroc"])]
    assert all(math.isnan(row["estimate"]) for row in whole.table)
    for row in few.table:
        assert math.isfinite(row["estimate"])
        if row not in unmeasured:
            assert row[name] == pytest.approx(by_place[row["layer"], row["position"]][name], abs=1e-4)


def test_the_choice_on_the_embedded_model_is_that_of_measuring_all(
    organism: Any, candidates: Any, selected: Any, val: PromptSet, tokens: Any
) -> None:
    few = select_direction(organism, candidates, val, tokens, removal=False, measured=2, progress=False)
    assert (few.layer, few.position, few.strength) == (selected.layer, selected.position, selected.strength)
    unmeasured = [row for row in few.table if math.isnan(row["auroc"])]
    assert 2 <= len(unmeasured) < len(few.table)
    assert all(row["reason"] in ("estimated only", "layer >= 0.8 L") and not row["kept"] for row in unmeasured)
    assert rank_agreement(few.table, "defence") is not None and rank_agreement(selected.table, "defence") is None


def test_where_none_of_the_first_passes_the_next_are_measured(planted: Any) -> None:
    asked = (planted.model, planted.candidates, planted.val, planted.tokens)
    with pytest.raises(DirectionError, match=r"none of 6 candidates passes \(KL of ablation > -1: 6"):
        select_direction(*asked, objective="causal", max_kl=-1.0, measured=1, progress=False)


def test_few_candidates_are_all_measured_and_many_ranked() -> None:
    assert first_measured(None, 18, "interventions", False) is None
    assert first_measured(None, 19, "interventions", False) == 6
    assert first_measured(3, 5, "interventions", False) == 3 and first_measured(5, 5, "interventions", False) is None
    assert first_measured("all", 500, "interventions", False) is None
    assert first_measured(None, 500, "cosmic", False) is None, "COSMIC has no slope here"
    assert first_measured(None, 500, "interventions", True) is None, "a sandbox gives no gradients"
    with settings(trusted=True):
        assert first_measured(None, 500, "interventions", True) == 6
    with pytest.raises(DirectionError, match="give 1 or more"):
        first_measured(0, 5, "interventions", False)


# -- what it costs, and where it runs ----------------------------------------------------------------------------------


def estimated(planted: Any) -> dict[Any, Any]:
    asked = (planted.model, planted.candidates, planted.val, planted.tokens)
    return {o: estimate(*asked, objective=o) for o in ("defence", "causal")}


def test_all_candidates_cost_one_forward_pass_over_the_prompts(planted: Any) -> None:
    with counted(planted.model) as found:
        estimated(planted)
    batches = [Encoded.of(planted.model, planted.val.filter(role=role)).batches for role in ("harmful", "benign")]
    assert found.passes == 2 * sum(map(len, batches)), "once for each objective"
    assert found.tokens == 2 * sum(batch.size * batch.length for some in batches for _rows, batch in some)


def test_a_batch_that_does_not_fit_is_halved(planted: Any) -> None:
    def full(_module: Any, _args: Any, kwargs: Any) -> None:
        if len(kwargs["input_ids"]) > 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    whole = estimated(planted)
    handle = hf_module(planted.model).register_forward_pre_hook(full, with_kwargs=True)
    try:
        halved = estimated(planted)
    finally:
        handle.remove()
    for place, row in whole["defence"].items():
        assert halved["defence"][place]["gain"] == pytest.approx(row["gain"], rel=0.5), "other signs of the probe"
    for place, row in whole["causal"].items():
        assert halved["causal"][place]["bypass"] == pytest.approx(row["bypass"], abs=1e-3)


def test_bfloat16_ranks_alike(planted: Any) -> None:
    module, tokenizer = tiny_model("qwen2")
    plant(module, tokenizer)
    half = SimpleNamespace(**vars(planted) | {"model": load(module.to(torch.bfloat16), tokenizer=tokenizer)})
    fine, coarse = estimated(planted)["causal"], estimated(half)["causal"]
    for place, row in fine.items():
        assert coarse[place]["bypass"] == pytest.approx(row["bypass"], abs=0.3)
