"""Planted refusal directions, one, two and five, are found again; on a model the words follow the figures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.directions.subspace import Subspace, differences, leading
from refusal_plugin.directions.subspace_effects import analyse_subspace
from refusal_plugin.errors import DataError, DirectionError, PromptError
from refusal_plugin.inference.streams import Streams
from tests.transfer.planted import D, axis, streams

CONTENT = 20
"""An axis along which all twins differ, whatever their role."""


def world(k: int, groups: int = 1200, strength: float = 6.0, content: float = 1.5, seed: int = 0) -> Streams:
    """Pairs of k kinds of harm, each with a direction of its own, turned away from the axes but for `CONTENT`."""
    turn = torch.eye(D, dtype=torch.float64)
    turn[:10, :10] = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(5)).double())[0]
    found = streams("text", "train", groups, direction=0 * axis(0), noise=0.5, seed=seed)
    rows = found.values[:, 0].double()
    for g in range(groups):
        rows[3 * g] += strength * turn[:, g % max(k, 1)] * (k > 0)
    own = torch.randn(len(rows), generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    rows[:, CONTENT] += content * own
    return Streams(found.prompts, rows.float()[:, None])


def planted(k: int) -> torch.Tensor:
    """(D, k) orthonormal."""
    turn = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(5)).double())[0]
    basis = torch.zeros(D, k, dtype=torch.float64)
    basis[:10] = turn[:, :k]
    return basis


@pytest.mark.parametrize("k", [1, 2, 5])
def test_planted_directions_are_counted_and_found(k: int) -> None:
    found = Subspace.fit(world(k), 0)
    assert found.k == k
    assert float(found.angles(planted(k)).max()) < 5.0, "degrees"
    assert bool((found.difference @ found.basis > 0).all()), "towards refusal"
    torch.testing.assert_close(found.vector, found.difference, atol=0.2, rtol=0)
    assert ("One direction suffices" in found.words) == (k == 1) and f"{k} of 8" in found.words


def test_a_direction_of_content_is_none_of_refusal() -> None:
    """Twins differ most along an axis that has nothing to do with harm: plain decomposition takes it, this does not."""
    one = world(1, strength=4.0, content=6.0)
    found = Subspace.fit(one, 0)
    assert found.k == 1 and abs(float(found.basis[CONTENT, 0])) < 0.3
    d, _, _ = differences(one, 0)
    assert abs(float(leading(d, None, 1)[CONTENT, 0])) > 0.95


def test_noise_alone_has_no_direction() -> None:
    """Held-out gains have mean zero without harm: of 20 worlds few pass, and the words say that there is nothing."""
    passed = 0
    for seed in range(20):
        found = Subspace.fit(world(0, groups=60, seed=100 + seed), 0, seed=seed, k_max=2)
        assert found.k >= 1
        passed += found.gains[0]["low"] > 0
        assert ("No direction of 2" in found.words) == (not found.gains[0]["low"] > 0)
    assert passed <= 3


def test_what_is_added_and_taken_away_by_hand() -> None:
    basis = torch.eye(4)[:, :2]
    found = Subspace(0, basis, torch.tensor([3.0, 4.0, 5.0, 0.0]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]), n=9)
    assert found.vector.tolist() == [3.0, 4.0, 0.0, 0.0]
    [part] = found.addition(2.0).parts
    x = torch.full((1, 1, 4), 9.0)
    assert part.function(x, **part.tensors).flatten().tolist() == [15.0, 17.0, 9.0, 9.0]
    for operator, wanted in (("benign_mean", [1.0, 2.0, 9.0, 9.0]), ("project_out", [0.0, 0.0, 9.0, 9.0])):
        moved = x
        for part in found.ablation(operator).parts:  # type: ignore[arg-type]
            moved = part.function(moved, **part.tensors)
        assert moved.flatten().tolist() == wanted
    assert found.first(1).vector.tolist() == [3.0, 0.0, 0.0, 0.0]
    with pytest.raises(DirectionError, match="it has 2"):
        found.first(3)


def test_the_words_follow_the_figures() -> None:
    found = Subspace.fit(world(2, groups=60), 0)
    assert "was not measured" in found.words

    def with_effects(added: float, ablated: float) -> str:
        made = {
            f"more_{name}": {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9}
            for name, v in (("added", added), ("ablated", ablated))
        }
        for name, v in (("added", added), ("ablated", ablated)):
            made |= {f"{name} one": {"value": 2.0}, f"{name} together": {"value": 2.0 + v}}
        return replace(found, effects=made).words

    assert with_effects(0.05, 0.0).startswith("One direction suffices to act")
    assert "do more than one when added (" in with_effects(0.5, 0.0)
    assert "the first alone does 80% of it when added." in with_effects(0.5, 0.0)
    assert "when added and ablated" in with_effects(0.5, -0.5)
    assert with_effects(-0.5, 0.5).startswith("One direction suffices to act"), "less is not more"
    assert Subspace.fit(world(2, groups=60), 0, k=2).words.startswith("2 directions were asked for")


def test_what_cannot_be_fitted() -> None:
    two = world(2, groups=40)
    safe = two.keep(frozenset(p.id for p in two.prompts if p.role != "near_miss"))
    with pytest.raises(DataError, match="no near misses") as raised:
        Subspace.fit(safe, 0)
    assert "\n" not in str(raised.value)
    assert Subspace.fit(safe, 0, k=2).k == 2
    for streams_, k in ((world(1, groups=5), None), (two, 0), (two, 99), (two.keep(frozenset()), 1)):
        with pytest.raises(DataError, match="fit a refusal subspace"):
            Subspace.fit(streams_, 0, k=k)


def test_on_the_model_it_acts_and_is_saved(organism: Any, tmp_path: Path) -> None:
    from refusal_plugin.organism.data import organism_prompts

    fit, test = (organism_prompts(split=split, modality="text", limit=14) for split in ("train", "test"))
    prompts = fit + test
    ids = torch.tensor([5, 6])
    found = analyse_subspace(organism, prompts, 3, k=2, refusal_ids=ids, pairs=4)
    assert found.k == 2 and set(found.effects) == {
        *(f"{what} {arm}" for what in ("added", "ablated") for arm in ("one", "together", "random")),
        "more_added",
        "more_ablated",
    }
    for row in found.effects.values():
        assert row["low"] <= row["value"] <= row["high"] and row["n"] == 4
    more = found.effects["added together"]["value"] - found.effects["added one"]["value"]
    assert found.effects["more_added"]["value"] == pytest.approx(more, abs=1e-5)
    again = Subspace.load(found.save(tmp_path / "subspace.safetensors"), organism)
    assert torch.equal(again.basis, found.basis) and again.words == found.words and again.effects == found.effects
    with pytest.raises(PromptError, match="no harmful and benign text in split 'test'"):
        analyse_subspace(organism, prompts.filter(split="train"), 3, refusal_ids=ids)
    with pytest.raises(DirectionError, match="layers"):
        analyse_subspace(organism, prompts, 99, refusal_ids=ids)
