"""The safe space: where the activations of safe items vary, and what of a refusal direction lies inside it.

    H[l]       streams of safe items at the last prompt token, centred by their mean mu_s[l]
    U_k[l]     its top-k principal directions (d x k, orthonormal); from rows, or from a streamed covariance
    v_par      = U_k U_k^T v             what adding v would do to the coordinates in which safe prompts differ
    v_perp     = v - strength * v_par    NOT renormalised: the removed part lowers the strength

SARSteer (arXiv 2510.17633): k = 10, strength = 1, the direction itself is not centred. Few items make a space that is
mostly noise, so the space says what it rests on (`warnings`): n against k, the agreement of two halves of its items,
and how much of a direction is left.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..geometry import Moments, decompose, pca
from ..inference.activations import collect_activations, known_layers
from ..inference.streaming import collect_moments
from ..inference.streams import SAFE, Streams
from ..models import anatomy
from ..models.provenance import Artefact, provenance
from ..progress import Progress
from ..prompts import PromptSet

K = 10
DISAGREE = 0.5
"""Overlap (mean squared cosine) of two halves below which a safe space counts as not settled."""
TINY = 0.3
"""Share of a direction's length that must remain for the cleaned direction to be called one."""


@dataclass(frozen=True)
class SafeSpace(Artefact):
    """Principal directions of safe activations, per layer.

    Attributes:
        mean: (layer, d_model), what was subtracted.
        basis: (layer, d_model, k), orthonormal columns by falling variance.
        variance: (layer, k), variance along each.
        total: (layer,), variance in all directions.
        n: safe items behind it.
        layers: block indices.
        modality: of the items.
        agreement: (layer,) overlap of the spaces of two halves of the pair groups, 0 .. 1; None if not measured.
        warnings: what to know before using it.
        provenance: model, data and versions.
    """

    FORMAT: ClassVar[str] = "refusal_plugin.safe_space.v1"

    mean: Float[Tensor, "layer d_model"]
    basis: Float[Tensor, "layer d_model k"]
    variance: Float[Tensor, "layer k"]
    total: Float[Tensor, " layer"]
    n: int
    layers: tuple[int, ...]
    modality: str = ""
    agreement: Float[Tensor, " layer"] | None = None
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        x: "Float[Tensor, 'n layer d_model'] | Moments",
        k: int = K,
        *,
        layers: Sequence[int] | None = None,
        modality: str = "",
        halves: "tuple[Float[Tensor, '_ layer d_model'] | Moments, ...]" = (),
        compared: int = K,
        provenance: Mapping[str, Any] | None = None,
    ) -> "SafeSpace":
        """Fit on rows, or on what was collected in a stream (the number of items is unbounded).

        Args:
            x: safe activations (n, layer, d_model), or their moments with `second="full"` and mean (layer, d_model).
            k: number of directions; cut to n - 1, with a warning, where there are fewer items.
            layers: labels of the layers; 0, 1, ... by default.
            modality: label.
            halves: rows or moments of two halves of the items (by pair group): how far they agree is measured.
            compared: dimension at which the halves are compared.
            provenance: see `refusal_plugin.provenance`.

        Raises:
            DataError: fewer than 2 items, NaN, or items that vary in fewer than k directions.
        """
        n, shape = _count(x), x.shape[1:] if isinstance(x, Tensor) else x.mean.shape
        if n < 2 or len(shape) != 2:
            raise DataError(
                "fit a safe space", f"{n} items of shape {tuple(shape)}", "pass 2 or more of (layer, d_model)"
            )
        kept = max(1, min(k, n - 1, shape[-1]))
        whole = pca(x, kept)
        agreement = None
        if len(halves) == 2 and min(_count(half) for half in halves) > 1:
            small = max(1, min(kept, compared, *(_count(half) - 1 for half in halves)))
            first, second = (pca(half, small) for half in halves)
            agreement = overlap(first.basis, second.basis).float()
        names = tuple(range(shape[0])) if layers is None else tuple(layers)
        parts = (whole.mean.float(), whole.basis.float(), whole.variance.float(), whole.total.float())
        doubts, record = _doubts(n, k, agreement, names), dict(provenance or {})
        return cls(*parts, whole.n, names, modality, agreement, doubts, record)

    @classmethod
    def of(
        cls,
        model: Any,
        prompts: PromptSet,
        k: int = K,
        *,
        layers: Sequence[int] | None = None,
        remote: bool | str = False,
        progress: Progress = None,
    ) -> "SafeSpace":
        """Fit on a model's safe prompts.

        Of up to d_model prompts the streams are kept, of more their covariance: memory O(layers x d_model x min(n,
        d_model)).

        Args:
            model: a loaded model.
            prompts: safe prompts (benign, near miss) of one modality; harmful ones are an error.
            k, layers: see `fit`.
            remote: run on NDIF.
            progress: None shows a bar where somebody can see it.

        Raises:
            DataError: no prompts, several modalities, or harmful ones among them.
        """
        kinds = sorted({p.modality for p in prompts})
        if len(kinds) != 1 or any(p.role not in SAFE for p in prompts):
            what = f"{len(prompts)} prompts of {' and '.join(kinds) or 'no modality'}"
            raise DataError("fit a safe space", what, "pass benign and near-miss prompts of one modality")
        named: dict[str, Any] = {"layers": known_layers(model, layers), "provenance": provenance(model, prompts)}
        options: dict[str, Any] = {"layer_ids": layers, "remote": remote, "progress": progress}
        if len(prompts) <= anatomy(model).d_model:
            streams = Streams(prompts, collect_activations(model, prompts, **options).values[:, 0])
            return cls.of_streams(streams, k, **named)
        first = _first_half(p.pair for p in prompts)
        parts = collect_moments(model, prompts, by=lambda p: str(p.pair in first), second="full", **options)
        halves = tuple(Moments(m.n, m.mean[0], m.m2[0], "full") for m in parts.values())
        whole = halves[0] if len(halves) == 1 else halves[0].merge(halves[1])
        return cls.fit(whole, k, modality=kinds[0], halves=halves, **named)

    @classmethod
    def of_streams(cls, streams: Streams, k: int = K, **options: Any) -> "SafeSpace":
        """Fit on the safe items among some streams, and compare two halves of their pair groups.

        Args:
            streams: of one modality.
            k: see `fit`.
            options: `layers`, `compared`, `provenance` of `fit`.

        Raises:
            DataError: fewer than 2 safe items.
        """
        x, pairs = streams.of(*SAFE), streams.pairs(*SAFE)
        half = _first_half(pairs)
        first = torch.tensor([pair in half for pair in pairs], dtype=torch.bool)
        return cls.fit(x, k, modality=streams.prompts[0].modality, halves=(x[first], x[~first]), **options)

    @property
    def k(self) -> int:
        """Number of directions."""
        return int(self.basis.shape[-1])

    @property
    def explained(self) -> Float[Tensor, "layer k"]:
        """Cumulative share of the safe variance inside the first 1, 2, ... k directions."""
        found: Tensor = self.variance.cumsum(-1) / self.total.unsqueeze(-1)
        return found

    def decompose(
        self, direction: Float[Tensor, "layer d_model"], *, strength: float = 1.0, k: int | None = None
    ) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, "layer d_model"]]:
        """`(parallel, residual)` of a direction of every layer; the residual is not renormalised.

        Args:
            direction: (layer, d_model), the same layers as the space.
            strength: how much of the parallel part is removed (lambda of SARSteer).
            k: use only the first k directions.

        Raises:
            DataError: another shape, or more directions than there are.
        """
        return decompose(direction, self.first(k).basis, strength=strength)

    def share(self, direction: Float[Tensor, "layer d_model"]) -> Float[Tensor, "layer k"]:
        """Share of a direction's squared length inside the first 1, 2, ... k directions, as it was fitted.

        A random direction has k / d_model. Noise in the direction lies where activations vary, that is, inside: see
        `share_inside` of `analysis` for the share freed from it.
        """
        inside = torch.einsum("ld,ldk->lk", direction.double(), self.basis.double()).square()
        found: Tensor = (inside.cumsum(-1) / direction.double().square().sum(-1, keepdim=True)).float()
        return found

    def remainder(self, direction: Float[Tensor, "layer d_model"], *, strength: float = 1.0) -> Float[Tensor, " layer"]:
        """Length of what remains of a direction, relative to its own: the strength that is left."""
        _, rest = self.decompose(direction, strength=strength)
        found: Tensor = rest.norm(dim=-1) / direction.norm(dim=-1)
        return found

    def check(self, direction: Float[Tensor, "layer d_model"]) -> tuple[str, ...]:
        """Its own warnings, and one for every layer where almost nothing of a direction remains."""
        left = self.remainder(direction)
        tiny = [f"{layer} ({float(x):.2f})" for layer, x in zip(self.layers, left, strict=True) if float(x) < TINY]
        said = (
            [f"almost nothing of the direction remains at layer {', '.join(tiny)}: its strength is gone."]
            if tiny
            else []
        )
        return (*self.warnings, *said)

    def first(self, k: int | None) -> "SafeSpace":
        """The space of the first k directions only."""
        if k is None or k == self.k:
            return self
        if not 1 <= k <= self.k:
            raise DataError(f"the first {k} directions of a safe space", f"it has {self.k}", "fit one with a larger k")
        return replace(
            self,
            basis=self.basis[..., :k],
            variance=self.variance[..., :k],
            warnings=_doubts(self.n, k, self.agreement, self.layers),
        )

    def problem(self) -> str:
        """What is wrong with a file's content."""
        n = len(self.mean)
        return "" if len(self.layers) == n else f"it names {len(self.layers)} layers and holds {n}"

    def finding(self) -> str:
        settled = "" if self.agreement is None else f"; halves agree to {float(self.agreement.min()):.2f} or more"
        least, most = (float(end) for end in self.explained[:, -1].aminmax())
        head = f"safe space of {self.modality or 'activations'}, k={self.k}, n={self.n}, {len(self.layers)} layers"
        return f"{head}; holds {100 * least:.0f} to {100 * most:.0f} % of the variance{settled}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """Explained variance, one row per layer and k."""
        for i, layer in enumerate(self.layers):
            for k, share in enumerate(self.explained[i].tolist()):
                yield {"modality": self.modality, "layer": layer, "k": k + 1, "explained": share, "n": self.n}

    def drawn(self) -> Sequence[str]:
        from ..report.table import html_table

        agree: Sequence[Any] = [None] * len(self.layers) if self.agreement is None else self.agreement.tolist()
        rows = [
            [str(layer), float(self.explained[i, 0]), float(self.explained[i, -1]), agree[i]]
            for i, layer in enumerate(self.layers)
        ]
        return [html_table(["layer", "explained by 1", f"explained by {self.k}", "agreement of halves"], rows)]


def _count(x: Tensor | Moments) -> int:
    return len(x) if isinstance(x, Tensor) else x.n


def _first_half(pairs: Iterable[str]) -> set[str]:
    """Every second pair group."""
    return set(sorted(set(pairs))[::2])


def _doubts(n: int, k: int, agreement: Tensor | None, layers: Sequence[int]) -> tuple[str, ...]:
    """What to know about a space of k directions fitted on n items."""
    said = []
    if n <= k:
        said.append(f"{n} safe items for k = {k}: only {n - 1} directions could be fitted, and most of them are noise.")
    elif n < 5 * k:
        said.append(f"{n} safe items for k = {k}: fewer than 5 per direction; look at the agreement of its halves.")
    if agreement is not None and float(agreement.min()) < DISAGREE:
        worst = int(agreement.argmin())
        said.append(
            f"two halves of its items agree only to {float(agreement[worst]):.2f} at layer {layers[worst]} "
            "(1 = same space): more items would change it."
        )
    return tuple(said)


def overlap(a: Float[Tensor, "... d k"], b: Float[Tensor, "... d m"]) -> Float[Tensor, "..."]:
    """Mean squared cosine of the principal angles: 1 = the smaller lies in the larger, k / d by chance.

    Args:
        a, b: orthonormal columns.
    """
    inside = torch.einsum("...dk,...dm->...km", a.double(), b.double()).square().sum((-1, -2))
    found: Tensor = inside / min(a.shape[-1], b.shape[-1])
    return found
