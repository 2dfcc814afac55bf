"""RAS: pull the first tokens of a risky answer towards the unsafe centroid (arXiv 2510.13698).

    rho = 1 / (1 + exp(-(p - middle) / width)),  p = <h[L-1], rhat>         last prompt token, decided once
    x  <- x + strength * rho * (mu_u - x)                                   last layer, first N = 3 tokens

Convex: with strength in 0..1 it never overshoots. `middle` is half-way between mean benign and mean harmful text,
`width` a tenth of their distance (our reading of "a sigmoid of risk").

Data: TEXT of the training split only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, DirectionError
from ..geometry import unit
from ..inference.edits import SiteEdit
from ..models import anatomy
from ..traced import gate, write
from .base import Defence, Modalities
from .data import DefenceData
from .registry import method


@dataclass(frozen=True, kw_only=True)
class Ras(Defence):
    """See the module.

    Attributes:
        layer: block that is edited.
        target: (d_model,) unsafe centroid.
        unit: (d_model,) axis of the risk, norm one.
        middle, width: of the sigmoid, in the units of the stream.
        tokens: how many tokens are pulled, the one the prompt emits included.
    """

    layer: int
    target: Float[Tensor, "d_model"]
    unit: Float[Tensor, "d_model"]
    middle: float
    width: float
    tokens: int

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        condition = {"unit": self.unit, "middle": self.middle, "width": self.width}
        judge = {"memory": "prompt", "gate": gate.sigmoid, "condition": condition}
        yield SiteEdit(self.layer, "resid_post", gate.remember, judge, "all")
        tensors = {
            "memory": "prompt",
            "strength": strength,
            "function": write.blend,
            "tensors": {"target": self.target},
            "first": 0,
            "last": self.tokens - 1,
        }
        yield SiteEdit(self.layer, "resid_post", gate.recall, tensors, self.where)

    def diagnostics(self) -> dict[str, Any]:
        return {**super().diagnostics(), "layers": [self.layer], "middle": self.middle, "width": self.width}


@method("ras", sees="text", summary="pull the first tokens to the unsafe centroid")
def fit_ras(
    model: Any, data: DefenceData, *, seed: int = 0, layer: int | None = None, n: int = 3, width: float = 0.1
) -> Ras:
    """Fit RAS.

    Args:
        layer: None is the last one.
        n: tokens that are pulled.
        width: of the sigmoid, as a share of the distance between the text centroids, positive.

    Raises:
        DataError: n < 1 or width <= 0.
        DirectionError: a layer the model does not have.
    """
    last = anatomy(model).n_layers - 1
    layer = last if layer is None else layer
    if n < 1 or width <= 0:
        raise DataError("RAS", f"n = {n}, width = {width}", "use n >= 1 and a positive width")
    if not 0 <= layer <= last:
        raise DirectionError(f"fit RAS at layer {layer}", f"the model has layers 0 to {last}", "choose one of these")
    found = data.candidates()
    harmful, benign = found.harmful[0][layer], found.benign[0][layer]
    axis = unit(harmful - benign)
    return Ras(
        name="ras",
        layer=layer,
        target=harmful,
        unit=axis,
        middle=float((harmful + benign) @ axis / 2),
        width=width * float((harmful - benign).norm()),
        tokens=n,
        bounds=(0.0, 1.0),
        switches={"layer": layer, "n": n, "width": width},
        provenance=data.provenance(data.train("text", "harmful", "benign")),
    )
