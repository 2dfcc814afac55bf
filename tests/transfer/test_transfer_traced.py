"""What travels with the recipes: hand-computed cases of `traced.transfer`."""

import torch
from refusal_plugin.traced.transfer import class_means, opening_tokens, safe_bases

from refusal_plugin.geometry import pca
from refusal_plugin.traced.measure import group_moments


def test_means_by_group_leave_negative_groups_out() -> None:
    rows = torch.arange(8.0).reshape(4, 1, 2)
    found = class_means(rows, torch.tensor([0, 1, -1, 1]), 2)
    assert torch.equal(found, torch.tensor([[[0.0, 1.0]], [[4.0, 5.0]]], dtype=torch.float64))


def test_opening_tokens_are_those_of_refusals() -> None:
    harmful = torch.tensor([True] * 20 + [False] * 20)
    first = torch.tensor([7] * 12 + [8] * 7 + [9] + [9] * 15 + [8] * 5)
    assert opening_tokens(first, harmful, 0.1).tolist() == [7, 8]
    assert opening_tokens(first, harmful, 0.5).tolist() == [7]
    same = torch.tensor([3] * 40)
    assert opening_tokens(same, harmful, 0.05).tolist() == [3], "the most frequent one if nothing stands out"
    assert opening_tokens(first[:20], harmful[:20], 0.1).tolist() == [7, 8], "no harmless prompts to compare with"


def test_bases_of_summed_batches_are_those_of_the_rows() -> None:
    x = torch.randn(30, 1, 2, 6) * torch.tensor([5.0, 4, 3, 2, 1, 0.5]) + 3
    groups = torch.tensor([0, 1] * 15)
    parts = [group_moments(x[k : k + 7], groups[k : k + 7], 2, "full") for k in range(0, 30, 7)]
    (found,) = safe_bases(parts, 1, 1, 3)
    want = pca(x[groups == 1][:, 0, 1].double(), 3).basis
    assert torch.allclose((found.T @ want).abs(), torch.eye(3, dtype=torch.float64), atol=1e-6)
