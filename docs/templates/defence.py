"""My method, in one line (source).

    h[l] <- h[l] + c v[l]                  what it does, in symbols

Data: TEXT of the training split only.     what it sees, in words
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from refusal_plugin import Defence, DefenceData, SiteEdit
from refusal_plugin.defences import method
from refusal_plugin.traced import write


@dataclass(frozen=True, kw_only=True)
class Mine(Defence):
    layer: int
    vector: Float[Tensor, "d_model"]

    def parts(self, strength: Any, modality: Any) -> Iterator[SiteEdit]:
        tensors = {"vector": self.vector, "strength": strength}
        yield SiteEdit(self.layer, "resid_post", write.add, tensors, self.where)


@method("mine", sees="text", summary="one line for tables", variants={"mine_bold": {"factor": 2.0}})
def fit_mine(model: Any, data: DefenceData, *, seed: int = 0, factor: float = 1.0) -> Mine:
    layer = data.direction().layer
    return Mine(
        name="mine",
        layer=layer,
        vector=factor * data.candidates().vectors[0][layer],
        switches={"factor": factor},
        provenance=data.provenance(data.train("text", "harmful", "benign")),
    )
