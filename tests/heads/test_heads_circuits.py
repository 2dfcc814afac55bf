"""Comparing circuits: planted agreement and disagreement, and hand-computed ranks."""

from dataclasses import replace

import pytest
import torch

from refusal_plugin.errors import DataError
from refusal_plugin.heads.circuits import head_agreement
from refusal_plugin.heads.intervals import difference_intervals, mean_intervals
from refusal_plugin.heads.labels import Labels
from refusal_plugin.heads.result import HeadAttribution
from refusal_plugin.statistics import spearman

KINDS = ("text", "image", "audio")


def attribution(shifts: dict[str, torch.Tensor], n: int = 12, noise: float = 0.01) -> HeadAttribution:
    """Harmful prompts write `shift` more than benign ones, per modality (layer, head)."""
    layers, heads = next(iter(shifts.values())).shape
    rows, pairs, roles, kinds = [], [], [], []
    for kind, shift in shifts.items():
        for k in range(n):
            for role in ("harmful", "benign"):
                rows.append(noise * torch.randn(layers, heads) + (shift if role == "harmful" else 0))
                pairs.append(f"{k}")
                roles.append(role)
                kinds.append(kind)
    x = torch.stack(rows).unsqueeze(-1)
    zero = torch.zeros(len(x), layers, 1)
    labels = Labels(tuple(map(str, range(len(x)))), tuple(pairs), tuple(roles), tuple(kinds))
    total = x.sum((1, 2))
    nothing = torch.zeros_like(total)
    return HeadAttribution(
        x, zero, zero, nothing, nothing, nothing, total, labels, ("refusal",), (layers - 1,), torch.ones(1), "made"
    )


@pytest.fixture
def circuit() -> torch.Tensor:
    shift = torch.rand(4, 8)
    shift[2, 3], shift[3, 1] = 4.0, 3.0
    return shift


def test_the_same_circuit_agrees_and_a_shuffled_one_does_not(circuit: torch.Tensor) -> None:
    other = circuit[:, torch.randperm(8)]
    found = head_agreement(attribution({"text": circuit, "image": circuit, "audio": other}), k=5)
    same, apart = found.between("text", "image"), found.between("audio", "text")
    assert same.rho > 0.95 and same.overlap == 1.0 and same.rho_p < 0.01 and same.overlap_p < 0.01
    assert apart.rho < 0.6 and apart.rho_p > 0.02
    assert 0 < same.overlap_null < 1
    assert len(found.agreements) == 3


def test_layers_that_write_more_everywhere_are_no_agreement() -> None:
    """The null shuffles within layers: a common layer profile alone is not significant."""
    profile = torch.tensor([0.0, 1.0, 5.0, 9.0])[:, None]
    a, b = profile + 0.1 * torch.rand(4, 8), profile + 0.1 * torch.rand(4, 8)
    found = head_agreement(attribution({"text": a, "image": b}, noise=0.001)).agreements[0]
    assert found.rho > 0.7 and found.rho_p > 0.02


def test_a_silenced_head_is_listed(circuit: torch.Tensor) -> None:
    muted = circuit.clone()
    muted[2, 3] = 0.1
    found = head_agreement(attribution({"text": circuit, "image": circuit, "audio": muted}))
    assert [(row.layer, row.head, row.modality) for row in found.silent] == [(2, 3, "audio")]
    assert found.silent[0].text == pytest.approx(4.0, abs=0.1) and found.silent[0].there == pytest.approx(0.1, abs=0.1)


def test_ranks_by_hand() -> None:
    assert spearman(torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 1, 4, 3])) == pytest.approx(0.6)
    assert spearman(torch.tensor([1.0, 1, 2]), torch.tensor([3.0, 3, 9])) == pytest.approx(1.0)
    assert spearman(torch.ones(3), torch.rand(3)) == 0.0


def test_intervals_cover_a_known_difference() -> None:
    hits = 0
    for seed in range(60):
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randn(30, 1, generator=g) + 1.0, torch.randn(30, 1, generator=g)
        pairs = [str(k) for k in range(30)]
        found = difference_intervals(a, pairs, b, [f"b{k}" for k in range(30)], seed=seed, resamples=400)
        hits += bool(found.low[0] <= 1.0 <= found.high[0])
    assert 52 <= hits <= 60


def test_one_group_has_no_interval() -> None:
    found = mean_intervals(torch.ones(3, 2), ["a", "a", "a"])
    assert found.value.tolist() == [1.0, 1.0] and found.low.isnan().all()


def test_bad_requests(circuit: torch.Tensor) -> None:
    one = attribution({"text": circuit})
    with pytest.raises(DataError, match="1 modalities"):
        head_agreement(one)
    with pytest.raises(DataError, match="k = 99"):
        head_agreement(attribution({"text": circuit, "image": circuit}), k=99)
    with pytest.raises(DataError, match="k = 0"):
        one.top(0)
    assert one.top(1, "text")[0].layer == 2
    assert replace(one, model="x").model == "x"
