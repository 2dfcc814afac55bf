"""ACE: set the coordinate along the direction instead of shifting it (arXiv 2411.09003).

    h <- h - <h, rhat> rhat + (<mean_s, rhat> + c ||r||) rhat

Idempotent. c = 1 puts every input at the harmful mean, c = 0 at the benign one: even c = 0 changes the model, so a
calibration may find that no strength is cheap enough. The means belong to the last prompt token, so that position is
edited (our reading; the reference edits all).

Data: TEXT of the training split only; the layer is selected on text of the validation split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import unit
from ..inference.edits import SiteEdit, When, Where
from ..traced import write
from .base import Defence, Modalities
from .data import DefenceData
from .registry import method


@dataclass(frozen=True, kw_only=True)
class Ace(Defence):
    """The coordinate along a direction, set.

    Attributes:
        layers: blocks that are edited.
        units: (layer, d_model) of norm one, towards refusal.
        origins: (layer,) coordinates of the benign mean.
        norms: (layer,) distances from there to the harmful mean.
    """

    layers: tuple[int, ...]
    units: Float[Tensor, "layer d_model"]
    origins: Float[Tensor, " layer"]
    norms: Float[Tensor, " layer"]

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        for place, layer in enumerate(self.layers):
            value = float(self.origins[place]) + strength * float(self.norms[place])
            tensors = {"unit": self.units[place], "value": value}
            yield SiteEdit(layer, "resid_post", write.set_coordinate, tensors, self.where)

    def diagnostics(self) -> dict[str, Any]:
        return {**super().diagnostics(), "layers": list(self.layers), "norm": self.norms.tolist()}


@method("ace", sees="text", summary="set the coordinate along the direction")
def fit_ace(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected", "all"] = "selected",
    where: Where = "last",
    when: When = "every_step",
) -> Ace:
    """Fit ACE.

    Args:
        layers: "selected", "all" or numbers.
        where, when: positions and steps.
    """
    chosen = list(data.layers(layers))
    found = data.candidates()
    r, benign = found.vectors[0][chosen], found.benign[0][chosen]
    units = unit(r)
    return Ace(
        name="ace",
        layers=tuple(chosen),
        units=units,
        origins=(benign * units).sum(-1),
        norms=torch.linalg.vector_norm(r, dim=-1),
        when=when,
        where=where,
        switches={"layers": layers, "where": where, "when": when},
        provenance=data.provenance(data.train("text", "harmful", "benign")),
    )
