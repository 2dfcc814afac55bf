"""OmniSteer: one refusal direction of all modalities, stepped along as far as a learned gate says (arXiv 2602.10161).

    r_m[l]  = mean harmful h[l] - mean benign h[l]                     modality m, last prompt token
    R[l]    = rows r_m[l] / ||r_m[l]||, one per modality;   R = S V^T decomposed,   u[l] = leading right vector
              its sign: <u, r_text> > 0
    a       = sigmoid( w2 . relu( W1 z + b1 ) + b2 ),   z = (h[l_g] - centre) / scale       last prompt token, once
    h[l]   <- h[l] + strength * a * ||r_text[l]|| u[l]                 prefill and every decode step

The gate is fitted to 1 on harmful and 0 on benign prompts of the training split, every modality and role weighing the
same, and stops early on a fifth of the pairs that it is not fitted on. Everything random comes from the seed.

What the paper leaves open, or what we know of it at second hand only, is our reading, and a switch: which layers
(`layers`: the one selected for the text direction; the paper steers a band of middle layers), the layer that the gate
reads (`gate_layer`), whether long directions weigh more (`rows`), what counts as benign (`safe_roles`), and the gate's
width (`hidden`). A full step has the length of text's direction.

    omnisteer           all of it
    omnisteer_no_gate   a = 1: what the gate is worth
    omnisteer_text      text alone: u is text's direction, the gate has seen text only; the paper has no such row

Data: text and MEDIA of the training split, with harm labels (`omnisteer_text`: text); the layer is selected on text of
the validation split.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, DirectionError
from ..inference.edits import SiteEdit, When, Where
from ..inference.kept import direction_kept
from ..inference.streams import Streams
from ..prompts import Modality
from ..traced import gate as gates
from ..traced import write
from .base import Defence, Modalities
from .data import DefenceData
from .gate_fit import fit_gate
from .modal import require_moving, sources
from .registry import method


@dataclass(frozen=True, kw_only=True)
class OmniSteer(Defence):
    """See the module.

    Attributes:
        layers: blocks that are edited.
        vectors: (layer, d_model), one full step per edited block, towards refusal.
        gate_layer: block at which the gate reads the prompt, at most the first of `layers`.
        network: tensors of `traced.gate.learned`; empty without a gate.
        figures: what the fit found, JSON-able: per medium what it keeps of text's direction (`inference.kept`, training
            pairs), the share of R that u explains, and how the gate does on the pairs it was not fitted on.
    """

    layers: tuple[int, ...]
    vectors: Float[Tensor, "layer d_model"]
    gate_layer: int
    network: Mapping[str, Tensor]
    figures: Mapping[str, Any]

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        judge = {"memory": "prompt", "gate": gates.learned if self.network else gates.always}
        yield SiteEdit(self.gate_layer, "resid_post", gates.remember, {**judge, "condition": dict(self.network)}, "all")
        for layer, vector in zip(self.layers, self.vectors, strict=True):
            step = {"memory": "prompt", "strength": strength, "function": write.add, "tensors": {"vector": vector}}
            yield SiteEdit(layer, "resid_post", gates.recall, {**step, "first": 0, "last": None}, self.where)

    def diagnostics(self) -> dict[str, Any]:
        places = {
            "layers": list(self.layers),
            "gate_layer": self.gate_layer,
            "norm": self.vectors.norm(dim=-1).tolist(),
        }
        return {**super().diagnostics(), **places, **dict(self.figures)}


def shared_direction(
    directions: Float[Tensor, "modality layer d_model"], rows: Literal["unit", "raw"] = "unit"
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, " layer"]]:
    """The leading right vector of the modalities' directions, and the share of their squared length that it explains.

    Args:
        directions: text first: it sets the sign.
        rows: "unit" weighs every modality alike, "raw" by its length.
    """
    stacked = directions.double()
    if rows == "unit":
        stacked = stacked / stacked.norm(dim=-1, keepdim=True)
    _, singular, right = torch.linalg.svd(stacked.movedim(1, 0), full_matrices=False)
    u = right[:, 0]
    side = (u * directions[0].double()).sum(-1, keepdim=True)
    squares = singular.square()
    return torch.where(side < 0, -u, u), squares[:, 0] / squares.sum(-1)


@method(
    "omnisteer",
    sees="media",
    summary="one direction of all modalities, a learned gate",
    variants={"omnisteer_no_gate": {"gate": False}},
)
def fit_omnisteer(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    media: bool = True,
    layers: Sequence[int] | Literal["selected", "all"] = "selected",
    gate_layer: int | None = None,
    gate: bool = True,
    rows: Literal["unit", "raw"] = "unit",
    safe_roles: Sequence[Literal["benign", "near_miss"]] = ("benign",),
    hidden: int = 16,
    where: Where = "all",
    when: When = "every_step",
) -> OmniSteer:
    """Fit OmniSteer.

    Args:
        media: False fits on text alone.
        layers: "selected", "all" or numbers.
        gate_layer: None takes the first of `layers`.
        gate: False steers every row (the ablation).
        rows: "unit" or "raw" directions in the decomposition.
        safe_roles: prompts on which the gate should stay closed.
        hidden: width of the gate's hidden layer.
        where, when: positions and steps of the addition.

    Raises:
        PromptError: no training media, or a role is missing.
        DirectionError: a gate behind the layers it opens, or a modality whose two means are equal.
        DataError: a switch out of range, or too few pairs for a gate.
    """
    if rows not in ("unit", "raw") or hidden < 1:
        raise DataError("OmniSteer", f"rows={rows!r}, hidden={hidden}", "use 'unit' or 'raw', and a positive width")
    chosen = data.layers(layers)
    at = chosen[0] if gate_layer is None else data.layers([gate_layer])[0]
    if at > chosen[0]:
        raise DirectionError(
            f"fit OmniSteer with a gate at layer {at}", f"it steers from layer {chosen[0]} on", "read at or before it"
        )
    kinds = sorted({k for ks in sources(data, "modality" if media else "text", "OmniSteer").values() for k in ks})
    kinds = ["text", *(kind for kind in kinds if kind != "text")]
    found = {kind: _streams(data, kind) for kind in kinds}
    directions: dict[str, Tensor] = {
        m: s.of("harmful").double().mean(0) - s.of("benign").double().mean(0) for m, s in found.items()
    }
    require_moving(directions, "OmniSteer")
    u, explained = shared_direction(torch.stack(list(directions.values())))
    at_layer = {kind: streams.at(chosen[:1]) for kind, streams in found.items()}
    kept = {m: direction_kept(s, at_layer["text"], seed)[0] for m, s in at_layer.items() if m != "text"}
    used = [p for kind in kinds for p in data.train(kind, *dict.fromkeys(("harmful", "benign", *safe_roles)))]
    network: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    if gate:
        judged = [p for p in used if p.role in ("harmful", *safe_roles)]
        network, facts = fit_gate(judged, data.streams(judged)[:, at], hidden=hidden, seed=seed)
    step = directions["text"].norm(dim=-1, keepdim=True) * u
    return OmniSteer(
        name="omnisteer",
        layers=chosen,
        vectors=step[list(chosen)].float(),
        gate_layer=at,
        network=network,
        figures={
            "kept": {m: {name: one.to_json() for name, one in row.items()} for m, row in kept.items()},
            "explained": explained[list(chosen)].tolist(),
            "gate": facts,
        },
        when=when,
        where=where,
        switches={
            "media": media,
            "layers": layers,
            "gate_layer": gate_layer,
            "gate": gate,
            "rows": rows,
            "safe_roles": tuple(safe_roles),
            "hidden": hidden,
            "where": where,
            "when": when,
        },
        provenance=data.provenance(used),
    )


def _streams(data: DefenceData, kind: Modality) -> Streams:
    prompts = data.train(kind, "harmful", "benign")
    return Streams(prompts, data.streams(prompts))


method("omnisteer_text", sees="text", summary="text's direction, a gate learned on text")(
    partial(fit_omnisteer, media=False)
)
