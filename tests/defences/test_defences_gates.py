"""Every edit function against a case worked out by hand, and every row of a batch by itself."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from refusal_plugin.inference.edits import Edit, SiteEdit
from refusal_plugin.traced import gate, write

E0, E1 = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def rows(*points: tuple[float, float]) -> Tensor:
    """(batch, 1, 2)."""
    return torch.tensor(points, dtype=torch.float32).unsqueeze(1)


def mars(x: Tensor, **changes: Any) -> Tensor:
    """Text centroids at -2 and +2 on the first axis, so r = (4, 0); the centre at the origin."""
    tensors: dict[str, Any] = {
        "unit": E0,
        "centre": torch.zeros(2),
        "safe": torch.tensor([-2.0, 0.0]),
        "unsafe": torch.tensor([2.0, 0.0]),
        "margin": -1.0,
        "reach": 3.0,
        "norm": 4.0,
        "target": 2.0,
        "strength": 1.0,
        "gate": "hard",
        "mode": "distance",
    }
    return gate.mars(x, **{**tensors, **changes})


def test_mars_by_hand() -> None:
    # (0, 0): w = 1/2, wanted 4 / 2 = 2 <= reach - p = 3.  (2, 0): d_u = 0, w = 1, wanted 4, cut to 3 - 2 = 1.
    # (-1.5, 0) is behind the margin.  (5, 0) is beyond the trust region.  (0, 3): equal distances again.
    x = rows((0, 0), (2, 0), (-1.5, 0), (5, 0), (0, 3))
    torch.testing.assert_close(mars(x), rows((2, 0), (3, 0), (-1.5, 0), (5, 0), (2, 3)))


def test_mars_switches_by_hand() -> None:
    x = rows((0, 0), (-1.5, 0), (2.5, 0))
    # d_s, d_u of (-1.5, 0) are 0.5 and 3.5: w = 1/8, wanted 1/2.
    torch.testing.assert_close(mars(x, gate="none"), rows((2, 0), (-1, 0), (3, 0)))
    # soft: (0, 0) opens 2 (0 + 1) / 4 = 1/2 of its step.
    torch.testing.assert_close(mars(x, gate="soft"), rows((1, 0), (-1.5, 0), (3, 0)))
    torch.testing.assert_close(mars(x, mode="target"), rows((2, 0), (-1.5, 0), (2.5, 0)))
    torch.testing.assert_close(mars(x, strength=0.25), rows((0.5, 0), (-1.5, 0), (3, 0)))
    each = torch.tensor([0.0, 1.0, 0.1]).reshape(3, 1, 1)
    # (2.5, 0): d_s = 4.5, d_u = 0.5, w = 0.9, wanted 3.6 * 0.1 = 0.36.
    torch.testing.assert_close(mars(x, strength=each), rows((0, 0), (-1.5, 0), (2.86, 0)))
    shifted = mars(x + torch.tensor([10.0, 0.0]), centre=torch.tensor([10.0, 0.0]))
    torch.testing.assert_close(shifted - torch.tensor([10.0, 0.0]), mars(x))
    mixed = torch.tensor([[10.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).unsqueeze(1)
    torch.testing.assert_close(mars(x + mixed, centre=mixed) - mixed, mars(x))


@given(
    points=st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 2), min_size=1, max_size=6),
    strength=st.floats(0, 100, width=32),
    how=st.sampled_from(["hard", "soft", "none"]),
    mode=st.sampled_from(["distance", "target"]),
)
def test_mars_never_leaves_the_trust_region(
    points: list[tuple[float, float]], strength: float, how: str, mode: str
) -> None:
    x = rows(*points)
    step = (mars(x, strength=strength, gate=how, mode=mode) - x)[:, 0]
    p = x[:, 0, 0]
    assert bool((step[:, 0] >= -1e-4).all()), "never away from refusal"
    assert bool((step[:, 0] <= (3.0 - p).clamp_min(0) + 1e-4).all()), "step <= p_max - p"
    assert bool((step[:, 1] == 0).all()), "along the direction only"
    if how != "none":
        assert bool((step[p <= -1.0] == 0).all()), "nothing behind the margin"


@given(others=st.lists(st.tuples(*[st.floats(-9, 9, width=32)] * 2), min_size=1, max_size=5), place=st.integers(0, 5))
def test_a_row_does_not_know_its_neighbours(others: list[tuple[float, float]], place: int) -> None:
    mine = rows((0.3, 1.2))
    place = min(place, len(others))
    batch = torch.cat([rows(*others)[:place], mine, rows(*others)[place:]])
    gates = [
        lambda x: mars(x),
        lambda x: mars(x, gate="soft", mode="target"),
        lambda x: gate.ramp(x, E0, -1.0, 1.0),
        lambda x: gate.sigmoid(x, E0, 0.0, 0.5),
        lambda x: gate.alike(x, E0, E1, 0.2),
        lambda x: gate.learned(x, E1, E0 + E1, torch.eye(2), E0, E1, torch.zeros(1)),
        lambda x: write.blend(x, E1, 0.3),
        lambda x: write.transform(x, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 0.5),
        lambda x: write.set_coordinate(x, E0, 2.0),
    ]
    for change in gates:
        torch.testing.assert_close(change(batch)[place], change(mine)[0], atol=1e-6, rtol=1e-6)


def test_coefficients_by_hand() -> None:
    x = rows((-2, 5), (0, 0), (0.5, 1), (3, 0))
    torch.testing.assert_close(gate.ramp(x, E0, -1.0, 1.0).flatten(), torch.tensor([0.0, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(
        gate.sigmoid(x, E0, 0.5, 0.5).flatten(), torch.sigmoid(torch.tensor([-5.0, -1.0, 0.0, 5.0]))
    )
    # Seen from (0, 1): (-2, 4), (0, -1), (0.5, 0), (3, -1); only the last two look along the first axis.
    assert gate.alike(x, E0, E1, 0.5).flatten().tolist() == [0, 0, 1, 1]
    assert gate.always(x).flatten().tolist() == [1, 1, 1, 1]
    # z = (x - (0, 1)) / (2, 1); two hidden units, z0 - 1 and z1; out = 2 relu(z0 - 1) - relu(z1) + 1/2.
    found = gate.learned(
        x, centre=E1, scale=torch.tensor([2.0, 1.0]), inward=torch.eye(2), bias=torch.tensor([-1.0, 0.0]),
        outward=torch.tensor([2.0, -1.0]), offset=torch.tensor([0.5]),
    )  # fmt: skip
    torch.testing.assert_close(found.flatten(), torch.sigmoid(torch.tensor([-3.5, 0.5, 0.5, 1.5])))


def test_writes_by_hand() -> None:
    x = rows((1, 1), (2, 0))
    each = torch.tensor([0.0, 2.0]).reshape(2, 1, 1)
    torch.testing.assert_close(write.add(x, E1, each), rows((1, 1), (2, 2)))
    torch.testing.assert_close(write.add(x, E1, 0.5), rows((1, 1.5), (2, 0.5)))
    torch.testing.assert_close(write.blend(x, torch.tensor([3.0, 1.0]), each), rows((1, 1), (3, 1)))  # 2 is cut to 1
    torch.testing.assert_close(write.blend(x, torch.tensor([3.0, 1.0]), 0.25), rows((1.5, 1), (2.25, 0.25)))
    matrix = torch.tensor([[0.0, 1.0], [2.0, 0.0]])  # (a, b) -> (2 b, a)
    torch.testing.assert_close(write.transform(x, matrix, each), rows((1, 1), (2, 4)))
    torch.testing.assert_close(write.set_coordinate(x, E0, each), rows((0, 1), (2, 0)))


def test_the_prompt_decides_and_the_answer_follows() -> None:
    """Three passes over two rows: the prompt (3 tokens), then two decode steps whose own coordinate must not matter."""
    judge = {"memory": "m", "gate": gate.ramp, "condition": {"unit": E0, "low": 0.0, "high": 2.0}}
    act = {
        "memory": "m",
        "strength": torch.tensor([1.0, 10.0]).reshape(2, 1, 1),
        "function": write.add,
        "tensors": {"vector": E1},
        "first": 0,
        "last": 1,
    }
    parts = (
        SiteEdit(0, "resid_post", gate.remember, judge, "all"),
        SiteEdit(0, "resid_post", gate.recall, act, "last"),
    )
    edit = Edit("by hand", parts)

    def run(plan: Any, hidden: Tensor) -> Tensor:
        for _layer, _site, where, function, tensors in plan:
            write.place(hidden, where, function, tensors)
        return hidden

    prompt = torch.zeros(2, 3, 2)
    prompt[0, -1, 0], prompt[1, -1, 0] = 1.0, 2.0  # strengths 1/2 and 1
    first, second = edit.plan(), edit.plan()
    found = run(first, prompt.clone())
    assert torch.equal(found[:, :-1], prompt[:, :-1]) and found[:, -1, 1].tolist() == [0.5, 10.0]
    assert run(first, torch.zeros(2, 1, 2))[:, 0, 1].tolist() == [0.5, 10.0]
    assert run(first, torch.zeros(2, 1, 2))[:, 0, 1].tolist() == [0.0, 0.0], "two steps and no more"
    assert run(second, 2 * prompt)[:, -1, 1].tolist() == [1.0, 10.0], "a new run has a memory of its own"
    assert run(first, prompt.clone())[:, -1, 1].tolist() == [0.5, 10.0], "a new prompt overwrites the memory"


def test_rows_that_an_edit_is_bound_to() -> None:
    def edit(strength: Any) -> Edit:
        return Edit("e", (SiteEdit(0, "resid_post", write.add, {"vector": E1, "strength": strength}),))

    assert edit(1.0).rows is None and edit(torch.ones(1, 1, 1)).rows is None
    assert edit(torch.ones(5, 1, 1)).rows == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_stream_keeps_its_dtype(dtype: torch.dtype) -> None:
    x = rows((0.5, 1.0)).to(dtype)
    assert mars(x).dtype == dtype
    for found in (
        write.add(x, E1, torch.ones(1, 1, 1)),
        write.blend(x, E1, 0.5),
        write.transform(x, torch.eye(2), 0.5),
        write.set_coordinate(x, E0, 1.0),
    ):
        assert found.dtype == dtype
