"""OmniSteer: the shared direction and the learned gate, against planted truth and on the embedded model."""

from typing import Any

import pytest
import torch

from refusal_plugin.defences.gate_fit import fit_gate
from refusal_plugin.defences.omnisteer import shared_direction
from refusal_plugin.errors import DataError
from refusal_plugin.prompts import Prompt
from refusal_plugin.traced import gate

D = 12


def axes(*rows: list[float]) -> torch.Tensor:
    """(modality, 1 layer, D)."""
    return torch.stack([torch.tensor([*row, *[0.0] * (D - len(row))]) for row in rows]).unsqueeze(1)


def test_one_direction_of_all_modalities_by_hand() -> None:
    # Two unit rows at an angle have their bisector as leading right vector, which explains (1 + cos) / 2.
    u, explained = shared_direction(axes([4.0, 0.0], [0.0, 1.0]) + axes([0.0, 0.0], [1.0, 0.0]))
    half = torch.tensor([torch.pi / 8]).double()
    torch.testing.assert_close(u[0, :2], torch.cat([half.cos(), half.sin()]))
    assert float(explained[0]) == pytest.approx((1 + 2**-0.5) / 2)
    u, explained = shared_direction(axes([-5.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]))
    assert u[0, 0] == -1.0 and float(explained[0]) == pytest.approx(1.0), "text sets the sign"


def test_raw_rows_weigh_long_directions_more() -> None:
    directions = axes([10.0, 0.0], [0.6, 0.8])
    (unit, _), (raw, _) = shared_direction(directions), shared_direction(directions, "raw")
    assert float(raw[0, 0]) > float(unit[0, 0]) and float(raw[0, 0]) > 0.99


def labelled(n: int, modality: str = "text") -> list[Prompt]:
    return [
        Prompt("x", role=role, pair=f"p{k}", id=f"{role}{k}{modality}")
        for k in range(n)
        for role in ("harmful", "benign")
    ]


def test_the_gate_learns_what_no_line_can_tell() -> None:
    """Harm lies on both sides along one axis: a coordinate cannot tell it, one hidden layer can."""
    prompts = labelled(150)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(len(prompts), D, generator=draw)
    harmful = torch.tensor([p.role == "harmful" for p in prompts])
    side = torch.where(torch.rand(len(prompts), generator=draw) < 0.5, -1.0, 1.0)
    x[:, 3] = torch.where(harmful, 4.0 * side, 0.3 * x[:, 3])
    network, figures = fit_gate(prompts, x, hidden=16, seed=0)
    assert figures["open"]["text harmful"] > 0.85 and figures["open"]["text benign"] < 0.15
    again, _ = fit_gate(prompts, x, hidden=16, seed=0)
    assert all(torch.equal(network[name], again[name]) for name in network), "the seed decides everything"
    fresh = torch.zeros(3, 1, D)
    fresh[0, 0, 3], fresh[1, 0, 3] = 4.0, -4.0
    opened = gate.learned(fresh, **network).flatten()
    assert opened[0] > 0.7 and opened[1] > 0.7 and opened[2] < 0.3


def test_labels_without_meaning_leave_the_gate_undecided() -> None:
    """Early stopping on held-out pairs: noise is not learned by heart."""
    prompts = labelled(100)
    x = torch.randn(len(prompts), 64, generator=torch.Generator().manual_seed(1))
    _, figures = fit_gate(prompts, x, hidden=16, seed=0)
    assert figures["steps"] < 60 and figures["loss"] > 0.6
    assert abs(figures["open"]["text harmful"] - figures["open"]["text benign"]) < 0.2


def test_a_gate_needs_pairs_of_both_labels() -> None:
    for prompts in (labelled(4), [p for p in labelled(30) if p.role == "harmful"]):
        with pytest.raises(DataError, match="learn a gate") as raised:
            fit_gate(prompts, torch.randn(len(prompts), D), hidden=4, seed=0)
        assert "\n" not in str(raised.value)


def test_on_the_model_it_steers_harm_and_leaves_the_rest(fitted: Any, data: Any) -> None:
    found, plain, text = fitted("omnisteer"), fitted("omnisteer_no_gate"), fitted("omnisteer_text")
    r = data.candidates().vectors[0][found.layers[0]]
    for one in (found, text):
        assert float(one.vectors.norm()) == pytest.approx(float(r.norm()), rel=1e-3)
        assert one.network and set(one.figures["gate"]["open"]) >= {"text harmful", "text benign"}
        assert one.figures["gate"]["open"]["text harmful"] > one.figures["gate"]["open"]["text benign"] + 0.5
    torch.testing.assert_close(text.vectors[0], r, atol=1e-3, rtol=1e-3)
    assert not text.figures["kept"] and set(found.figures["kept"]) == set(data.media)
    assert torch.equal(plain.vectors, found.vectors) and not plain.network
    x = data.streams(data.val("benign"))[:, found.layers[0]].unsqueeze(1)

    def moved(defence: Any) -> torch.Tensor:
        remember, recall = defence.edit(1.0).ordered
        memory: dict[str, Any] = {}
        remember.function(x.repeat(1, 2, 1), memory, remember.tensors["gate"], remember.tensors["condition"])
        return (recall.function(x, **{**recall.tensors, "memory": memory}) - x).norm(dim=-1).mean()

    assert float(moved(found)) < 0.3 * float(moved(plain))
