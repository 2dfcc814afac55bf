"""What a medium keeps of text's direction: planted shortening is all magnitude, planted rotation is all turn."""

import math

import pytest
import torch

from refusal_plugin.inference.kept import KEPT, direction_kept
from refusal_plugin.statistics import Estimate
from tests.transfer.planted import D, axis, streams

R = 4.0


def turned(angle: float, length: float = R) -> torch.Tensor:
    """A direction at an angle to text's."""
    return length * (math.cos(angle) * axis(0) + math.sin(angle) * axis(1))


def found(direction: torch.Tensor, groups: int = 400, noise: float = 1.0, seed: int = 0) -> dict[str, Estimate]:
    """The split of a medium with that direction against text with `R` times the first axis."""
    text = streams("text", "test", groups, direction=R * axis(0), noise=noise, seed=2 * seed + 1, content_seed=seed)
    medium = streams(
        "image", "test", groups, direction=direction, shift=30 * axis(7), noise=noise, seed=2 * seed + 2,
        content_seed=seed,
    )  # fmt: skip
    [one] = direction_kept(medium, text, seed)
    assert set(one) == set(KEPT)
    return one


def inside(one: Estimate, truth: float) -> bool:
    assert one.low is not None and one.high is not None
    return one.low <= truth <= one.high


def test_a_direction_that_is_only_shortened_loses_all_by_magnitude() -> None:
    one = found(turned(0.0, 0.5 * R))
    assert one["norm_ratio"].value == pytest.approx(0.5, abs=0.02) and one["cosine"].value > 0.99  # type: ignore[operator]
    assert one["lost_magnitude"].value == pytest.approx(0.5, abs=0.02)
    assert one["lost_turn"].value == pytest.approx(0.0, abs=0.02) and inside(one["lost_turn"], 0.0)
    assert one["magnitude_share"].value == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("angle", [math.pi / 4, math.pi / 2])
def test_a_direction_that_is_only_turned_loses_all_by_turning(angle: float) -> None:
    one = found(turned(angle))
    assert one["cosine"].value == pytest.approx(math.cos(angle), abs=0.03)
    assert one["lost_turn"].value == pytest.approx(1 - math.cos(angle), abs=0.04)
    assert one["lost_magnitude"].value == pytest.approx(0.0, abs=0.03) and inside(one["lost_magnitude"], 0.0)
    assert one["magnitude_share"].value == pytest.approx(0.0, abs=0.1)


def test_both_at_once_are_told_apart() -> None:
    a, c = 0.6, math.cos(0.8)
    one = found(turned(0.8, a * R))
    for key, truth in (
        ("lost_magnitude", (1 - a) * (1 + c) / 2),
        ("lost_turn", (1 - c) * (1 + a) / 2),
        ("kept", a * c),
    ):
        assert one[key].value == pytest.approx(truth, abs=0.03)
        assert inside(one[key], truth)


@pytest.mark.parametrize(("angle", "length"), [(0.0, 0.5), (0.3, 2.0), (1.0, 0.7), (2.5, 1.0), (math.pi, 1.3)])
def test_the_parts_add_up_exactly(angle: float, length: float) -> None:
    one = found(turned(angle, length * R), groups=30, seed=3)
    kept, magnitude, turn = (one[key].value for key in ("kept", "lost_magnitude", "lost_turn"))
    assert kept is not None and magnitude is not None and turn is not None
    assert magnitude + turn == pytest.approx(1 - kept, abs=1e-9)


def test_a_longer_direction_has_a_negative_part_and_no_share() -> None:
    one = found(turned(0.0, 1.5 * R))
    assert one["lost_magnitude"].value == pytest.approx(-0.5, abs=0.06)
    assert one["magnitude_share"].value is None, "nothing is lost, so there is no share of it"


def test_noise_of_few_items_is_not_taken_for_a_loss_of_direction() -> None:
    """Thirty pairs with heavy noise: as fitted the same direction would look turned by far."""
    turns = [found(turned(0.0), groups=30, noise=2.0, seed=seed)["lost_turn"].value for seed in range(10)]
    assert abs(sum(t for t in turns if t is not None) / len(turns)) < 0.05


def test_shuffled_labels_keep_nothing() -> None:
    """The null holds a medium without a direction, and not one that keeps half of text's."""
    nothing, half = found(0.0 * axis(0), groups=60), found(turned(0.0, 0.5 * R), groups=60)
    for one in (nothing, half):
        assert one["kept_shuffled"].value == pytest.approx(0.0, abs=0.05) and inside(one["kept_shuffled"], 0.0)
        assert one["norm_shuffled"].high < 0.3  # type: ignore[operator]
    assert nothing["kept"].value is None or inside(nothing["kept_shuffled"], nothing["kept"].value)
    assert half["kept"].value > half["kept_shuffled"].high  # type: ignore[operator]


@pytest.mark.slow
def test_the_intervals_cover_the_truth() -> None:
    a, c = 0.6, math.cos(0.8)
    hits: dict[str, list[bool]] = {"lost_magnitude": [], "lost_turn": [], "norm_ratio": []}
    truth = {"lost_magnitude": (1 - a) * (1 + c) / 2, "lost_turn": (1 - c) * (1 + a) / 2, "norm_ratio": a}
    for seed in range(40):
        one = found(turned(0.8, a * R), groups=36, seed=seed)
        for key, seen in hits.items():
            seen.append(inside(one[key], truth[key]))
    for key, seen in hits.items():
        assert sum(seen) / len(seen) >= 0.85, key


def test_too_few_pairs_measure_nothing() -> None:
    one = found(turned(0.0), groups=2)
    assert all(value.value is None for value in one.values()) and D > 2
