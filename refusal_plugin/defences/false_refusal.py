"""Addition with the false-refusal vector taken out (arXiv 2410.03415).

    w     = mean h(near miss) - mean h(benign), made orthogonal to r      what makes harmless prompts LOOK harmful
    h[l] <- h[l] - what what^T (h[l] - mean_s[l]) + c r[l]                one layer, last position, every step

The paper projects w out of all layers; here its coordinate is set to the benign mean where the direction is added (our
reading: the means belong to that layer and token). Even c = 0 changes the model, since w is taken out.

Data: TEXT of the training split only (harmful, benign, near miss); the layer is selected on text of the validation
split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ..geometry import ablate_component, cosine, unit
from ..inference.edits import SiteEdit, When, Where
from ..traced import write
from .base import Defence, Modalities
from .cast import one_layer
from .data import DefenceData
from .registry import method


@dataclass(frozen=True, kw_only=True)
class FalseRefusal(Defence):
    """See the module.

    Attributes:
        layer: block that is edited.
        vector: (d_model,), towards refusal.
        unit: (d_model,) false-refusal vector of norm one, orthogonal to it.
        origin: benign mean of the coordinate along `unit`.
        cosine: between the false-refusal vector, before it was made orthogonal, and the direction.
    """

    layer: int
    vector: Float[Tensor, "d_model"]
    unit: Float[Tensor, "d_model"]
    origin: float
    cosine: float

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        out = {"unit": self.unit, "value": self.origin}
        yield SiteEdit(self.layer, "resid_post", write.set_coordinate, out, self.where)
        tensors = {"vector": self.vector, "strength": strength}
        yield SiteEdit(self.layer, "resid_post", write.add, tensors, self.where)

    def diagnostics(self) -> dict[str, Any]:
        return {**super().diagnostics(), "layers": [self.layer], "cosine": self.cosine}


@method("false_refusal", sees="text", summary="addition without the false-refusal vector")
def fit_false_refusal(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected"] = "selected",
    where: Where = "last",
    when: When = "every_step",
) -> FalseRefusal:
    """Fit it.

    Args:
        layers: "selected", or one number.
        where, when: positions and steps.

    Raises:
        PromptError: no near-miss text in the training split.
    """
    layer = one_layer(data, layers, "the false-refusal vector")
    found = data.candidates()
    r, benign = found.vectors[0][layer], found.benign[0][layer]
    near = data.streams(data.train("text", "near_miss"))[:, layer].double().mean(0).float()
    w = unit(ablate_component(near - benign, r))
    return FalseRefusal(
        name="false_refusal",
        layer=layer,
        vector=r,
        unit=w,
        origin=float(benign @ w),
        cosine=float(cosine(near - benign, r)),
        when=when,
        where=where,
        switches={"layers": layers, "where": where, "when": when},
        provenance=data.provenance(data.train("text", "harmful", "benign", "near_miss")),
    )
