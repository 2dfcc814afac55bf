"""Directions to attribute along: one, several by name, or a bare vector with its layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..directions.direction import Direction
from ..errors import DirectionError
from ..models import anatomy

Target: TypeAlias = Direction | tuple[Tensor, int]
"""A direction, or a vector (d_model,) together with the layer behind which it is read."""


@dataclass(frozen=True)
class Targets:
    """Several directions side by side.

    Attributes:
        names: one per direction.
        layers: the layer behind which each is read (`resid_post`).
        units: (d_model, k), norm one, towards refusal.
        norms: (k,) the norms before they were made one.
        position: offset from the prompt's end at which they are read, the same for all.
    """

    names: tuple[str, ...]
    layers: tuple[int, ...]
    units: Float[Tensor, "d_model k"]
    norms: Float[Tensor, " k"]
    position: int

    @property
    def depth(self) -> int:
        """Layers that can write any of them: the deepest layer and all below."""
        return max(self.layers) + 1


def targets(model: Any, directions: Target | Mapping[str, Target]) -> Targets:
    """Check directions against a model.

    Raises:
        DirectionError: none, a wrong width, an unknown layer, a zero vector, NaN, or different positions.
    """
    facts = anatomy(model)
    named = dict(directions) if isinstance(directions, Mapping) else {"refusal": directions}
    if not named:
        raise DirectionError("attribute heads", "0 directions", "give at least one")
    vectors, where, positions = [], [], set()
    for name, value in named.items():
        vector, layer = (value.vector, value.layer) if isinstance(value, Direction) else value
        if vector.shape != (facts.d_model,):
            found = f"it has shape {tuple(vector.shape)}, the model's d_model is {facts.d_model}"
            raise DirectionError(f"attribute along {name!r}", found, "fit the direction on this model")
        if not 0 <= layer < facts.n_layers:
            found = f"layer {layer}; {facts.name} has layers 0 to {facts.n_layers - 1}"
            raise DirectionError(f"attribute along {name!r}", found, "choose one of these")
        if not bool(torch.isfinite(vector).all()) or float(vector.norm()) == 0.0:
            raise DirectionError(f"attribute along {name!r}", "it is zero, or holds NaN", "fit the direction again")
        positions.add(value.position if isinstance(value, Direction) else -1)
        vectors.append(vector.detach().float().cpu())
        where.append(int(layer))
    if len(positions) > 1:
        found = f"they were read at positions {sorted(positions)}"
        raise DirectionError("attribute along several directions", found, "attribute each by itself")
    stacked = torch.stack(vectors, dim=-1)
    norms = stacked.norm(dim=0)
    return Targets(tuple(named), tuple(where), stacked / norms, norms, positions.pop())
