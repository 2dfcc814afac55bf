"""Geometry: planted directions and subspaces are recovered, and what must not matter (rotation, batching) does not."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refusal_plugin.errors import DataError
from refusal_plugin.geometry import (
    Moments,
    ablate_component,
    component,
    coordinate,
    cosine,
    decompose,
    difference_in_means,
    linear_cka,
    pca,
    principal_angles,
    project,
    unit,
)

seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=40, deadline=None)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(d: int, seed: int = 0) -> Tensor:
    q, r = torch.linalg.qr(normal(d, d, seed=seed))
    return q * r.diagonal().sign()


def basis(d: int, k: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(d, k, seed=seed))[0]


# -- directions --------------------------------------------------------------------------------------------------------


def test_difference_in_means_by_hand() -> None:
    harmful = torch.tensor([[[3.0, 0.0]], [[5.0, 2.0]]])  # (n = 2, site = 1, d = 2)
    benign = torch.tensor([[[1.0, 1.0]]])
    assert difference_in_means(harmful, benign).tolist() == [[3.0, 0.0]]


def test_a_planted_direction_is_recovered_at_every_site() -> None:
    planted = unit(normal(4, 64, seed=1))
    noise_u, noise_s = normal(400, 4, 64, seed=2), normal(300, 4, 64, seed=3)
    fitted = difference_in_means(noise_u + 12 * planted, noise_s)
    assert (cosine(fitted, planted) > 0.99).all()
    assert (project(fitted, planted) > 0).all()  # towards refusal


@few
@given(seed=seeds, shift=st.floats(-5, 5))
def test_difference_in_means_turns_with_the_data_and_ignores_a_shift(seed: int, shift: float) -> None:
    x, y, turn = normal(9, 3, 8, seed=seed), normal(7, 3, 8, seed=seed + 1), rotation(8, seed)
    plain = difference_in_means(x, y)
    assert torch.allclose(difference_in_means(x @ turn, y @ turn), plain @ turn, atol=1e-10)
    assert torch.allclose(difference_in_means(x + shift, y + shift), plain, atol=1e-10)


def test_sums_are_taken_in_float64_and_come_back_as_float32() -> None:
    large = torch.full((1000, 4), 1e4, dtype=torch.bfloat16)
    fitted = difference_in_means(large, large)
    assert fitted.dtype == torch.float32
    assert (fitted == 0).all()
    assert difference_in_means(large.double(), large.double()).dtype == torch.float64


def test_unit_project_and_coordinate_by_hand() -> None:
    assert unit(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert project(torch.tensor([[3.0, 4.0], [-5.0, 9.0]]), torch.tensor([7.0, 0.0])).tolist() == [3.0, -5.0]
    zero, one = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])
    points = torch.tensor([[1.0, 5.0], [3.0, -5.0], [2.0, 0.0]])
    assert coordinate(points, zero, one).tolist() == [0.0, 1.0, 0.5]


@few
@given(seed=seeds)
def test_ablation_is_idempotent_and_orthogonal(seed: int) -> None:
    x, r = normal(5, 3, 8, seed=seed), normal(3, 8, seed=seed + 1)
    once = ablate_component(x, r)
    assert project(once, r).abs().max() < 1e-12
    assert torch.allclose(ablate_component(once, r), once, atol=1e-12)
    assert torch.allclose(ablate_component(x, 7.5 * r), once, atol=1e-12)  # the direction's length does not matter
    assert (once.norm(dim=-1) <= x.norm(dim=-1) + 1e-12).all()


# -- subspaces ---------------------------------------------------------------------------------------------------------


@few
@given(seed=seeds, k=st.integers(1, 6))
def test_component_is_an_orthogonal_projector(seed: int, k: int) -> None:
    x, u = normal(5, 8, seed=seed), basis(8, k, seed + 1)
    inside = component(x, u)
    assert torch.allclose(component(inside, u), inside, atol=1e-12)
    assert ((x - inside) @ u).abs().max() < 1e-12
    assert torch.allclose(inside.norm(dim=-1) ** 2 + (x - inside).norm(dim=-1) ** 2, x.norm(dim=-1) ** 2)


def test_decompose_splits_per_site_and_does_not_renormalise() -> None:
    v, u = normal(3, 8, seed=1), torch.stack([basis(8, 2, s) for s in range(3)])
    parallel, residual = decompose(v, u)
    assert torch.allclose(parallel + residual, v)
    assert (cosine(parallel, residual).abs() < 1e-12).all()
    assert (residual.norm(dim=-1) < v.norm(dim=-1)).all()
    for site in range(3):
        assert torch.allclose(parallel[site], component(v[site], u[site]))
    half = decompose(v, u, strength=0.5)[1]
    assert torch.allclose(half, v - 0.5 * parallel)


def test_pca_finds_a_planted_subspace_around_any_mean() -> None:
    planted = basis(32, 3, 5)
    x = normal(500, 3, seed=6) * torch.tensor([9.0, 6.0, 3.0], dtype=torch.float64) @ planted.mT
    x = x + 0.05 * normal(500, 32, seed=7) + 100 * normal(32, seed=8)
    fit = pca(x, 3)
    assert principal_angles(fit.basis, planted).max() < 0.02
    assert torch.allclose(fit.basis.mT @ fit.basis, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert (fit.variance.diff() < 0).all()
    assert fit.explained.sum() > 0.99
    assert torch.allclose(fit.total, x.var(0).sum())


@few
@given(seed=seeds)
def test_pca_turns_with_the_data_and_keeps_sites_apart(seed: int) -> None:
    x, turn = normal(12, 2, 6, seed=seed), rotation(6, seed)
    fit, turned = pca(x, 2), pca(x @ turn, 2)
    assert torch.allclose(fit.variance, turned.variance)
    for site in range(2):
        assert principal_angles(turned.basis[site], turn.mT @ fit.basis[site]).max() < 1e-5
        assert torch.allclose(pca(x[:, site], 2).basis, fit.basis[site], atol=1e-8)


def test_pca_from_a_stream_equals_pca_at_once() -> None:
    x = normal(50, 2, 6, seed=3) + 5
    stream = Moments.empty((2, 6), second="full")
    for batch in x.split(7):
        stream = stream.update(batch)
    once, streamed = pca(x, 3), pca(stream, 3)
    assert torch.allclose(once.basis, streamed.basis, atol=1e-9)
    assert torch.allclose(once.variance, streamed.variance)
    assert torch.allclose(once.total, streamed.total)


def test_principal_angles_are_exact_for_small_and_large_angles() -> None:
    for angle in (1e-9, 1e-4, 0.7, math.pi / 2 - 1e-7, math.pi / 2):
        a = torch.eye(4, dtype=torch.float64)[:, :2]
        b = torch.zeros(4, 2, dtype=torch.float64)
        b[0, 0], b[1, 1], b[2, 1] = 1.0, math.cos(angle), math.sin(angle)
        assert principal_angles(a, b).tolist() == pytest.approx([0.0, angle], rel=1e-9, abs=1e-15)


@few
@given(seed=seeds)
def test_principal_angles_are_symmetric_and_do_not_turn(seed: int) -> None:
    a, b, turn = basis(9, 3, seed), basis(9, 5, seed + 1), rotation(9, seed)
    angles = principal_angles(a, b)
    assert angles.shape == (3,)
    assert (angles.diff() >= 0).all()
    assert torch.allclose(principal_angles(b, a), angles, atol=1e-9)
    assert torch.allclose(principal_angles(turn @ a, turn @ b), angles, atol=1e-7)


@few
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_linear_cka_ignores_rotation_shift_and_scale(seed: int, scale: float) -> None:
    x, y, turn = normal(10, 6, seed=seed), normal(10, 4, seed=seed + 1), rotation(6, seed)
    assert linear_cka(x, scale * x @ turn + 3) == pytest.approx(1.0)
    value = linear_cka(x, y)
    assert 0 <= value <= 1
    assert linear_cka(y, x) == pytest.approx(value)
    assert linear_cka(x @ turn, y + 2) == pytest.approx(value)


def test_debiased_cka_of_independent_sets_is_zero_on_average() -> None:
    pairs = [(normal(20, 100, seed=s), normal(20, 100, seed=s + 1000)) for s in range(40)]
    assert sum(linear_cka(x, y) for x, y in pairs) / 40 > 0.7  # the plain form is fooled by n << d
    assert abs(sum(linear_cka(x, y, debiased=True) for x, y in pairs) / 40) < 0.02
    x = normal(20, 100, seed=9)
    assert linear_cka(x, 2 * x, debiased=True) == pytest.approx(1.0)


# -- moments -----------------------------------------------------------------------------------------------------------


@few
@given(seed=seeds, cut=st.lists(st.integers(0, 20), max_size=4), full=st.booleans(), shift=st.floats(-1e3, 1e3))
def test_merged_moments_equal_those_of_the_whole(seed: int, cut: list[int], full: bool, shift: float) -> None:
    x = normal(20, 2, 3, seed=seed) + shift
    second = "full" if full else "diagonal"
    whole = Moments.of(x, second=second)
    edges = [0, *sorted(cut), 20]
    parts = [Moments.empty((2, 3), second=second).update(x[a:b]) for a, b in itertools.pairwise(edges)]
    left = parts[0]
    for part in parts[1:]:
        left = left.merge(part)
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part.merge(right)
    for merged in (left, right):
        assert merged.n == 20
        assert torch.allclose(merged.mean, whole.mean, atol=1e-9)
        assert torch.allclose(merged.m2, whole.m2, rtol=1e-7, atol=1e-7)
    assert torch.allclose(whole.variance, x.var(0))
    if full:
        assert torch.allclose(left.covariance[1], torch.cov(x[:, 1].mT), rtol=1e-6, atol=1e-7)


def test_moments_do_not_cancel_far_from_the_origin() -> None:
    """The sum-of-squares formula would lose every digit here."""
    x = normal(1000, 4, seed=1) + 1e8
    stream = Moments.empty((4,))
    for batch in x.split(10):
        stream = stream.update(batch)
    assert torch.allclose(stream.variance, x.var(0), rtol=1e-6)


@few
@given(seed=seeds)
def test_moments_from_sums_equal_those_from_items(seed: int) -> None:
    x = normal(9, 2, 3, seed=seed) + 4
    full = Moments.from_sums(9, x.sum(0), torch.einsum("nsd,nse->sde", x, x))
    assert torch.allclose(full.m2, Moments.of(x, second="full").m2, atol=1e-9)
    diagonal = Moments.from_sums(9, x.sum(0), x.square().sum(0))
    assert torch.allclose(diagonal.m2, Moments.of(x).m2, atol=1e-9)


def test_moments_refuse_what_they_do_not_hold() -> None:
    diagonal, full = Moments.of(normal(3, 4)), Moments.of(normal(3, 4), second="full")
    with pytest.raises(DataError, match='collect with second="full"'):
        _ = diagonal.covariance
    with pytest.raises(DataError, match="same setting"):
        diagonal.merge(full)
    with pytest.raises(DataError, match="n = 1"):
        _ = Moments.of(normal(1, 4)).variance
    with pytest.raises(DataError, match="shapes"):
        diagonal.merge(Moments.of(normal(3, 5)))
    with pytest.raises(DataError, match="second moment of shape"):
        Moments(3, torch.zeros(4), torch.zeros(5))


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_activations_give_one_clear_line() -> None:
    good = normal(5, 4)
    spoilt = good.clone()
    spoilt[2, 1] = float("nan")
    cases = [
        (lambda: difference_in_means(spoilt, good), "1 of 20 values are NaN"),
        (lambda: difference_in_means(good, good[:0]), "empty"),
        (lambda: difference_in_means(good, normal(5, 6)), r"\(4,\) and \(6,\) differ"),
        (lambda: unit(torch.zeros(3)), "zero length"),
        (lambda: unit(torch.eye(3)[:2] * torch.tensor([[1.0], [0.0]])), r"site \[\[1\]\]"),
        (lambda: project(good, normal(6)), "end of the activations' shape"),
        (lambda: coordinate(good, good[0], good[0]), "zero length"),
        (lambda: cosine(good, torch.zeros(4, dtype=torch.float64)), "zero length"),
        (lambda: component(good, normal(4, 2)), "not orthonormal"),
        (lambda: component(good, basis(6, 2)), "do not align"),
        (lambda: pca(good, 5), r"k must lie in 1 \.\. 4"),
        (lambda: pca(good, 0), "k must lie"),
        (lambda: pca(good[:1], 1), "centring uses up one item"),
        (lambda: pca(torch.ones(6, 4), 1), "vary in only 0 directions"),
        (lambda: pca(normal(6, 1) @ normal(1, 4) + 3, 2), "pass k <= 1"),
        (lambda: pca(spoilt, 2), "NaN"),
        (lambda: linear_cka(good, normal(6, 4)), "paired rows"),
        (lambda: linear_cka(good, torch.ones(5, 4)), "constant"),
        (lambda: linear_cka(good[:3], good[:3], debiased=True), "3 rows"),
        (lambda: principal_angles(basis(4, 2), basis(5, 2)), "differ"),
        (lambda: Moments.of(spoilt), "NaN"),
        (lambda: Moments.from_sums(0, good[0], good[0]), "n = 0"),
        (lambda: Moments.from_sums(2, good[0], normal(4, 5)), r"sums of products of shape \(4, 5\)"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_random_control_has_the_norm_and_its_seed_alone() -> None:
    from refusal_plugin.geometry import random_control

    vector = torch.randn(64, generator=torch.Generator().manual_seed(1))
    one, again, other = (random_control(vector, seed) for seed in (3, 3, 4))
    assert torch.equal(one, again) and not torch.equal(one, other)
    torch.testing.assert_close(one.norm(), vector.norm())
    assert abs(float(torch.nn.functional.cosine_similarity(one, vector, dim=0))) < 0.5
