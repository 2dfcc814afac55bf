"""Selection figures measured in one session: those of the plain way, one full pass after the other, everywhere."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.directions.direction import Candidates
from refusal_plugin.directions.figures import (
    GRID,
    KEEP,
    SEARCH,
    STRENGTHS,
    bench,
    figures_of,
    measure,
    passes,
    tokens_of,
    units,
    work_of,
)
from refusal_plugin.directions.selection import choose, places_of, select_direction
from refusal_plugin.evaluation.refusal_tokens import RefusalTokens
from refusal_plugin.geometry import cosine
from refusal_plugin.inference.edits import addition, together
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.models import anatomy, load
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.statistics import auroc
from refusal_plugin.traced.grid import grid_ask, grid_begin, grid_law, grid_tell
from tests.support.tiny import FAMILIES, tiny_model

# Its stream has an axis of copies in front of the batch, so no residual of it can be read by prompt (see models/).
ROWS_FIRST = [family for family in FAMILIES if family != "gemma3n"]


def largest_within(
    cost: Callable[[float], dict[str, float]], target: float, bounds: tuple[float, float]
) -> tuple[float, dict[str, float]]:
    """The largest strength within the target and its costs, by plain bisection to 1/128 of the range."""
    low, high = bounds
    found = cost(high)
    if max(found.values()) <= target:
        return high, found
    kept = cost(low)
    for _ in range(7):
        found = cost((low + high) / 2)
        if max(found.values()) <= target:
            low, kept = (low + high) / 2, found
        else:
            high = (low + high) / 2
    return low, kept


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_strengths_on_a_grid_are_those_of_bisection(power: float) -> None:
    """Whatever the curve, and in fewer steps than bisection; begun near the answer of a like curve, in three or so."""
    scales = torch.tensor([0.0, 0.037, 0.21, 0.53, 1.77, 41.0, 1.1e4, math.inf, math.nan])
    looks, rounds = 0, 0

    def cost(strength: Tensor, which: Tensor) -> Tensor:
        nonlocal looks, rounds
        looks, rounds = looks + len(which), rounds + 1
        return (scales * strength**power)[which]

    bottom, top = STRENGTHS
    unknown = torch.ones(len(scales), dtype=torch.long)
    state = grid_begin(GRID * unknown, 2.0 * unknown, GRID)
    while len((question := grid_ask(state, 0.1))[1]):
        where, which = question
        grid_tell(state, where, which, cost(bottom + (top - bottom) * where / GRID, which), 0.1)
    strengths, costs = bottom + (top - bottom) * state["low"] / GRID, state["low_cost"]
    for k, scale in enumerate(scales.tolist()):
        expected, kl = largest_within(lambda c, s=scale: {"": s * c**power if c else 0.0}, 0.1, STRENGTHS)  # type: ignore[misc]
        assert float(strengths[k]) == pytest.approx(expected)
        assert float(costs[k]) == pytest.approx(kl[""], rel=1e-5)
    assert rounds <= 16
    assert looks <= 6 * len(scales), "bisection takes eight"
    start, law = grid_law(state, 0.1)
    for shift in (-6, -2, 0, 2, 6):  # the search of a neighbouring layer
        again, looks = grid_begin((start + shift).clamp(1, GRID), law, GRID), 0
        while len((question := grid_ask(again, 0.1))[1]):
            where, which = question
            grid_tell(again, where, which, cost(bottom + (top - bottom) * where / GRID, which), 0.1)
        assert again["low"].tolist() == state["low"].tolist()
        assert looks <= 3.8 * len(scales)


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


def test_benign_mean_as_rows(planted: Any) -> None:
    args = (planted.model, planted.candidates, planted.val, planted.tokens)
    found = select_direction(*args, operator="benign_mean", progress=False)
    harmful = Encoded.of(planted.model, planted.val.filter(role="harmful"))
    for row in found.table:
        direction = planted.candidates.at(row["layer"], row["position"])
        edit = direction.set_to_benign_mean() if row["position"] == -1 else direction.ablation()
        expected = refusal_scores(planted.model, harmful, planted.tokens.ids, edit).score.mean()
        assert row["bypass"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("family", ROWS_FIRST)
def test_every_architecture_gives_the_plain_figures(family: str) -> None:
    _require_plain_figures(family)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_layer_without_a_direction_leaves_the_others_their_figures(family: str) -> None:
    """As behind a short convolution, which sees the same end of the template in every prompt."""
    _require_plain_figures(family, equal=0)


def _require_plain_figures(family: str, equal: int | None = None) -> None:
    """Planted candidates have the plain way's figures; those of one layer may have equal means."""
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    facts, generator = anatomy(model), torch.Generator().manual_seed(0)
    means = torch.randn(2, 1, facts.n_layers, facts.d_model, generator=generator)
    if equal is not None:
        means[0, :, equal] = means[1, :, equal]
    candidates = Candidates(means[0], means[1], (-1,), 1, 1, {})
    words = {"harmful": ("w1 w2 w3", "w9"), "benign": ("w5 w6 w7 w8 w9 w10", "w2 w4"), "near_miss": ("w11 w12",)}
    prompts = PromptSet(Prompt(text, role=role) for role, texts in words.items() for text in texts)  # type: ignore[arg-type]
    ids = torch.tensor([50, 51])
    tokens = RefusalTokens(ids, (), 1.0, 0.0, frozenset())
    places = [place for place in places_of(candidates) if place[0] != equal]
    found = measure(model, candidates, prompts, tokens, places=places, priced=places)
    for place in places:
        for name, expected in plain_row(model, candidates, prompts, ids, *place).items():
            assert math.isfinite(expected) and found[place][name] == pytest.approx(expected, abs=2e-4), (name, place)


def test_work_that_is_cut_between_units_is_the_same(planted: Any) -> None:
    """Each part of the work alone, as in requests of its own, gives what one session over all of it gives."""
    candidates, source = planted.candidates, (planted.model, planted.candidates, planted.val, planted.tokens)
    places = places_of(candidates)
    whole = measure(*source, places=places, priced=places)
    for place in places[::2]:
        for name, value in measure(*source, places=[place], priced=[place]).get(place, {}).items():
            assert whole[place][name] == pytest.approx(value, abs=1e-6), name
    few = measure(*source, places=places[:1], removal=False)[places[0]]
    assert set(few) == {"auroc"}, "only what was asked for is measured"


def test_a_causal_choice_is_priced_alone(planted: Any) -> None:
    args = (planted.model, planted.candidates, planted.val, planted.tokens)
    found = select_direction(*args, objective="causal", progress=False)
    assert sum(not math.isnan(row["strength"]) for row in found.table) == 1
    assert found.strength == next(row["strength"] for row in found.table if row["chosen"])


def test_a_candidate_with_nan_is_left_out_with_its_reason(planted: Any) -> None:
    places = places_of(planted.candidates)
    figures = {
        place: dict.fromkeys(("bypass", "induce", "kl_ablate", "cosmic", "auroc", "gain"), 1.0) for place in places
    }
    figures[places[0]]["bypass"] = math.nan
    table = choose(planted.candidates, figures).table
    assert [row["reason"] for row in table if (row["layer"], row["position"]) == places[0]] == ["NaN"]


def test_other_candidates_have_other_figures(planted: Any) -> None:
    """The comparisons above can fail."""
    other = replace(planted.candidates, harmful=1.01 * planted.candidates.harmful)
    place = places_of(other)[0]
    rest: dict[str, Any] = {"places": [place]}
    one = measure(planted.model, planted.candidates, planted.val, planted.tokens, **rest)[place]
    assert one != pytest.approx(measure(planted.model, other, planted.val, planted.tokens, **rest)[place], abs=1e-4)


def test_the_estimate_of_cost(planted: Any) -> None:
    work = bench(planted.model, planted.val, planted.candidates.positions)
    unit = {"kind": "add", "layer": 0, "ps": [0], "induce": True, "priced": [0]}
    assert passes(unit, 4) == 3 / 4 * (1 + SEARCH + 1) + 3 / 4
    assert passes({"kind": "ablate", "places": [(0, 0), (1, 0)]}, 4) == 2
    cost = work_of(planted.model, work, [{"kind": "ablate", "places": [(0, 0)]}])
    assert cost.tokens == [tokens_of(work)] and tokens_of(work) > 0


def test_every_unit_needs_its_result() -> None:
    with pytest.raises(ValueError, match="zip"):
        figures_of((-1,), units((-1,), [(0, -1)]), [{"units": []}])
