"""Addition of a vector per modality and layer: the shape that SARSteer, MDSteer and ShiftDC share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from ..errors import DirectionError, PromptError
from ..inference.edits import SiteEdit
from ..models import anatomy
from ..prompts import Modality
from ..traced import write
from .base import Defence, Modalities
from .data import DefenceData

FitOn: TypeAlias = Literal["modality", "pooled", "text"]
"""Where the vectors come from: each modality's own prompts, all media together, or text alone for all modalities."""


@dataclass(frozen=True, kw_only=True)
class ModalAddition(Defence):
    """`h[l] + c v[modality][l]` at some layers.

    Attributes:
        layers: blocks that are edited.
        vectors: modality to (layer, d_model), one row per edited block, towards refusal.
        figures: what the fit found, per modality, JSON-able.
    """

    layers: tuple[int, ...]
    vectors: Mapping[str, Float[Tensor, "layer d_model"]]
    figures: Mapping[str, Any]

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        for place, layer in enumerate(self.layers):
            vector = self._pick({m: rows[place] for m, rows in self.vectors.items()}, modality, "vectors")
            yield SiteEdit(layer, "resid_post", write.add, {"vector": vector, "strength": strength}, self.where)

    def diagnostics(self) -> dict[str, Any]:
        norms = {m: rows.norm(dim=-1).tolist() for m, rows in self.vectors.items()}
        return {**super().diagnostics(), "layers": list(self.layers), "norm": norms, **dict(self.figures)}


def sources(data: DefenceData, fit_on: FitOn, asked: str) -> dict[Modality, tuple[Modality, ...]]:
    """For every modality that gets a vector, the modalities of the prompts it is fitted on.

    Raises:
        PromptError: an unknown choice, or no training media where media are wanted.
    """
    if fit_on == "text":
        return dict.fromkeys(("text", *data.shown), ("text",))
    if fit_on not in ("modality", "pooled"):
        raise PromptError(f"fit {asked} on {fit_on!r}", "no such choice", "use 'modality', 'pooled' or 'text'")
    if not data.media and len(anatomy(data.model).modalities) > 1:
        raise PromptError(
            f"fit {asked}",
            "the training split has no media with harmful and safe prompts",
            "add training media, or use fit_on='text'",
        )
    if fit_on == "pooled":
        return {"text": ("text",), **dict.fromkeys(data.media, data.media)}
    return {"text": ("text",), **{m: (m,) for m in data.media}}


def require_moving(vectors: Mapping[str, Float[Tensor, "layer d_model"]], asked: str) -> None:
    """Raise DirectionError if a vector is zero: it has no direction."""
    for modality, rows in vectors.items():
        still = (rows.norm(dim=-1) == 0).nonzero().flatten().tolist()
        if still:
            raise DirectionError(
                f"fit {asked} on {modality}", f"its vector is zero at layer {still[0]}", "check the prompts"
            )
