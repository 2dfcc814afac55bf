"""The verbs beside the weights, each against an equation worked out by hand or by another route."""

import math

import pytest
import torch

from refusal_plugin.traced.measure import group_moments, kl_divergence, refusal_score
from refusal_plugin.traced.read import gather, residual, residuals, span_mean
from refusal_plugin.traced.write import add, edit_blocks, place, set_coordinate

E0 = torch.tensor([1.0, 0.0, 0.0])
DIAGONAL = torch.tensor([0.6, 0.8, 0.0])


class Part:
    """What an edit sees of a traced module."""

    def __init__(self, output: object = None, given: object = None) -> None:
        self.output, self.input = output, given


def test_residual_of_a_tensor_is_the_tensor_and_not_its_first_row() -> None:
    hidden = torch.randn(2, 3, 4)
    assert residual(hidden) is hidden
    assert residual((hidden, None)) is hidden
    assert residual([hidden]) is hidden


def test_gather_takes_each_row_at_its_own_position_and_copies() -> None:
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    found = gather(hidden, torch.tensor([[3, 0], [1, 1]]))
    assert found.tolist() == [[[9, 10, 11], [0, 1, 2]], [[15, 16, 17], [15, 16, 17]]]
    hidden.zero_()
    assert float(found.sum()) > 0, "a view would keep the stream alive and see later edits"
    assert found.untyped_storage().nbytes() == found.numel() * 4


def test_residuals_stack_layers_behind_positions() -> None:
    streams = [torch.randn(2, 4, 3, dtype=torch.float64) for _ in range(3)]
    layers = [Part(streams[0]), Part((streams[1], None)), Part(streams[2])]
    found = residuals(layers, torch.tensor([[3, 1], [2, 0]]))
    assert found.shape == (2, 2, 3, 3) and found.dtype == torch.float32
    for layer, stream in enumerate(streams):
        torch.testing.assert_close(found[1, 0, layer], stream[1, 2].float())


def test_span_mean_averages_only_what_the_mask_marks() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [100.0], [100.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert span_mean(hidden, mask).tolist() == [[[2.0]], [[7.0]]]


def test_refusal_score_by_hand() -> None:
    probability = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.1, 0.1, 0.7]])
    found = refusal_score(probability.log() + 3.0, torch.tensor([0, 2]))
    expected = [math.log(0.65 / 0.35), math.log(0.2 / 0.8)]
    torch.testing.assert_close(found, torch.tensor(expected))
    half = refusal_score(torch.tensor([[2.0, 2.0]]), torch.tensor([1]))
    assert float(half) == 0.0


def test_kl_is_of_the_reference_against_the_edited_run() -> None:
    reference, edited = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    by_hand = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    torch.testing.assert_close(kl_divergence(edited.log(), reference.log()), torch.tensor([by_hand]))
    the_other_way = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert abs(by_hand - the_other_way) > 0.1
    assert float(kl_divergence(reference.log(), reference.log())) == 0.0


@pytest.mark.parametrize("second", ["diagonal", "full"])
def test_group_moments_equal_torch_cov(second: str) -> None:
    from refusal_plugin.geometry import Moments

    rows, groups = torch.randn(9, 2, 3, 4) + 5, torch.tensor([0, 1, 1, 0, 2, 0, 1, 0, 0])
    counts, sums, products = group_moments(rows, groups, 3, second)
    assert counts.tolist() == [5, 3, 1] and sums.dtype == torch.float64
    for g in (0, 1):
        found = Moments.from_sums(int(counts[g]), sums[g], products[g])
        chosen = rows[groups == g].double()
        torch.testing.assert_close(found.mean, chosen.mean(0))
        covariance = torch.cov(chosen[:, 1, 2].T)
        if second == "full":
            torch.testing.assert_close(found.covariance[1, 2], covariance)
        torch.testing.assert_close(found.variance[1, 2], covariance.diagonal())


def test_add_by_hand() -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]]])
    assert add(x, E0).tolist() == [[[2.0, 2.0, 3.0]], [[1.0, 0.0, 0.0]]]
    own = torch.tensor([0.0, 5.0]).reshape(2, 1, 1) * E0
    assert add(x, own).tolist() == [[[1.0, 2.0, 3.0]], [[5.0, 0.0, 0.0]]], "a strength of its own per row"
    assert add(x.half(), E0).dtype == torch.float16


def test_set_coordinate_to_zero_projects_out() -> None:
    x = torch.tensor([[[5.0, 0.0, 1.0]]])  # coordinate along the diagonal: 3
    torch.testing.assert_close(set_coordinate(x, DIAGONAL), torch.tensor([[[3.2, -2.4, 1.0]]]))
    again = set_coordinate(torch.randn(2, 3, 3), DIAGONAL)
    torch.testing.assert_close(again @ DIAGONAL, torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_set_coordinate_by_hand_and_twice() -> None:
    x = torch.tensor([[[5.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]]])
    once = set_coordinate(x, DIAGONAL, 10.0)
    torch.testing.assert_close(once[0], torch.tensor([[9.2, 5.6, 1.0]]))
    torch.testing.assert_close(set_coordinate(once, DIAGONAL, 10.0), once)
    rows = set_coordinate(x, DIAGONAL, torch.tensor([1.0, 2.0]).reshape(2, 1, 1))
    torch.testing.assert_close(rows @ DIAGONAL, torch.tensor([[1.0], [2.0]]))


@pytest.mark.parametrize(("keep", "expected"), [(1.0, 3.0), (0.5, 2.0), (0.0, 1.0)])
def test_a_share_of_the_distance_stays(keep: float, expected: float) -> None:
    x = torch.tensor([[[5.0, 0.0, 1.0]]])
    found = set_coordinate(x, DIAGONAL, 1.0, keep)
    torch.testing.assert_close(found @ DIAGONAL, torch.tensor([[expected]]))
    torch.testing.assert_close(set_coordinate(found, DIAGONAL), set_coordinate(x, DIAGONAL))


@pytest.mark.parametrize("flat", [False, True])
def test_every_row_is_moved_along_its_own_direction(flat: bool) -> None:
    """Also where an MLP puts all tokens of the batch into one axis."""
    x, unit = torch.randn(3, 2, 4), torch.eye(4)[:3].unsqueeze(1)
    value, keep = (torch.tensor(v).reshape(3, 1, 1) for v in ([1.0, 2.0, 0.0], [0.0, 0.5, 0.0]))
    found = set_coordinate(x.flatten(0, 1) if flat else x, unit, value, keep).reshape(x.shape)
    for row in range(3):
        alone = set_coordinate(x[row : row + 1], unit[row, 0], float(value[row]), float(keep[row]))
        torch.testing.assert_close(found[row : row + 1], alone)
    assert set_coordinate(x.bfloat16(), unit, value).dtype == torch.bfloat16


@pytest.mark.parametrize("wrapped", [False, True])
def test_place_writes_in_place_where_it_is_told(wrapped: bool) -> None:
    for where, changed in (("last", [2]), ("all", [0, 1, 2])):
        hidden = torch.zeros(2, 3, 3)
        place((hidden, None) if wrapped else hidden, where, add, {"vector": E0})
        for position in range(3):
            assert hidden[:, position, 0].tolist() == ([1.0, 1.0] if position in changed else [0.0, 0.0])
        assert float(hidden[..., 1:].abs().sum()) == 0


@pytest.mark.parametrize(
    ("function", "tensors"),
    [
        (add, {"vector": DIAGONAL}),
        (set_coordinate, {"unit": DIAGONAL}),
        (set_coordinate, {"unit": DIAGONAL, "value": 2.0, "keep": 0.5}),
    ],
)
def test_rows_of_a_batch_are_independent(function: object, tensors: dict[str, object]) -> None:
    hidden = torch.randn(4, 5, 3)
    together = function(hidden, **tensors)  # type: ignore[operator]
    alone = torch.cat([function(hidden[k : k + 1], **tensors) for k in range(4)])  # type: ignore[operator]
    torch.testing.assert_close(together, alone)
    assert not torch.equal(together, hidden)


def test_edit_blocks_takes_the_input_of_resid_pre_and_the_output_of_the_others() -> None:
    sites = [{"resid_pre": Part(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)), "mlp_out": Part(torch.zeros(1, 2, 3))}]
    edit_blocks(sites, [(0, "resid_pre", "all", add, {"vector": E0}), (0, "mlp_out", "last", add, {"vector": 2 * E0})])
    assert sites[0]["resid_pre"].input[0, :, 0].tolist() == [1.0, 1.0]  # type: ignore[index]
    assert float(sites[0]["resid_pre"].output.abs().sum()) == 0  # type: ignore[attr-defined]
    assert sites[0]["mlp_out"].output[0, :, 0].tolist() == [0.0, 2.0]  # type: ignore[index]


def test_tensors_of_an_edit_move_to_the_device_once() -> None:
    """They lie beside the weights from the first step on; what an edit remembers is left alone."""
    memory = {"strength": torch.ones(1)}
    tensors = {"vector": torch.ones(4), "strength": 1.0, "tensors": {"vector": torch.ones(4)}, "memory": memory}

    def shifted(x: torch.Tensor, **given: object) -> torch.Tensor:
        return add(x, given["vector"])

    place(torch.zeros(1, 2, 4, device="meta"), "last", shifted, tensors)
    moved = tensors["vector"]
    assert moved.device.type == tensors["tensors"]["vector"].device.type == "meta"  # type: ignore[union-attr, index]
    place(torch.zeros(1, 2, 4, device="meta"), "all", shifted, tensors)
    assert tensors["vector"] is moved and memory["strength"].device.type == "cpu"
