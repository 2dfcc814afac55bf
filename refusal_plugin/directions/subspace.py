"""A refusal subspace: several directions by decomposition of paired differences, and how many there are.

    d_i  = h(harmful) - h(benign),   c_i = h(near miss) - h(benign)        pair i, last prompt token, one layer
    M    = mean d d^T - mean c c^T         what harm adds to how twins differ anyway
    U_k  = its k leading eigenvectors      without near misses: the leading right singular vectors of the d_i
    gain of direction j = mean over pairs of <d_i, u_j>^2 - <c_i, u_j>^2,  u_j fitted without the fold of pair i
    k    = the number of leading directions whose gain has an interval (over pairs) above 0

    added together     h + c U U^T mean(d)                  the part of the difference in means that lies inside
    ablated together   all coordinates along U set to the benign mean, or to zero

A direction of noise has a held-out gain of mean 0, also where noise is not the same in all directions; that is what the
near misses are for. Refusal as more than one direction: Wollschläger et al. 2025 (arXiv 2502.17420), by gradients; the
decomposition, the control and the choice of k are this project's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import GroupMean
from ..errors import DataError, DirectionError
from ..geometry import component, principal_angles
from ..inference.edits import Edit, Operator, When, Where, addition, removal, together
from ..inference.streams import Streams
from ..models.provenance import Artefact
from ..statistics import Estimate, mean_interval

K_MAX, FOLDS = 8, 5


@dataclass(frozen=True)
class Subspace(Artefact):
    """Orthonormal refusal directions at one layer.

    Attributes:
        layer: block whose `resid_post` they belong to.
        basis: (d_model, k), orthonormal columns by falling gain; each points towards refusal.
        difference: (d_model,) mean harmful minus mean benign of the pairs.
        benign: (layer, d_model) mean benign stream of every layer.
        gains: per tried direction the held-out gain in squared units of the stream (value, low, high, n); empty where k
            was given.
        n: pairs behind it.
        effects: what it does on test items, see `analyse_subspace`; empty where nobody asked.
        provenance: model, data and versions.
    """

    FORMAT: ClassVar[str] = "refusal_plugin.subspace.v1"

    layer: int
    basis: Float[Tensor, "d_model k"]
    difference: Float[Tensor, "d_model"]
    benign: Float[Tensor, "layer d_model"]
    gains: tuple[Mapping[str, Any], ...] = ()
    n: int = 0
    effects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, streams: Streams, layer: int, *, k: int | None = None, k_max: int = K_MAX, seed: int = 0, **named: Any
    ) -> "Subspace":
        """Fit on the pairs of some streams.

        Args:
            streams: all layers, of one modality and split; pairs with harmful, benign and near-miss items, or with
                harmful and benign ones where k is given.
            layer: block.
            k: number of directions; None chooses it by cross-validation.
            k_max: most directions tried.
            seed: of the folds and of the bootstrap.
            named: other fields of the result.

        Raises:
            DataError: too few pairs, near misses that are missing where k is to be chosen, or a k out of range.
        """
        d, c, pairs = differences(streams, layer)
        top = min(k or k_max, len(d) - 1, d.shape[1])
        if len(d) < (3 if k else 2 * FOLDS) or not top or (k is not None and (k < 1 or top < k)):
            fewest = f"give {2 * FOLDS} or more" if k is None else "give more pairs, or 0 < k < pairs"
            raise DataError(f"fit a refusal subspace with k = {k}", f"{len(d)} pairs of harmful and benign", fewest)
        gains: list[Estimate] = []
        if k is None:
            if c is None:
                raise DataError(
                    "choose the number of refusal directions",
                    "no near misses: nothing says how harmless twins differ",
                    "add near misses to the pairs, or give k",
                )
            gains = held_out_gains(d, c, pairs, top, seed)
            k = max(1, next((j for j, gain in enumerate(gains) if gain.low is None or gain.low <= 0), len(gains)))
        table = tuple({"direction": j + 1, **gain.to_json()} for j, gain in enumerate(gains))
        benign = streams.of("benign").double().mean(0).float()
        basis = leading(d, c, k).float()
        return cls(layer, basis, d.mean(0).float(), benign, table, len(d), **named)

    @property
    def k(self) -> int:
        """Number of directions."""
        return int(self.basis.shape[1])

    @property
    def vector(self) -> Float[Tensor, "d_model"]:
        """The part of the difference in means that lies inside, towards refusal, not normalised."""
        return component(self.difference, self.basis)

    def first(self, k: int) -> "Subspace":
        """The first k directions alone, without gains and effects.

        Raises:
            DirectionError: there are not so many.
        """
        if not 1 <= k <= self.k:
            raise DirectionError(f"the first {k} directions of a subspace", f"it has {self.k}", "ask for some of them")
        return Subspace(self.layer, self.basis[:, :k], self.difference, self.benign, n=self.n)

    def addition(self, strength: float = 1.0, *, where: Where = "all", when: When = "every_step") -> Edit:
        """All directions added together: `strength * vector` at its layer."""
        return addition({self.layer: self.vector}, strength=strength, where=where, when=when)

    def ablation(self, operator: Operator = "benign_mean") -> Edit:
        """All directions taken away together, in every layer: a causal test, see `inference.edits.removal`."""
        return together("subspace", *(removal(u, self.benign, operator) for u in self.basis.T))

    def angles(self, other: Float[Tensor, "d_model m"]) -> Float[Tensor, " angles"]:
        """Principal angles with another subspace (orthonormal columns), in degrees, rising."""
        return torch.rad2deg(principal_angles(self.basis, other))

    @property
    def words(self) -> str:
        """Whether one direction suffices, in words."""
        tried = len(self.gains)
        if self.gains and not self.gains[0]["low"] > 0:
            return f"No direction of {tried} differs between harmful and benign twins beyond how harmless twins differ."
        found = f"{self.k} directions were asked for"
        if self.gains:
            are = "direction differs" if self.k == 1 else "directions differ"
            found = f"{self.k} of {tried} {are} between harmful and benign twins beyond how harmless twins differ"
        if self.k == 1:
            return f"One direction suffices: {found}." if self.gains else f"{found}."
        more = {name: self.effects.get(f"more_{name}", {}) for name in ("added", "ablated")}
        if any(e.get("value") is None for e in more.values()):
            return f"{found}; whether one suffices to act was not measured."
        beyond = {"added": more["added"]["low"] > 0, "ablated": more["ablated"]["high"] < 0}
        which = [name for name, clear in beyond.items() if clear]
        said = ", ".join(
            f"{name} {e['value']:+.2f} nats [{e['low']:+.2f}, {e['high']:+.2f}]" for name, e in more.items()
        )
        if not which:
            return f"One direction suffices to act: {found}, but the others change the score no further ({said})."
        alone = [f"{self._alone(name):.0%} of it when {name}" for name in which]
        return (
            f"One direction does not suffice: {found}, and all do more than one when {' and '.join(which)} ({said}); "
            f"the first alone does {' and '.join(alone)}."
        )

    def _alone(self, name: str) -> float:
        """Share of what all directions do together that the first does alone."""
        one, every = (self.effects[f"{name} {arm}"]["value"] for arm in ("one", "together"))
        return float(one / every) if every else 0.0

    def problem(self) -> str:
        """What is wrong with a file's content."""
        return "" if self.layer in range(len(self.benign)) else f"layer {self.layer} of {len(self.benign)}"

    def finding(self) -> str:
        return f"k={self.k}, layer={self.layer}, n={self.n}\n{self.words}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """Held-out gains, one row per direction."""
        return self.gains


def differences(
    streams: Streams, layer: int
) -> tuple[Float[Tensor, "pair d_model"], Float[Tensor, "pair d_model"] | None, list[str]]:
    """Harmful minus benign and near miss minus benign of each pair that has all three (two, where none has)."""
    have = [set(streams.pairs(role)) for role in ("harmful", "benign", "near_miss")]
    full = sorted(set.intersection(*have)) if have[0] & have[2] else sorted(have[0] & have[1])
    one = streams.at([layer]).keep(frozenset(p.id for p in streams.prompts if p.pair in set(full)))

    def means(role: str) -> Tensor:
        found = GroupMean.of(one.of(role), one.pairs(role), full)
        return found.sums[:, 0] / found.counts[:, None]

    if not full:
        return one.values.new_zeros(0, one.values.shape[-1]).double(), None, full
    benign = means("benign")
    return means("harmful") - benign, means("near_miss") - benign if have[0] & have[2] else None, full


def leading(
    d: Float[Tensor, "pair d_model"], c: Float[Tensor, "twin d_model"] | None, k: int
) -> Float[Tensor, "d_model k"]:
    """The k leading eigenvectors of `mean d d^T - mean c c^T`, each turned so that the mean of `d` is positive."""
    rows = d / len(d) ** 0.5 if c is None else torch.cat([d / len(d) ** 0.5, c / len(c) ** 0.5])
    signs = torch.ones(len(rows), dtype=torch.float64)
    signs[len(d) :] = -1.0
    q, r = torch.linalg.qr(rows.double().T)  # M has the rank of the rows, far below d_model
    _, vectors = torch.linalg.eigh(r * signs @ r.T)
    basis: Tensor = q @ vectors.flip(-1)[:, :k]
    return basis * torch.where(d.double().mean(0) @ basis < 0, -1.0, 1.0)


def held_out_gains(
    d: Float[Tensor, "pair d_model"], c: Float[Tensor, "pair d_model"], pairs: Sequence[str], k: int, seed: int
) -> list[Estimate]:
    """The gain of each of the k leading directions, on pairs that they were not fitted on."""
    fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(d)) % FOLDS)
    found = torch.zeros(len(d), k, dtype=torch.float64)
    for out in range(FOLDS):
        here = fold == out
        basis = leading(d[~here], c[~here], k)
        found[here, : basis.shape[1]] = (d[here].double() @ basis).square() - (c[here].double() @ basis).square()
    return [mean_interval(found[:, j], pairs, rng=np.random.default_rng(seed), resamples=1000) for j in range(k)]
