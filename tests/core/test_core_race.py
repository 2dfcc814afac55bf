"""The race between candidates: the same choice, far-behind candidates out, ties kept, filters asked of the leader."""

from typing import Any

import pytest
import torch
from counting import counted
from planting import planted_prompts

import refusal_plugin as rp
from refusal_plugin.errors import DirectionError
from refusal_plugin.selection import select
from refusal_plugin.selection_race import MARGIN, behind


def test_who_is_behind_by_hand() -> None:
    """Paired: a candidate that is 1 worse on every prompt is out however much the prompts differ; a tie stays."""
    spread = 10 * torch.randn(8, generator=torch.Generator().manual_seed(0))
    noise = torch.tensor([0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1])
    bypass = torch.stack([spread + 1 + noise, spread, spread - noise, spread + 0.1 * noise.abs() * 0, spread - 3])
    assert behind(bypass, 1) == [0]
    # sd of the differences is 0.1 * sqrt(8 / 7): a mean of 5 standard errors is 5 * 0.1 / sqrt(7) = 0.189
    limit = MARGIN * 0.1 / 7**0.5
    close = torch.stack([torch.zeros(8), noise + 0.95 * limit, noise + 1.05 * limit])
    assert behind(close, 0) == [2]


@pytest.fixture(scope="module")
def many(planted: Any) -> Any:
    """Enough validation prompts for a race."""
    return planted_prompts(40, "val", 5)


def test_the_choice_is_that_of_all_figures(planted: Any, many: Any) -> None:
    args: Any = (planted.model, planted.candidates, many, planted.tokens)
    options: dict[str, Any] = {"objective": "causal", "progress": False}
    full, raced = select(*args, **options), select(*args, figures="race", **options)
    assert (full.layer, full.position, full.coefficient) == (
        raced.layer,
        raced.position,
        pytest.approx(raced.coefficient),
    )
    best = next(row for row in full.table if row["chosen"])
    out = [row for row in raced.table if row["reason"] == "far behind in the race"]
    assert out, "somebody is far behind"
    for row in out:
        same = next(r for r in full.table if (r["layer"], r["position"]) == (row["layer"], row["position"]))
        assert same["bypass"] > best["bypass"]


def test_a_race_costs_less(planted: Any, many: Any) -> None:
    args: Any = (planted.model, planted.candidates, many, planted.tokens)
    found = {}
    for figures in ("needed", "race"):
        with counted(planted.model) as found[figures]:
            select(*args, objective="causal", figures=figures, progress=False)
    assert found["race"].block_tokens < 0.85 * found["needed"].block_tokens


def test_where_there_is_no_race(planted: Any) -> None:
    args: Any = (planted.model, planted.candidates, planted.val.limit(6, seed=0), planted.tokens)
    few = [select(*args, objective="causal", figures=f, progress=False) for f in ("needed", "race")]
    assert (few[0].layer, few[0].position) == (few[1].layer, few[1].position)
    assert not [row for row in few[1].table if "race" in row["reason"]], "too few prompts for one"
    with pytest.raises(DirectionError, match="ranks by bypass"):
        select(*args, objective="defence", figures="race", progress=False)
    with pytest.raises(DirectionError, match="ranks by bypass"):
        rp.select(*args, objective="causal", method="cosmic", figures="race", progress=False)
