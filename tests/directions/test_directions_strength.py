"""The search for a strength: few looks, close to the edge, and never beyond a cost that falls again."""

import math
import random
import statistics
from collections.abc import Callable, Sequence

import pytest

from refusal_plugin.directions.strength import largest_strength

Curve = Callable[[float], float]

CURVES: dict[str, Curve] = {
    "square": lambda c: c * c,
    "saturating": lambda c: c * c / (1 + 3 * c * c),
    "bent": lambda c: math.tanh(2 * c) ** 2 + 0.02 * c,
    "steep": lambda c: c**4 + 0.2 * c * c,
    "exponential": lambda c: math.exp(2 * c) - 1 - 2 * c,
}


def search(cost: Curve, target: float = 1.0, bounds: tuple[float, float] = (0.0, 2.0)) -> tuple[float, int, int]:
    """The strength, the looks, and the strengths that were measured."""
    seen = 0

    def look(strengths: Sequence[float]) -> list[float]:
        nonlocal seen
        seen += len(strengths)
        return [cost(c) for c in strengths]

    return (*largest_strength(look, target, bounds), seen)


@pytest.mark.parametrize("name", CURVES)
def test_the_edge_is_found_to_two_percent_in_three_looks(name: str) -> None:
    draw = random.Random(0)
    looks, measured = [], []
    for _ in range(200):
        edge = math.exp(draw.uniform(math.log(0.02), math.log(1.95)))
        scale = 0.05 / CURVES[name](edge)
        found, n, seen = search(lambda c, s=scale: s * CURVES[name](c), 0.05)  # type: ignore[misc]
        assert 0.98 * edge - 1e-9 <= found <= edge * (1 + 1e-9)
        looks.append(n)
        measured.append(seen)
    assert statistics.median(looks) <= 3 and max(looks) <= 8
    assert statistics.mean(measured) < 10, "a ladder and two divisions of its bracket would be 18"


def test_a_free_edit_gets_the_upper_bound_and_a_dear_one_the_lower() -> None:
    assert search(lambda c: 0.0)[:2] == (2.0, 1)
    assert search(lambda c: 9.0 if c else 0.0)[0] < 0.02
    assert search(lambda c: 9.0, bounds=(1.0, 1.0))[:2] == (1.0, 0)


def test_the_first_crossing_counts_where_a_broken_model_looks_cheap_again() -> None:
    assert 0.19 < search(lambda c: 9.0 if 0.2 < c < 1.0 else 0.0)[0] <= 0.2
    assert 0.28 < search(lambda c: math.nan if c > 0.3 else c * c / 10)[0] <= 0.3


def test_a_gate_that_opens_at_once_is_approached_from_below() -> None:
    found, looks, _ = search(lambda c: 0.0 if c < 0.7 else 2.0)
    assert 0.68 < found < 0.7 and looks <= 8
