"""AdaSteer-like: how far to steer depends on where the prompt lies along the harmfulness axis (arXiv 2504.09466).

    p  = <h[l], rhat[l]>                                  last prompt token, decided once
    a  = clip( (p - low) / (high - low), 0, 1 )           low: 95th percentile of benign text, high: mean harmful text
    h[l] <- h[l] + strength * a * r[l]                    prefill and every decode step

The paper fits strengths along a rejection and a harmfulness axis by regression; here one axis and two points of the
text data set the line (our reading).

Data: TEXT of the training split only; the layer is selected on text of the validation split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..errors import DataError
from ..geometry import unit
from ..inference.edits import When, Where
from ..traced import gate
from .cast import one_layer
from .conditional import Conditional
from .data import DefenceData
from .registry import method


@dataclass(frozen=True, kw_only=True)
class AdaSteer(Conditional):
    """See the module."""

    def gate(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        return gate.ramp, {"unit": self.unit, **self.numbers}


@method("adasteer", sees="text", summary="add it in proportion to the prompt's coordinate")
def fit_adasteer(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected"] = "selected",
    q: float = 0.95,
    where: Where = "all",
    when: When = "every_step",
) -> AdaSteer:
    """Fit AdaSteer.

    Args:
        layers: "selected", or one number.
        q: quantile of benign text up to which nothing is added.
        where: positions of the addition.
        when: "every_step", or "prefill" only.

    Raises:
        DataError: q outside 0..1, or benign text that lies as far out as harmful text.
    """
    if not 0 <= q <= 1:
        raise DataError("AdaSteer", f"q = {q}", "use a quantile between 0 and 1")
    layer = one_layer(data, layers, "AdaSteer")
    r = data.candidates().vectors[0][layer]
    axis = unit(r)
    harmful, benign = (data.streams(data.train("text", role))[:, layer] @ axis for role in ("harmful", "benign"))
    low, high = float(torch.quantile(benign, q)), float(harmful.mean())
    if low >= high:
        raise DataError(
            f"AdaSteer at layer {layer}",
            f"the {q:g} quantile of benign text ({low:.3g}) lies beyond mean harmful text ({high:.3g})",
            "choose another layer or a smaller q",
        )
    return AdaSteer(
        name="adasteer",
        layer=layer,
        vector=r,
        condition_layer=layer,
        unit=axis,
        numbers={"low": low, "high": high},
        figures={},
        when=when,
        where=where,
        switches={"layers": layers, "q": q, "where": where, "when": when},
        provenance=data.provenance(data.train("text", "harmful", "benign")),
    )
