"""Runs that begin in the middle and candidates as rows: the figures of the plain way, in every architecture."""

import math
from typing import Any

import pytest
import torch
from tiny import FAMILIES, tiny_model
from torch import Tensor

from refusal_plugin.directions.calibration import largest_within
from refusal_plugin.directions.selection import select_direction
from refusal_plugin.directions.selection_figures import KEEP, STRENGTHS, largest_on_grid
from refusal_plugin.errors import DirectionError
from refusal_plugin.geometry import cosine
from refusal_plugin.inference.continuation import Stream, per_row, repeatable, sweep
from refusal_plugin.inference.edits import SITE_ORDER, SiteEdit, ablation, addition, attenuation, together
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.models import anatomy, load
from refusal_plugin.prompts import PromptSet, encode
from refusal_plugin.statistics import auroc
from refusal_plugin.traced.resume import ablate_rows, shrink_rows
from refusal_plugin.traced.write import ablate, shrink

IDS = torch.tensor([50, 51])
TEXTS = ("w1 w2 w3", "w5 w6 w7 w8 w9 w10", "w11 w12")
# Its stream has an axis of copies in front of the batch, so no residual of it can be read by prompt (see models/).
ROWS_FIRST = [family for family in FAMILIES if family != "gemma3n"]


def prompts_of(model: Any) -> Encoded:
    from refusal_plugin.prompts import Prompt

    return Encoded.of(model, [Prompt(text) for text in TEXTS], max_rows=2)


@pytest.mark.parametrize("family", ROWS_FIRST)
def test_begun_behind_a_layer_is_the_whole_run(family: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    encoded, facts = prompts_of(model), anatomy(model)
    vectors = torch.randn(3, facts.d_model, generator=torch.Generator().manual_seed(0))
    plain = refusal_scores(model, encoded, IDS, keep_logits=True)
    stream = Stream(model, encoded)
    for layer in range(facts.n_layers):
        options: dict[str, Any] = {"begin": stream.to(layer), "added": vectors, "reference": plain.logits}
        # Two candidates fit one batch: the third makes a batch of its own.
        found = sweep(model, encoded, IDS, 3, keep_residual=True, token_budget=48, **options)
        assert found.residual is not None and found.first == layer + 1
        for k, vector in enumerate(vectors):
            whole = refusal_scores(
                model, encoded, IDS, addition({layer: vector}), reference=plain.logits, keep_residual=True
            )
            assert whole.residual is not None
            torch.testing.assert_close(found.score[k], whole.score, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.kl[k], whole.kl, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.residual[k], whole.residual.mean(0)[layer + 1 :], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "bloom", "qwen3_next", "omni"])
def test_candidates_as_rows_are_candidates_alone(family: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    encoded, facts = prompts_of(model), anatomy(model)
    units = torch.randn(3, facts.d_model, generator=torch.Generator().manual_seed(0))
    units /= units.norm(dim=-1, keepdim=True)

    def parts(chunk: slice, size: int) -> list[SiteEdit]:
        unit = per_row(units[chunk], size)
        blocks = range(facts.n_layers)
        return [SiteEdit(layer, site, ablate_rows, {"unit": unit}) for layer in blocks for site in SITE_ORDER]

    found = sweep(model, encoded, IDS, 3, parts=parts, keep_residual=True)
    assert found.residual is not None
    for k, unit in enumerate(units):
        alone = refusal_scores(model, encoded, IDS, ablation(unit, range(facts.n_layers)), keep_residual=True)
        assert alone.residual is not None
        torch.testing.assert_close(found.score[k], alone.score, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.residual[k], alone.residual.mean(0), atol=1e-4, rtol=1e-4)


def test_a_streams_own_edit_goes_on_behind_the_beginning() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    encoded = prompts_of(model)
    generator = torch.Generator().manual_seed(0)
    means, vector = torch.randn(3, 32, generator=generator), torch.randn(32, generator=generator)
    units = means / means.norm(dim=-1, keepdim=True)
    faint = attenuation(units, means, keep=0.3)
    for layer in range(3):
        both = together("both", faint, addition({layer: vector}, when="prefill"))
        found = sweep(model, encoded, IDS, 1, begin=Stream(model, encoded, faint).to(layer), added=vector.unsqueeze(0))
        torch.testing.assert_close(
            found.score[0], refusal_scores(model, encoded, IDS, both).score, atol=1e-4, rtol=1e-4
        )


def test_edit_functions_with_a_direction_per_row() -> None:
    x, units = torch.randn(4, 5, 8), torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    origin = torch.randn(4)
    unit = units.unsqueeze(1)
    removed, moved = ablate_rows(x, unit), shrink_rows(x, unit, origin.reshape(4, 1, 1), 0.25)
    for k in range(4):
        torch.testing.assert_close(removed[k : k + 1], ablate(x[k : k + 1], units[k]))
        torch.testing.assert_close(moved[k : k + 1], shrink(x[k : k + 1], units[k], float(origin[k]), 0.25))


def test_media_rows_are_not_copied(organism: Any, few: Any) -> None:
    for modality, prompts in few.items():
        assert repeatable(encode(organism, list(prompts))) == (modality == "text")
    encoded = Encoded.of(organism, few["image"])
    facts = anatomy(organism)
    vectors = torch.randn(2, facts.d_model)
    found = sweep(organism, encoded, IDS, 2, begin=Stream(organism, encoded).to(1), added=vectors)
    for k, vector in enumerate(vectors):
        whole = refusal_scores(organism, encoded, IDS, addition({1: vector})).score
        torch.testing.assert_close(found.score[k], whole, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_strengths_on_a_grid_are_those_of_bisection(power: float) -> None:
    """Whatever the curve, and in fewer steps than bisection, in half as many where it is a square."""
    scales = torch.tensor([0.0, 0.037, 0.21, 0.53, 1.77, 41.0, 1.1e4, math.inf, math.nan])
    looks, rounds = 0, 0

    def cost(strength: Tensor, which: Tensor) -> Tensor:
        nonlocal looks, rounds
        looks, rounds = looks + len(which), rounds + 1
        return (scales * strength**power)[which]

    strengths, costs = largest_on_grid(cost, len(scales), 0.1)
    for k, scale in enumerate(scales.tolist()):
        expected, kl = largest_within(lambda c, s=scale: {"": s * c**power if c else 0.0}, 0.1, STRENGTHS)  # type: ignore[misc]
        assert float(strengths[k]) == pytest.approx(expected)
        assert float(costs[k]) == pytest.approx(kl[""], rel=1e-5)
    assert rounds <= 16
    assert looks <= (4 if power == 2.0 else 6.5) * len(scales), "bisection takes eight"


# -- the selection table is the plain way's table ----------------------------------------------------------------------


def plain_row(
    model: Any, candidates: Any, prompts: PromptSet, ids: Tensor, layer: int, position: int
) -> dict[str, float]:
    """Every figure of one candidate by one full pass after the other."""
    runs = {name: Encoded.of(model, prompts.filter(role=name)) for name in ("harmful", "benign")}
    runs["safe"] = Encoded.of(model, prompts.filter(role=("benign", "near_miss")))
    plain = {name: refusal_scores(model, run, ids, keep_logits=True, keep_residual=True) for name, run in runs.items()}
    direction = candidates.at(layer, position)
    removed, added = direction.ablation(), addition({layer: direction.vector})
    bypass = refusal_scores(model, runs["harmful"], ids, removed, keep_residual=True)
    induce = refusal_scores(model, runs["benign"], ids, added, keep_residual=True)
    without = refusal_scores(model, runs["benign"], ids, removed, reference=plain["benign"].logits)

    def cost(strength: float) -> dict[str, float]:
        edit = addition({layer: direction.vector}, strength=strength)
        return {"": float(refusal_scores(model, runs["safe"], ids, edit, reference=plain["safe"].logits).kl.mean())}

    strength, kl = largest_within(cost, 0.1, STRENGTHS)
    faint = candidates.at(layer, -1).attenuated(KEEP)
    both = together("gain", faint, addition({layer: direction.vector}, strength=strength, when="prefill"))
    gain = (
        refusal_scores(model, runs["harmful"], ids, both).score
        - refusal_scores(model, runs["harmful"], ids, faint).score
    )
    h, b = plain["harmful"].residual.mean(0), plain["benign"].residual.mean(0)  # type: ignore[union-attr]
    seen = cosine(h, b).argsort()[: max(1, round(0.1 * len(h)))]
    first = cosine(bypass.residual.mean(0)[seen].flatten(), b[seen].flatten())  # type: ignore[union-attr]
    second = cosine(induce.residual.mean(0)[seen].flatten(), h[seen].flatten())  # type: ignore[union-attr]
    along = [plain[name].residual[:, layer] @ direction.unit for name in ("harmful", "safe")]  # type: ignore[index]
    return {
        "bypass": float(bypass.score.mean()),
        "induce": float(induce.score.mean()),
        "kl_ablate": float(without.kl.mean()),
        "strength": strength,
        "kl_add": kl[""],
        "gain": float(gain.mean()),
        "auroc": auroc(*along),
        "cosmic": float(first + second),
    }


@pytest.fixture(scope="module")
def whole(planted: Any) -> Any:
    return select_direction(
        planted.model, planted.candidates, planted.val, planted.tokens, max_depth=2.0, progress=False
    )


def test_the_table_is_that_of_one_full_pass_per_candidate(planted: Any, whole: Any) -> None:
    for row in whole.table:
        args = (planted.model, planted.candidates, planted.val, planted.tokens.ids)
        for name, expected in plain_row(*args, row["layer"], row["position"]).items():
            assert row[name] == pytest.approx(expected, abs=1e-4), (name, row)


def test_the_organisms_table_too(organism: Any, candidates: Any, selected: Any, val: PromptSet, tokens: Any) -> None:
    for row in selected.table:
        expected = plain_row(organism, candidates, val, tokens.ids, row["layer"], row["position"])
        names = [name for name in expected if not math.isnan(row[name])]
        assert len(names) >= 5
        for name in names:
            assert row[name] == pytest.approx(expected[name], abs=1e-3), (name, row)


@pytest.mark.parametrize("method", ["interventions", "cosmic"])
@pytest.mark.parametrize("objective", ["causal", "defence"])
def test_measuring_what_is_needed_chooses_the_same(planted: Any, objective: Any, method: Any) -> None:
    args = (planted.model, planted.candidates, planted.val, planted.tokens)
    options: dict[str, Any] = {"objective": objective, "method": method, "progress": False}
    full, lazy = select_direction(*args, **options), select_direction(*args, figures="needed", **options)
    assert (full.layer, full.position) == (lazy.layer, lazy.position)
    assert lazy.strength == pytest.approx(full.strength, abs=1e-6)
    for a, b in zip(full.table, lazy.table, strict=True):
        assert (a["layer"], a["position"], a["chosen"]) == (b["layer"], b["position"], b["chosen"])
        for name in ("bypass", "induce", "kl_ablate", "cosmic", "gain", "kl_add"):
            assert math.isnan(b[name]) or a[name] == pytest.approx(b[name], abs=1e-4)


def test_a_choice_alone_leaves_the_strength_open(planted: Any) -> None:
    args = (planted.model, planted.candidates, planted.val, planted.tokens)
    options: dict[str, Any] = {"objective": "causal", "progress": False}
    priced, alone = (
        select_direction(*args, figures="needed", **options),
        select_direction(*args, figures="choice", **options),
    )
    assert (alone.layer, alone.position) == (priced.layer, priced.position)
    assert alone.strength == 1.0 != priced.strength
    assert all(math.isnan(row["strength"]) for row in alone.table)
    for_defence = select_direction(*args, figures="choice", progress=False)  # here the choice rests on strengths
    assert for_defence.strength == select_direction(*args, figures="needed", progress=False).strength


def test_what_is_not_needed_is_left_out_and_said(planted: Any) -> None:
    args = (planted.model, planted.candidates, planted.val, planted.tokens)
    found = select_direction(*args, objective="causal", figures="needed", max_depth=0.6, progress=False)
    reasons = {row["reason"] for row in found.table}
    assert {"layer >= 0.6 L", "not needed"} <= reasons
    with pytest.raises(DirectionError, match=r"KL of ablation > -1: 4, layer >= 0.6 L: 2"):
        select_direction(*args, objective="causal", figures="needed", max_kl=-1.0, max_depth=0.6, progress=False)


def test_benign_mean_as_rows(planted: Any) -> None:
    args = (planted.model, planted.candidates, planted.val, planted.tokens)
    found = select_direction(*args, operator="benign_mean", progress=False)
    harmful = Encoded.of(planted.model, planted.val.filter(role="harmful"))
    for row in found.table:
        direction = planted.candidates.at(row["layer"], row["position"])
        edit = direction.set_to_benign_mean() if row["position"] == -1 else direction.ablation()
        expected = refusal_scores(planted.model, harmful, planted.tokens.ids, edit).score.mean()
        assert row["bypass"] == pytest.approx(float(expected), abs=1e-4)
