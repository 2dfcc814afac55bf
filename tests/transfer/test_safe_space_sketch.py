"""The summary of a few rows: the exact space where items have few directions, bounded error where they have many."""

from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.errors import DataError
from refusal_plugin.geometry import Moments, pca
from refusal_plugin.safe_space import SafeSpace, overlap
from refusal_plugin.safe_space.sketch import Sketch

LAYERS, D = 2, 48


def items(n: int, strong: int, seed: int = 0, noise: float = 0.0) -> Tensor:
    """(n, layer, d): variances 9, 4, 9/4, ... along `strong` axes of a random frame far from 0, `noise` elsewhere."""
    generator = torch.Generator().manual_seed(7)
    frames = [torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0] for _ in range(LAYERS)]
    scale = torch.full((D,), noise, dtype=torch.float64)
    scale[:strong] = 3 * 1.5 ** -torch.arange(strong, dtype=torch.float64)
    x = torch.randn(n, LAYERS, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return torch.stack([x[:, k] @ frames[k].T for k in range(LAYERS)], 1) + 20


def streamed(x: Tensor, rank: int, batch: int = 17) -> Sketch:
    parts = [Sketch.of(x[k : k + batch], rank) for k in range(0, len(x), batch)]
    found = parts[0]
    for part in parts[1:]:
        found = found.merge(part)
    return found


@pytest.mark.parametrize("batch", [1, 17, 400])
def test_items_of_few_directions_lose_nothing(batch: int) -> None:
    x = items(400, 5)
    exact, found = pca(x, 5), streamed(x, 12, batch).pca(5)
    assert float((streamed(x, 12, batch).dropped / streamed(x, 12, batch).scatter).max()) < 1e-12
    for name in ("mean", "basis", "variance", "total"):
        torch.testing.assert_close(getattr(found, name).double(), getattr(exact, name), atol=2e-5, rtol=2e-5)


def test_planted_space_in_noise_equals_the_exact_one_within_its_own_bound() -> None:
    x = items(600, 4, noise=0.3)
    sketch = streamed(x, 16)
    exact, found = SafeSpace.fit(x.float(), 4), SafeSpace.fit(sketch, 4)
    assert float(overlap(found.basis, exact.basis).min()) > 0.999
    torch.testing.assert_close(found.variance, exact.variance, rtol=0.03, atol=0)
    torch.testing.assert_close(found.total, exact.total, rtol=1e-4, atol=0)  # the trace is exact whatever was dropped
    scatter = torch.linalg.eigvalsh(Moments.of(x, second="full").scatter() - sketch.rows.mT @ sketch.rows)
    assert bool((scatter >= -1e-6).all()), "it never claims variance that is not there"
    assert bool((scatter[:, -1] <= sketch.dropped).all()) and bool((sketch.dropped > 0).all())


def test_memory_is_that_of_its_rows_whatever_the_number_of_items() -> None:
    few, many = streamed(items(50, 4, noise=0.3), 10), streamed(items(1000, 4, noise=0.3), 10)
    assert few.rows.shape == many.rows.shape == (LAYERS, 10, D)
    assert few.rows.untyped_storage().nbytes() == few.rows.numel() * 8, "a view would keep the batch alive"


def test_what_was_cut_off_is_warned_of() -> None:
    flat = torch.randn(400, LAYERS, D, generator=torch.Generator().manual_seed(0))
    said = " ".join(SafeSpace.fit(streamed(flat, 4), 3).warnings)
    assert "cut off" in said and "raise rank" in said
    assert "cut off" not in " ".join(SafeSpace.fit(streamed(items(400, 4, noise=0.05), 12), 3).warnings)


def test_what_cannot_be_summarised() -> None:
    x = items(20, 3)
    with pytest.raises(DataError, match="NaN"):
        Sketch.of(x * float("nan"), 4)
    with pytest.raises(DataError, match="fewer than 1"):
        Sketch.of(x, 0)
    with pytest.raises(DataError, match="same layers"):
        Sketch.of(x, 4).merge(Sketch.of(x[:, :1], 4))
    with pytest.raises(DataError, match="keeps 4 rows"):
        Sketch.of(x, 4).pca(5)
    with pytest.raises(DataError, match="only 3 directions"):
        Sketch.of(x, 8).pca(5)


def test_a_model_s_space_from_a_summary_is_the_exact_one(organism: Any) -> None:
    from refusal_plugin.organism.data import organism_prompts

    safe = organism_prompts(split="train", modality="text", limit=40).filter(role=("benign", "near_miss"))
    exact = SafeSpace.of(organism, safe, 5, progress=False)
    found = SafeSpace.of(organism, safe, 5, rank=40, progress=False)
    assert (found.n, found.layers, found.modality) == (exact.n, exact.layers, exact.modality)
    assert float(overlap(found.basis, exact.basis).min()) > 0.98
    assert found.agreement is not None and exact.agreement is not None
    torch.testing.assert_close(found.agreement, exact.agreement, atol=0.05, rtol=0)
    torch.testing.assert_close(found.total, exact.total, rtol=1e-4, atol=0)
