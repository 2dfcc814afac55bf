"""Addition of the refusal direction of text, and its two controls.

    r[l]  = mean harmful h[l] - mean benign h[l]     text, last prompt token (Arditi et al. 2024, arXiv 2406.11717)
    h[l] <- h[l] + c r[l]                            ActAdd (arXiv 2308.10248), CAA (arXiv 2312.06681)

    random     r[l] replaced by a Gaussian vector of the same norm
    shuffled   r[l] of the same prompts with harmful and benign labels shuffled, scaled to the same norm
    *_orthogonal   the same without its component along r[l]

A control is a distribution, not a vector. At the cost of r it is driven to a larger strength than r, and its chance
overlap with r, and with whatever else decides about refusal, moves the model up or down. So average several draws:
seeds 2k and 2k + 1 give v and -v, so that an even number of consecutive seeds cancels what is linear. The orthogonal
variants take the overlap with r out, not the others.

Data: TEXT of the training split only; the layer is selected on text of the validation split.
"""

import random as rng_of_python
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DirectionError
from ..geometry import ablate_component, unit
from ..inference.edits import SiteEdit, When, Where
from ..traced import write
from .base import Defence, Modalities
from .data import DefenceData
from .registry import method


@dataclass(frozen=True, kw_only=True)
class Addition(Defence):
    """`h[l] + c v[l]` at some layers.

    Attributes:
        layers: blocks that are edited.
        vectors: (layer, d_model), one per edited block, towards refusal.
    """

    layers: tuple[int, ...]
    vectors: Float[Tensor, "layer d_model"]

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        for layer, vector in zip(self.layers, self.vectors, strict=True):
            yield SiteEdit(layer, "resid_post", write.add, {"vector": vector, "strength": strength}, self.where)

    def diagnostics(self) -> dict[str, Any]:
        return {**super().diagnostics(), "layers": list(self.layers), "norm": self.vectors.norm(dim=-1).tolist()}


def addition(
    data: DefenceData, vectors: Float[Tensor, "layer d_model"], layers: tuple[int, ...], switches: Mapping[str, Any]
) -> Addition:
    """An `Addition` from one vector per layer of the model."""
    chosen = vectors[list(layers)]
    if bool((chosen.norm(dim=-1) == 0).any()):
        raise DirectionError(f"add a direction at layers {list(layers)}", "it is zero", "check the prompts")
    return Addition(
        name="addition",
        layers=layers,
        vectors=chosen,
        when=switches["when"],
        where=switches["where"],
        switches=switches,
        provenance=data.provenance(data.train("text", "harmful", "benign")),
    )


@method("addition", sees="text", summary="add the text direction", variants={"addition_all": {"layers": "all"}})
def fit_addition(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected", "all"] = "selected",
    where: Where = "all",
    when: When = "every_step",
) -> Addition:
    """The text direction, added.

    Args:
        layers: "selected" (one), "all", or numbers.
        where, when: positions and steps.
    """
    switches = {"layers": layers, "where": where, "when": when}
    return addition(data, data.candidates().vectors[0], data.layers(layers), switches)


@method(
    "random",
    sees="text",
    summary="add a random vector of the same norm",
    control=True,
    variants={"random_orthogonal": {"orthogonal": True}},
)
def fit_random(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected", "all"] = "selected",
    where: Where = "all",
    when: When = "every_step",
    orthogonal: bool = False,
) -> Addition:
    """The control: a Gaussian direction with the norm of the text direction; seeds 2k and 2k + 1 are opposite.

    Args:
        layers: "selected" (one), "all", or numbers.
        where, when: positions and steps.
        orthogonal: without its component along the text direction.
    """
    r = data.candidates().vectors[0]
    noise = torch.randn(r.shape, generator=torch.Generator().manual_seed(seed // 2), dtype=torch.float64)
    noise = -noise if seed % 2 else noise
    switches = {"layers": layers, "where": where, "when": when, "orthogonal": orthogonal}
    return addition(data, _like(noise, r, orthogonal), data.layers(layers), switches)


@method(
    "shuffled",
    sees="text",
    summary="add a direction of shuffled labels, same norm",
    control=True,
    variants={"shuffled_orthogonal": {"orthogonal": True}},
)
def fit_shuffled(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected", "all"] = "selected",
    where: Where = "all",
    when: When = "every_step",
    orthogonal: bool = False,
) -> Addition:
    """The control: difference in means under shuffled labels, half of each label on either side.

    Seeds 2k and 2k + 1 are opposite.

    Args:
        layers: "selected" (one), "all", or numbers.
        where, when: positions and steps.
        orthogonal: without its component along the text direction.
    """
    r = data.candidates().vectors[0]
    groups = [list(data.train("text", role)) for role in ("harmful", "benign")]
    sides: tuple[list[Any], list[Any]] = ([], [])
    shuffler = rng_of_python.Random(seed // 2)
    for group in groups:
        shuffler.shuffle(group)
        sides[0].extend(group[::2])
        sides[1].extend(group[1::2])
    left, right = (data.streams(side) for side in sides)
    v = (left.double().mean(0) - right.double().mean(0)) * (-1.0 if seed % 2 else 1.0)
    switches = {"layers": layers, "where": where, "when": when, "orthogonal": orthogonal}
    return addition(data, _like(v, r, orthogonal), data.layers(layers), switches)


def _like(
    v: Float[Tensor, "layer d_model"], r: Float[Tensor, "layer d_model"], orthogonal: bool
) -> Float[Tensor, "layer d_model"]:
    """`v` with the norm of `r` at every layer, if wanted without its component along `r`."""
    wide = ablate_component(v, r.double()) if orthogonal else v
    scaled: Tensor = unit(wide) * r.double().norm(dim=-1, keepdim=True)
    return scaled.float()
