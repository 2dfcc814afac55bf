"""CAST: conditional activation steering (arXiv 2409.05907).

    condition    a = 1[ cos(h[l_c] - mu, c[l_c]) > theta ]           last prompt token, per row, decided once
    behaviour    h[l] <- h[l] + strength * a * r[l]                  prefill and every decode step

    c[l]    first principal direction of harmful and benign text together, centred by mu, turned towards harm
    l_c, theta    the best F1 on validation text (harmful against everything safe), l_c <= l

The paper compares the mean over all prompt tokens with its projection; here the last prompt token stands for the prompt
and the cosine is signed and centred (our reading).

Data: TEXT only; direction from the training split, condition layer and threshold from the validation split.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DirectionError
from ..geometry import pca
from ..inference.edits import When, Where
from ..traced import gate
from .conditional import Conditional
from .data import DefenceData
from .registry import method


@dataclass(frozen=True, kw_only=True)
class Cast(Conditional):
    """See the module.

    Attributes:
        centre: (d_model,) mean of the training text at the condition layer.
    """

    centre: Float[Tensor, "d_model"]

    def gate(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        return gate.alike, {"unit": self.unit, "centre": self.centre, "threshold": self.numbers["threshold"]}


@method("cast", sees="text", summary="add it where a condition on the prompt holds")
def fit_cast(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected"] = "selected",
    condition_layer: int | None = None,
    where: Where = "all",
    when: When = "every_step",
) -> Cast:
    """Fit CAST.

    Args:
        layers: "selected", or one number: the layer of the behaviour.
        condition_layer: None finds the best one up to that layer.
        where: positions of the behaviour.
        when: "every_step", or "prefill" only.

    Raises:
        DirectionError: more than one layer, or a condition layer behind it.
    """
    layer = one_layer(data, layers, "CAST")
    if condition_layer is not None and not 0 <= condition_layer <= layer:
        raise DirectionError(
            f"fit CAST with condition layer {condition_layer}",
            f"the behaviour is at layer {layer}",
            "judge the prompt at or before it",
        )
    harmful, benign = data.streams(data.train("text", "harmful")), data.streams(data.train("text", "benign"))
    both = torch.cat([harmful, benign])
    centre = both.double().mean(0).float()
    axis = pca(both, 1).basis[..., 0]
    side = ((harmful.mean(0) - benign.mean(0)) * axis).sum(-1, keepdim=True)
    axis = torch.where(side < 0, -axis, axis)
    unsafe, safe = data.streams(data.val("harmful")), data.streams(data.val().where(lambda p: p.role != "harmful"))
    places = range(layer + 1) if condition_layer is None else [condition_layer]
    rows = []
    for place in places:
        high, low = (cosines(x[:, place], axis[place], centre[place]) for x in (unsafe, safe))
        f1, threshold = best_threshold(high, low)
        rows.append({"layer": place, "f1": f1, "threshold": threshold})
    best = max(rows, key=lambda row: (row["f1"], row["layer"]))
    chosen = int(best["layer"])
    return Cast(
        name="cast",
        layer=layer,
        vector=data.candidates().vectors[0][layer],
        condition_layer=chosen,
        unit=axis[chosen],
        centre=centre[chosen],
        numbers={"threshold": float(best["threshold"])},
        figures={"f1": best["f1"], "conditions": rows},
        when=when,
        where=where,
        switches={"layers": layers, "condition_layer": condition_layer, "where": where, "when": when},
        provenance=data.provenance(data.train("text", "harmful", "benign")),
    )


def one_layer(data: DefenceData, layers: Sequence[int] | str, name: str) -> int:
    """The single layer of a switch; DirectionError if it names several."""
    chosen = data.layers(layers)
    if len(chosen) != 1:
        raise DirectionError(f"fit {name} at layers {list(chosen)}", "it acts at one layer", "give one number")
    return chosen[0]


def cosines(
    x: Float[Tensor, "item d_model"], axis: Float[Tensor, "d_model"], centre: Float[Tensor, "d_model"]
) -> Float[Tensor, " item"]:
    """Signed cosine with an axis, seen from a centre: what the gate computes."""
    z = x - centre
    found: Tensor = (z @ axis) / z.norm(dim=-1).clamp_min(1e-12)
    return found


def best_threshold(high: Float[Tensor, " n"], low: Float[Tensor, " m"]) -> tuple[float, float]:
    """The best F1 of "above the threshold" for `high` against `low`, and a threshold half-way between two values."""
    values = torch.unique(torch.cat([high, low]).double())
    cuts = torch.cat([values[:1] - 1e-6, (values[1:] + values[:-1]) / 2])
    hits = (high.unsqueeze(1) > cuts).sum(0).double()
    false = (low.unsqueeze(1) > cuts).sum(0).double()
    f1 = 2 * hits / (hits + false + len(high))
    best = int(f1.argmax())
    return float(f1[best]), float(cuts[best])
