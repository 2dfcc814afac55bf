"""A gate held open: every row is steered, and nothing else about the edit changes."""

from typing import Any

import torch

from refusal_plugin.defences.opened import is_gated, opened
from refusal_plugin.inference.edits import Edit, SiteEdit, addition
from refusal_plugin.traced import gate, write

UNIT = torch.tensor([1.0, 0.0])


def gated(function: Any = gate.alike, **condition: Any) -> Edit:
    condition = condition or {"unit": UNIT, "centre": torch.zeros(2), "threshold": 0.5}
    note = {"memory": "m", "gate": function, "condition": condition}
    act = {"function": write.add, "tensors": {"vector": UNIT}, "strength": 2.0, "first": 0, "last": None}
    return Edit(
        "gated",
        (
            SiteEdit(0, "resid_post", gate.remember, note, "all"),
            SiteEdit(0, "resid_post", gate.recall, {"memory": "m", **act}, "all"),
        ),
    )


def run(edit: Edit, x: torch.Tensor) -> torch.Tensor:
    hidden = x.clone()
    for _layer, _site, where, function, tensors in edit.plan():
        write.place(hidden, where, function, tensors)
    return hidden


def test_an_open_gate_steers_the_rows_that_it_would_have_left() -> None:
    x = torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[1.0, 0.0], [-3.0, 0.0]]])
    edit = gated()
    assert is_gated(edit) and not is_gated(addition({0: UNIT}))
    moved, held = run(edit, x) - x, run(opened(edit), x) - x
    assert moved[0].abs().sum() > 0 and not moved[1].any(), "the second row points away"
    assert held[0].equal(moved[0]) and held[1].equal(moved[0])
    assert not is_gated(opened(edit))


def test_mars_keeps_its_trust_region_when_its_gate_is_open() -> None:
    numbers = {"margin": 0.5, "reach": 2.0, "norm": 1.0, "target": 1.0, "strength": 9.0, "mode": "distance"}
    tensors = {"unit": UNIT, "centre": torch.zeros(2), "safe": -UNIT, "unsafe": UNIT, "gate": "hard", **numbers}
    edit = Edit("mars", (SiteEdit(0, "resid_post", gate.mars, tensors, "last"),), "prefill")
    x = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [-0.5, 0.0]]])
    assert run(edit, x)[:, -1, 0].tolist() == [2.0, -0.5]
    assert run(opened(edit), x)[:, -1, 0].tolist() == [2.0, 1.75]
