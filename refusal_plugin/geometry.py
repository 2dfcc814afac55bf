"""Geometry of activations: plain tensors in, plain tensors out. Knows no model.

Conventions, the same everywhere in this package:

- an activation set has shape `(n, ..., d)`: items first, `d = d_model` last, anything between (layers, positions) is a
  *site* and is never mixed with another site;
- a refusal direction is `mean(harmful) - mean(benign)`, so a positive projection means *more refusal*;
- a subspace is an orthonormal basis with the directions as COLUMNS, shape `(..., d, k)`;
- sums are taken in float64. Results come back as float32, or as float64 if the input was float64.

Shapes a user can get wrong are checked here and raise `DataError`; nothing is broadcast by accident.

Sources: difference in means, Arditi et al. 2024 (arXiv 2406.11717); merging of moments, Chan, Golub, LeVeque 1979;
principal angles with sines and cosines, Björck and Golub 1973; linear CKA, Kornblith et al. 2019 (arXiv 1905.00414),
its debiased form, Song et al. 2012.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DataError

__all__ = [
    "PCA",
    "Moments",
    "ablate_component",
    "component",
    "coordinate",
    "cosine",
    "decompose",
    "difference_in_means",
    "linear_cka",
    "pca",
    "principal_angles",
    "project",
    "unit",
]


# -- directions --------------------------------------------------------------------------------------------------------


def difference_in_means(
    harmful: Float[Tensor, "n *site d"], benign: Float[Tensor, "m ..."]
) -> Float[Tensor, "*site d"]:
    """Difference-in-means direction `mean(harmful) - mean(benign)` of every site, not normalised.

    Args:
        harmful: activations of harmful prompts, `(n, ..., d)`.
        benign: activations of benign prompts, `(m, ..., d)` with the same sites and `d`.

    Returns:
        Direction `(..., d)`, pointing towards refusal, in the units of the residual stream.

    Raises:
        DataError: a set is empty, holds NaN or infinity, or the two have different sites or `d`.
    """
    _need_finite(harmful, "harmful activations")
    _need_finite(benign, "benign activations")
    _need_same(harmful.shape[1:], benign.shape[1:], "difference in means of harmful and benign activations")
    return _narrow(harmful.double().mean(0) - benign.double().mean(0), harmful)


def random_control(vector: Float[Tensor, " d"], seed: int) -> Float[Tensor, " d"]:
    """A Gaussian direction with the norm of `vector`: the control of every steering figure.

    Args:
        vector: what is controlled for.
        seed: of the draw.
    """
    drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = drawn / drawn.norm() * vector.norm()
    return scaled


def unit(direction: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """`direction / ||direction||`, for every site.

    Raises:
        DataError: a direction is zero (it has no orientation) or not finite.
    """
    _need_finite(direction, "direction")
    wide = direction.double()
    norm = wide.norm(dim=-1, keepdim=True)
    if bool((norm == 0).any()):
        sites = (norm.squeeze(-1) == 0).nonzero().tolist() if direction.ndim > 1 else "the only one"
        raise DataError(
            f"unit vector of a direction of shape {tuple(direction.shape)}",
            f"zero length at site {sites}",
            "fit it on prompts whose activations differ, or leave that site out",
        )
    return _narrow(wide / norm, direction)


def project(x: Float[Tensor, "..."], direction: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Signed length of `x` along `direction`: `<x, direction> / ||direction||`.

    Args:
        x: activations `(..., d)`.
        direction: `(d,)`, or one per site `(site, d)` aligned with the last axes of `x`. Its length does not matter.

    Returns:
        `x.shape[:-1]`, in the units of the residual stream; positive is towards refusal.
    """
    _need_aligned(x, direction, "projection")
    return _narrow((x.double() * unit(direction.double())).sum(-1), x)


def coordinate(x: Float[Tensor, "..."], zero: Float[Tensor, "..."], one: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Where `x` lies on the axis through two points, 0 at `zero` and 1 at `one`.

    `<x - zero, one - zero> / ||one - zero||^2`; may lie outside 0 .. 1.

    With `zero` = mean benign and `one` = mean harmful activation this is the scale of the study's figures: it compares
    layers and models whose residual streams have different norms.

    Raises:
        DataError: `zero` equals `one` at some site, or shapes do not align.
    """
    _need_aligned(x, zero, "coordinate")
    _need_same(zero.shape, one.shape, "coordinate between two points")
    axis = one.double() - zero.double()
    return _narrow(((x.double() - zero.double()) * unit(axis)).sum(-1) / axis.norm(dim=-1), x)


def cosine(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Cosine of the angle between `a` and `b` along the last axis, in [-1, 1]. Zero vectors raise `DataError`."""
    _need_aligned(a, b, "cosine")
    return _narrow((unit(a.double()) * unit(b.double())).sum(-1).clamp(-1.0, 1.0), a)


# -- subspaces ---------------------------------------------------------------------------------------------------------


def component(x: Float[Tensor, "..."], basis: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The part of `x` inside a subspace, `U U^T x`.

    Args:
        x: `(..., d)`.
        basis: orthonormal columns `(d, k)`, or one basis per site `(site, d, k)` aligned with the last axes of `x`.

    Raises:
        DataError: the columns are not orthonormal, or `d` differs.
    """
    _need_orthonormal(basis)
    if x.shape[-1] != basis.shape[-2] or not _fits(x.shape[:-1], basis.shape[:-2]):
        raise DataError(
            f"component of activations {tuple(x.shape)} in a subspace {tuple(basis.shape)}",
            "the shapes do not align",
            "pass x as (..., site, d) and the basis as (site, d, k)",
        )
    wide = basis.double()
    inside = torch.einsum("...d,...dk->...k", x.double(), wide)
    return _narrow(torch.einsum("...k,...dk->...d", inside, wide), x)


def ablate_component(x: Float[Tensor, "..."], direction: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """`x` without its component along `direction`: `x - rhat <rhat, x>`. The result is orthogonal to `direction`."""
    return _narrow(x.double() - project(x.double(), direction.double()).unsqueeze(-1) * unit(direction.double()), x)


def decompose(
    direction: Float[Tensor, "..."], basis: Float[Tensor, "..."], *, strength: float = 1.0
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Split a direction at a subspace: `parallel = U U^T v`, `residual = v - strength * parallel`.

    The residual is NOT renormalised: what is left is shorter (SARSteer, arXiv 2510.17633).

    Returns:
        `(parallel, residual)`, both of the shape of `direction`.
    """
    parallel = component(direction.double(), basis)
    return _narrow(parallel, direction), _narrow(direction.double() - strength * parallel, direction)


@dataclass(frozen=True)
class PCA:
    """Principal directions of an activation set, per site.

    Attributes:
        mean: `(..., d)`, what was subtracted.
        basis: `(..., d, k)`, orthonormal columns, by falling variance; the largest entry of a column is positive.
        variance: `(..., k)`, variance along each column (divided by `n - 1`).
        total: `(...)`, variance summed over all `d` directions.
        n: number of items.
    """

    mean: Float[Tensor, "*site d"]
    basis: Float[Tensor, "*site d k"]
    variance: Float[Tensor, "*site k"]
    total: Float[Tensor, "*site"]
    n: int

    @property
    def k(self) -> int:
        """Number of principal directions."""
        return self.basis.shape[-1]

    @property
    def explained(self) -> Float[Tensor, "*site k"]:
        """Share of the total variance along each column, in [0, 1]."""
        return self.variance / self.total.unsqueeze(-1)


def pca(x: "Float[Tensor, '...'] | Moments", k: int) -> PCA:
    """Centred principal component analysis, per site, in float64.

    Args:
        x: activations `(n, ..., d)`, or `Moments` with `second="full"` collected in a stream (n unbounded).
        k: number of directions, `1 <= k <= min(n - 1, d)`: centring uses up one item.

    Raises:
        DataError: `k` is out of range, activations hold NaN, or vary in fewer than `k` directions (the others would be
            arbitrary).
    """
    n, d = (x.n, x.mean.shape[-1]) if isinstance(x, Moments) else (x.shape[0], x.shape[-1])
    if not 1 <= k <= min(n - 1, d):
        raise DataError(
            f"{k} principal directions of {n} activations with d = {d}",
            f"k must lie in 1 .. {max(min(n - 1, d), 0)} (centring uses up one item)",
            "pass a smaller k or more prompts",
        )
    if isinstance(x, Moments):
        mean, scatter = x.mean.double(), x.scatter()
        values, vectors = torch.linalg.eigh(scatter)
        values, columns = values.flip(-1).clamp_min(0.0), vectors.flip(-1)
        like = x.mean
    else:
        _need_finite(x, "activations")
        mean = x.double().mean(0)
        rows = (x.double() - mean).movedim(0, -2)
        _, singular, right = torch.linalg.svd(rows, full_matrices=False)
        values, columns = singular.square(), right.mT
        like = x
    # A float64 decomposition resolves variances down to about 1e-15 of the largest; activations themselves carry the
    # rounding of float32, so anything below 1e-12 is noise of the last digits and not a direction.
    floor = torch.maximum(values[..., :1] * 1e-12, mean.square().sum(-1, keepdim=True) * 1e-24 * n)
    rank = int((values > floor).sum(-1).min())
    if rank < k:
        raise DataError(
            f"{k} principal directions of {n} activations with d = {d}",
            f"they vary in only {rank} directions at some site",
            f"pass k <= {rank}" if rank else "pass prompts whose activations differ",
        )
    return PCA(
        mean=_narrow(mean, like),
        basis=_narrow(_fix_signs(columns[..., :k]), like),
        variance=_narrow(values[..., :k] / (n - 1), like),
        total=_narrow(values.sum(-1) / (n - 1), like),
        n=n,
    )


def principal_angles(a: Float[Tensor, "d k"], b: Float[Tensor, "e m"]) -> Float[Tensor, " angles"]:
    """Principal angles between two subspaces, in radians, rising, `min(k, m)` of them; 0 = shared, pi/2 = orthogonal.

    Cosines lose small angles and sines lose large ones, so both are computed and `atan2` takes the better.

    Args:
        a: orthonormal columns `(d, k)`.
        b: orthonormal columns `(d, m)`.
    """
    _need_orthonormal(a)
    _need_orthonormal(b)
    _need_same(a.shape[:1], b.shape[:1], "principal angles between two subspaces (d)")
    large, small = (a.double(), b.double()) if a.shape[1] >= b.shape[1] else (b.double(), a.double())
    overlap = large.mT @ small
    cosines = torch.linalg.svdvals(overlap)
    sines = torch.linalg.svdvals(small - large @ overlap).flip(-1)
    return _narrow(torch.atan2(sines, cosines), a)


def linear_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "m e"], *, debiased: bool = False) -> float:
    """Linear centred kernel alignment of two activation sets of the SAME n items (row i of x belongs to row i of y).

    `||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F)` with centred columns: 1 for equal geometry up to rotation, shift and
    scale. The plain form is biased upwards when n is small against d (two independent sets approach 1); the debiased
    form has mean 0 for independent sets and may be slightly negative.

    Raises:
        DataError: different numbers of rows, constant activations, NaN, or n < 4 with `debiased`.
    """
    asked = f"linear CKA of activations {tuple(x.shape)} and {tuple(y.shape)}"
    _need_finite(x, "activations")
    _need_finite(y, "activations")
    _need_same(x.shape[:1], y.shape[:1], "linear CKA of two activation sets (paired rows)")
    n = x.shape[0]
    if n < (4 if debiased else 2):
        raise DataError(asked, f"{n} rows", "pass at least 4 rows (debiased) or 2 (plain)")
    a, b = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    size = max(float(x.double().square().sum()), float(y.double().square().sum()))
    if min(float(a.square().sum()), float(b.square().sum())) <= 1e-24 * size:
        raise DataError(asked, "one set is constant", "pass prompts whose activations differ")
    if not debiased:
        return float((a.mT @ b).norm().square() / ((a.mT @ a).norm() * (b.mT @ b).norm()))
    ka, kb = _u_centred(a @ a.mT), _u_centred(b @ b.mT)
    return float((ka * kb).sum() / ((ka * ka).sum() * (kb * kb).sum()).clamp_min(1e-300).sqrt())


# -- streaming moments -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """Count, mean and second moment of a stream of activations: memory does not grow with the number of items.

    Two are merged exactly (Chan's update), in any order and grouping, so batches may arrive from several workers.

    Attributes:
        n: number of items seen.
        mean: `(..., d)`, float64.
        m2: sum of squared deviations from the mean, float64: `(..., d)` if `second == "diagonal"`, the scatter matrix
            `(..., d, d)` if `second == "full"`.
        second: which of the two. "full" costs `sites * d * d * 8` bytes: 134 MB a site at d = 4096.
    """

    n: int
    mean: Float[Tensor, "*site d"]
    m2: Float[Tensor, "..."]
    second: Literal["diagonal", "full"] = "diagonal"

    def __post_init__(self) -> None:
        """Refuse a second moment that does not belong to the mean."""
        want = self.mean.shape if self.second == "diagonal" else (*self.mean.shape, self.mean.shape[-1])
        if self.n < 0 or tuple(self.m2.shape) != tuple(want):
            raise DataError(
                f"moments with n = {self.n}, mean {tuple(self.mean.shape)}, second = {self.second!r}",
                f"the second moment has shape {tuple(self.m2.shape)}",
                f"pass n >= 0 and a second moment of shape {tuple(want)}",
            )

    @classmethod
    def empty(cls, shape: Sequence[int], *, second: Literal["diagonal", "full"] = "diagonal") -> "Moments":
        """Moments of nothing, for activations of shape `(..., d)`."""
        shape = tuple(shape)
        wide = shape if second == "diagonal" else (*shape, shape[-1])
        return cls(0, torch.zeros(shape, dtype=torch.float64), torch.zeros(wide, dtype=torch.float64), second)

    @classmethod
    def of(cls, x: Float[Tensor, "n *site d"], *, second: Literal["diagonal", "full"] = "diagonal") -> "Moments":
        """Moments of one batch `(n, ..., d)`, `n >= 1`."""
        _need_finite(x, "activations")
        wide = x.detach().double()
        mean = wide.mean(0)
        away = wide - mean
        m2 = away.square().sum(0) if second == "diagonal" else torch.einsum("n...d,n...e->...de", away, away)
        return cls(x.shape[0], mean, m2, second)

    @classmethod
    def from_sums(cls, n: int, total: Float[Tensor, "*site d"], products: Float[Tensor, "..."]) -> "Moments":
        """Moments of one batch from plain sums, as a server returns them: `m2 = products - n mean mean^T`.

        Subtracting loses digits where the mean is large against the spread, so pass float64 sums of one batch each and
        let `merge` join the batches.

        Args:
            n: number of items summed, at least 1.
            total: `(..., d)`, sum of the items.
            products: `(..., d, d)` sum of outer products, or `(..., d)` sum of squares.
        """
        if n < 1:
            raise DataError("moments from sums", f"n = {n}", "pass the sums of at least one item")
        _need_finite(total, "sums")
        _need_finite(products, "sums of products")
        mean = total.double() / n
        full = products.ndim == total.ndim + 1
        outer = mean.unsqueeze(-1) * mean.unsqueeze(-2) if full else mean.square()
        if tuple(products.shape) != tuple(outer.shape):
            raise DataError(
                f"moments from sums of shape {tuple(total.shape)}",
                f"sums of products of shape {tuple(products.shape)}",
                f"pass shape {tuple(mean.shape)} or {(*mean.shape, mean.shape[-1])}",
            )
        m2 = products.double() - n * outer
        return cls(n, mean, m2 if full else m2.clamp_min(0.0), "full" if full else "diagonal")

    def update(self, x: Float[Tensor, "n *site d"]) -> "Moments":
        """These moments with a further batch `(n, ..., d)`; an empty batch changes nothing."""
        if x.shape[0] == 0:
            return self
        return self.merge(Moments.of(x, second=self.second))

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both streams together: `m2 = m2_a + m2_b + delta delta^T n_a n_b / (n_a + n_b)`."""
        _need_same(self.mean.shape, other.mean.shape, "merge of two moments")
        if self.second != other.second:
            raise DataError(
                "merge of two moments",
                f"one holds {self.second!r}, the other {other.second!r} second moments",
                "collect both with the same setting",
            )
        n = self.n + other.n
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        delta = other.mean.to(self.mean.device) - self.mean
        outer = delta.square() if self.second == "diagonal" else delta.unsqueeze(-1) * delta.unsqueeze(-2)
        m2 = self.m2 + other.m2.to(self.m2.device) + outer * (self.n * other.n / n)
        return Moments(n, self.mean + delta * (other.n / n), m2, self.second)

    @property
    def variance(self) -> Float[Tensor, "*site d"]:
        """Variance of every coordinate, divided by `n - 1`. Raises `DataError` for n < 2."""
        self._need_two()
        diagonal = self.m2 if self.second == "diagonal" else self.m2.diagonal(dim1=-2, dim2=-1)
        return diagonal / (self.n - 1)

    @property
    def covariance(self) -> Float[Tensor, "*site d d"]:
        """Covariance matrix of every site, divided by `n - 1`. Needs `second="full"` and n >= 2."""
        self._need_two()
        return self.scatter() / (self.n - 1)

    def scatter(self) -> Float[Tensor, "*site d d"]:
        """Scatter matrix: the sum over items of the outer product of deviations. Needs `second="full"`."""
        if self.second != "full":
            raise DataError("covariance of moments", "only diagonal second moments", 'collect with second="full"')
        return self.m2

    def _need_two(self) -> None:
        if self.n < 2:
            raise DataError("variance of moments", f"n = {self.n}", "collect at least 2 items")


# -- checks ------------------------------------------------------------------------------------------------------------


def _narrow(wide: Tensor, like: Tensor) -> Tensor:
    """Back to float32 unless the input was float64 (a half-precision result would lose what float64 sums gained)."""
    return wide if like.dtype == torch.float64 else wide.float()


def _fix_signs(columns: Tensor) -> Tensor:
    """Turn every column so that its entry of largest size is positive: the decomposition leaves the sign open."""
    largest = columns.gather(-2, columns.abs().argmax(-2, keepdim=True))
    return columns * torch.where(largest < 0, -1.0, 1.0)


def _u_centred(gram: Tensor) -> Tensor:
    """U-centring of a Gram matrix with its diagonal removed (Song et al. 2012)."""
    n = gram.shape[0]
    gram = gram - torch.diag(gram.diagonal())
    rows = gram.sum(1) / (n - 2)
    total = gram.sum() / ((n - 1) * (n - 2))
    gram = gram - rows[:, None] - rows[None, :] + total
    return gram - torch.diag(gram.diagonal())


def _need_finite(x: Tensor, name: str) -> None:
    """Refuse empty tensors, NaN and infinity: one NaN item would silently spoil a whole direction."""
    if x.ndim == 0 or x.numel() == 0:
        raise DataError(name, f"empty, shape {tuple(x.shape)}", "pass at least one item")
    if not x.is_floating_point():
        raise DataError(name, f"dtype {x.dtype}", "pass floating-point activations")
    bad = int((~torch.isfinite(x)).sum())
    if bad:
        raise DataError(
            name,
            f"{bad} of {x.numel()} values are NaN or infinite",
            "check the model's dtype (float16 overflows in deep residual streams) and drop the items concerned",
        )


def _need_same(a: Sequence[int], b: Sequence[int], asked: str) -> None:
    if tuple(a) != tuple(b):
        raise DataError(asked, f"shapes {tuple(a)} and {tuple(b)} differ", "pass activations of one model and site")


def _fits(left: Sequence[int], site: Sequence[int]) -> bool:
    """Whether `site` equals the last axes of `left`."""
    return len(site) <= len(left) and tuple(left[len(left) - len(site) :]) == tuple(site)


def _need_aligned(x: Tensor, direction: Tensor, asked: str) -> None:
    if direction.ndim == 0 or not _fits(x.shape, direction.shape):
        raise DataError(
            f"{asked} of activations {tuple(x.shape)} along a direction {tuple(direction.shape)}",
            "the direction's shape is not the end of the activations' shape",
            "pass activations as (..., site, d) and one direction (d,) or one per site (site, d)",
        )


def _need_orthonormal(basis: Tensor) -> None:
    _need_finite(basis, "basis")
    if basis.ndim < 2:
        raise DataError(f"basis of shape {tuple(basis.shape)}", "one axis", "pass columns (d, k)")
    gram = basis.double().mT @ basis.double()
    away = float((gram - torch.eye(basis.shape[-1], dtype=torch.float64, device=basis.device)).abs().max())
    if away > 1e-4:
        raise DataError(
            f"basis of shape {tuple(basis.shape)}",
            f"its columns are not orthonormal (U^T U differs from the identity by {away:.2g})",
            "pass pca(x, k).basis, or orthonormalise with torch.linalg.qr",
        )
