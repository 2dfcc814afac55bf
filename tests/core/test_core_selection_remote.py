"""A selection measured in one session is the selection measured step by step; so is one cut into several sessions.

Here the session runs on this machine. The same on a server without this package is in tests/ndif.
"""

import math
from dataclasses import replace
from typing import Any

import pytest

from refusal_plugin.directions.direction import Direction
from refusal_plugin.directions.selection import Search, choose, select_direction
from refusal_plugin.directions.selection_remote import (
    SEARCH,
    Asked,
    Measured,
    bench,
    measure,
    passes,
    tokens_of,
    work_of,
)
from refusal_plugin.errors import DirectionError
from refusal_plugin.remote import portions

CLOSE = 1e-6


def in_a_session(planted: Any, candidates: Any = None, max_kl: float = 0.1, **options: Any) -> Direction:
    """`select(remote=True)` with the session on this machine."""
    how = {"objective": "defence", "method": "interventions", "operator": "project_out", "figures": "all"} | options
    candidates = candidates or planted.candidates
    asked = Asked.of(candidates.positions, candidates.n_layers, target_kl=0.1, max_depth=0.8, **how)
    found = measure(planted.model, candidates, planted.val, planted.tokens, asked, False)
    search = Search(found, how["method"], how["objective"], how["operator"], 0.1, max_kl)
    return choose(search, candidates, "planted", figures=how["figures"], progress=False)


def equal(one: Direction, other: Direction) -> None:
    assert (one.layer, one.position, one.strength) == (other.layer, other.position, other.strength)
    assert (one.objective, one.selection) == (other.objective, other.selection)
    for a, b in zip(one.table, other.table, strict=True):
        for key, value in a.items():
            if isinstance(value, float):
                assert b[key] == pytest.approx(value, abs=CLOSE, nan_ok=True), key
            else:
                assert b[key] == value, key


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"figures": "needed"},
        {"objective": "causal"},
        {"objective": "causal", "figures": "needed"},
        {"objective": "causal", "operator": "benign_mean"},
        {"method": "cosmic"},
        {"method": "cosmic", "objective": "causal", "figures": "needed"},
    ],
    ids=lambda options: " ".join(options.values()) or "default",
)
def test_one_session_chooses_as_many_traces_do(planted: Any, options: dict[str, Any]) -> None:
    here = select_direction(planted.model, planted.candidates, planted.val, planted.tokens, progress=False, **options)
    equal(here, in_a_session(planted, **options))


def test_the_organism_too(organism: Any, candidates: Any, val: Any, tokens: Any) -> None:
    few = val.limit(12, 0)
    here = select_direction(organism, candidates, few, tokens, progress=False)
    asked = Asked.of(candidates.positions, candidates.n_layers, max_depth=0.8)
    found = measure(organism, candidates, few, tokens, asked, False)
    equal(here, choose(Search(found, "interventions", "defence", "project_out", 0.1), candidates, "o", progress=False))


def test_a_selection_that_is_cut_is_the_same(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from refusal_plugin import selection_remote

    sessions = []

    def cut(*stages: Any, **options: Any) -> Any:
        found = portions(*stages, **{**options, "remote": False})
        sessions.extend(([unit],) for unit in found[0][0])
        return list(sessions)

    monkeypatch.setattr(selection_remote, "portions", cut)
    found = in_a_session(planted)
    assert len(sessions) > 2
    equal(select_direction(planted.model, planted.candidates, planted.val, planted.tokens, progress=False), found)


def test_a_wrong_figure_would_be_seen(planted: Any) -> None:
    """The comparison above can fail: candidates that differ give another table."""
    other = replace(planted.candidates, harmful=1.01 * planted.candidates.harmful)
    with pytest.raises((AssertionError, DirectionError)):
        equal(in_a_session(planted), in_a_session(planted, candidates=other))


def test_only_what_may_be_asked_is_measured(planted: Any) -> None:
    n_layers, positions = planted.candidates.n_layers, planted.candidates.positions
    everything = Asked.of(positions, n_layers, max_depth=0.8).units(positions)
    assert sum(len(u["places"]) for u in everything if u["kind"] == "ablate") == n_layers * len(positions)
    frugal = Asked.of(positions, n_layers, max_depth=0.5, figures="needed").units(positions)
    assert [u["kind"] for u in frugal] == ["add"] * math.ceil(0.5 * n_layers), "no ablation, no deep layer"
    assert not any(u["induce"] for u in frugal) and all(u["priced"] for u in frugal)


def test_the_estimate_of_cost(planted: Any) -> None:
    work = bench(planted.model, planted.val, planted.candidates.positions)
    unit = {"kind": "add", "layer": 0, "ps": [0], "induce": True, "priced": [0]}
    assert passes(unit, 4) == 3 / 4 * (1 + SEARCH + 1) + 3 / 4
    assert passes({"kind": "ablate", "places": [(0, 0), (1, 0)]}, 4) == 2
    cost = work_of(planted.model, work, [{"kind": "ablate", "places": [(0, 0)]}])
    assert cost.tokens == [tokens_of(work)] and tokens_of(work) > 0


def test_measured_needs_every_unit(planted: Any) -> None:
    units = Asked.of((-1,), 3, max_depth=0.8).units((-1,))
    with pytest.raises(ValueError, match="zip"):
        Measured(planted.candidates, planted.val, units, [{"units": []}], source=(planted.model, planted.tokens, False))
