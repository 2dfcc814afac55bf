"""A condition on the prompt times an addition in the answer: the shape that CAST and AdaSteer share."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..inference.edits import SiteEdit
from ..traced import gate, write
from .base import Defence, Modalities


@dataclass(frozen=True, kw_only=True)
class Conditional(Defence):
    """`h[l] + c a(prompt) v` with a strength that every row's prompt decides once, at the last prompt token.

    Attributes:
        layer: block that is edited.
        vector: (d_model,), towards refusal.
        condition_layer: block at which the prompt is judged, at most `layer`.
        unit: (d_model,) axis of the condition, norm one.
        numbers: what the condition needs besides.
        figures: what the fit found, JSON-able.
    """

    layer: int
    vector: Float[Tensor, "d_model"]
    condition_layer: int
    unit: Float[Tensor, "d_model"]
    numbers: Mapping[str, float]
    figures: Mapping[str, Any]

    def gate(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """A gate of `traced.gate` and its keyword arguments."""
        raise NotImplementedError

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        function, condition = self.gate()
        judge = {"memory": "prompt", "gate": function, "condition": condition}
        yield SiteEdit(self.condition_layer, "resid_post", gate.remember, judge, "all")
        tensors = {
            "memory": "prompt",
            "strength": strength,
            "function": write.add,
            "tensors": {"vector": self.vector},
            "first": 0,
            "last": None,
        }
        yield SiteEdit(self.layer, "resid_post", gate.recall, tensors, self.where)

    def diagnostics(self) -> dict[str, Any]:
        places = {"layers": [self.layer], "condition_layer": self.condition_layer, "norm": [float(self.vector.norm())]}
        return {**super().diagnostics(), **places, **dict(self.numbers), **dict(self.figures)}
