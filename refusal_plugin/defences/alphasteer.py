"""AlphaSteer: steer through the null space of safe activations (arXiv 2506.07022).

    P     = projector on the directions along which safe text varies least        (share `null_share` of them)
    M     = argmin  mean_u || h_u P M - r ||^2 + ridge ||M||^2                     (Delta in the paper)
          = P (P H^T H P / n + ridge P)^+ P H^T R / n
    h    <- h + c h P M                                                            last position, every step

A safe input lies outside the null space, so h P is about 0 and nothing is added: this projects the INPUT where SARSteer
projects the VECTOR.

Data: TEXT of the training split only (safe: benign and near-miss); the layer is selected on text of the validation
split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..inference.edits import SiteEdit, When, Where
from ..traced import write
from .base import Defence, Modalities
from .data import DefenceData
from .registry import method


@dataclass(frozen=True, kw_only=True)
class AlphaSteer(Defence):
    """A linear function of the stream, added to it.

    Attributes:
        layers: blocks that are edited.
        matrices: (layer, d_model, d_model), `P M`, applied from the right.
        figures: what the fit found, JSON-able.
    """

    layers: tuple[int, ...]
    matrices: Float[Tensor, "layer d_model d_model"]
    figures: dict[str, Any]

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        for layer, matrix in zip(self.layers, self.matrices, strict=True):
            yield SiteEdit(layer, "resid_post", write.transform, {"matrix": matrix, "strength": strength}, self.where)

    def diagnostics(self) -> dict[str, Any]:
        return {**super().diagnostics(), "layers": list(self.layers), **self.figures}


def null_projector(safe: Float[Tensor, "n d_model"], null_share: float) -> Float[Tensor, "d_model d_model"]:
    """Projector on the `null_share` of all directions along which `safe` (not centred) is smallest, float64.

    Raises:
        DataError: a share outside (0, 1], or one that leaves no direction.
    """
    d = safe.shape[1]
    k = round(null_share * d)
    if not 0 < null_share <= 1 or k < 1:
        raise DataError("AlphaSteer", f"null_share = {null_share}", f"use a share between {1 / d:.2g} and 1")
    _, vectors = torch.linalg.eigh(safe.double().mT @ safe.double())  # rising order
    basis = vectors[:, :k]
    found: Tensor = basis @ basis.mT
    return found


def steering_matrix(
    harmful: Float[Tensor, "n d_model"],
    target: Float[Tensor, "d_model"],
    projector: Float[Tensor, "d_model d_model"],
    ridge: float,
) -> Float[Tensor, "d_model d_model"]:
    """`P M`: the ridge regression from projected harmful activations to the direction.

    Args:
        ridge: relative to the mean variance of the projected activations, positive.
    """
    x = harmful.double() @ projector
    gram = x.mT @ x / len(x)
    scale = gram.trace() / projector.trace()
    solved = torch.linalg.solve(
        gram + ridge * scale * torch.eye(len(gram), dtype=gram.dtype), x.mT.mean(1, keepdim=True) * target.double()
    )
    found: Tensor = (projector @ solved).float()
    return found


@method("alphasteer", sees="text", summary="add through the null space of safe text")
def fit_alphasteer(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected", "all"] = "selected",
    null_share: float = 0.5,
    ridge: float = 0.01,
    where: Where = "last",
    when: When = "every_step",
) -> AlphaSteer:
    """Fit AlphaSteer.

    Args:
        layers: "selected", "all" or numbers.
        null_share: share of all directions that counts as the null space of safe text.
        ridge: relative ridge, positive.
        where, when: positions and steps.

    Raises:
        DataError: null_share or ridge out of range, or harmful text inside the safe space.
    """
    if ridge <= 0:
        raise DataError("AlphaSteer", f"ridge = {ridge}", "use a positive number")
    chosen = list(data.layers(layers))
    harmful, benign = data.train("text", "harmful"), data.train("text", "benign")
    near = [p for p in data.train("text") if p.role == "near_miss"]
    unsafe, safe = data.streams(harmful), data.streams([*benign, *near])
    r = data.candidates().vectors[0]
    matrices, reached, leaked = [], [], []
    for layer in chosen:
        projector = null_projector(safe[:, layer], null_share)
        if float((unsafe[:, layer].double() @ projector).norm()) <= 1e-6 * float(unsafe[:, layer].norm()):
            raise DataError(
                f"AlphaSteer at layer {layer}", "harmful text has no part in the null space", "raise null_share"
            )
        matrix = steering_matrix(unsafe[:, layer], r[layer], projector, ridge)
        matrices.append(matrix)
        size = float(r[layer].norm())
        reached.append(float((unsafe[:, layer] @ matrix).norm(dim=-1).mean()) / size)
        leaked.append(float((safe[:, layer] @ matrix).norm(dim=-1).mean()) / size)
    return AlphaSteer(
        name="alphasteer",
        layers=tuple(chosen),
        matrices=torch.stack(matrices),
        figures={"reached": reached, "leaked": leaked},
        when=when,
        where=where,
        switches={"layers": layers, "null_share": null_share, "ridge": ridge, "where": where, "when": when},
        provenance=data.provenance([*harmful, *benign, *near]),
    )
