"""MARS: textual refusal directions, re-centred for media, behind a gate (arXiv 2606.31876).

The paper's text fixes the parts; where it leaves them open, the reading here is ours and a switch.

    S0  mu_u, mu_s, r = mu_u - mu_s, rhat              text, at the position that emits the first generated token
    S1  delta[m] = mean_{t, neutral m} ( h(m,t) - h(t) )     random colours, clips, silence, noise; 0 for text
        z = h - delta - (mu_u + mu_s) / 2                    origin "midpoint"
        z = h - mean_{t, neutral m} h(m,t)                   origin "neutral": meaningless input is zero
    S2  p = <z, rhat>,  open if p > margin                   margin: the q-quantile of p over benign text, at least 0
    S3  d_u, d_s = distances of z to the text centroids,  w = d_s / (d_s + d_u),  p_max = 95th percentile of unsafe text
        step = 1[p > margin] min( kappa w ||r||, max(0, p_max - p) )            so that step <= p_max - p always
    S4  layer = argmax over the first 80 % of layers of the sum of three min-max normalised curves on validation text:
        consistency  mean_i cos(h_i_u - mu_s, r)
        separability AUROC of p, unsafe against safe
        safety       (5th percentile unsafe p - 95th percentile safe p) / ||r||
    S5  h[l*] <- h[l*] + step rhat                           last prompt position, prefill only

`strength` is kappa, searched up to the paper's 1. Switches: S1 recentre, origin, beside; S2 q, relu, gate; S3 mode,
beta; S4 layer; S5 when.

    mars                       all of it
    mars_neutral               origin "neutral"
    mars_no_recentring         text's centre for all
    mars_no_gate               every row is steered, up to p_max
    mars_soft, mars_target     the alternatives of S3
    mars_selected...           at the layer selected for the text direction (`selection`) instead of S4, the same
                               ablations: S4 looks at text alone and may choose a layer where media are not taken in yet

Data: TEXT of the training split (centroids, margin, p_max), text of the validation split (layer), neutral media. No
real medium.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..geometry import unit
from ..inference.edits import SiteEdit
from ..traced import gate as gates
from .base import Defence, Modalities
from .data import DefenceData
from .mars_layer import layer_scores
from .registry import method

Gate: TypeAlias = Literal["hard", "soft", "none"]
Mode: TypeAlias = Literal["distance", "target"]
Origin: TypeAlias = Literal["midpoint", "neutral"]
Moment: TypeAlias = Literal["prefill", "first_decode", "every_decode", "every_step"]

UNSAFE_QUANTILE = 0.95


@dataclass(frozen=True, kw_only=True)
class Mars(Defence):
    """A gated step at one layer.

    Attributes:
        layer: block that is edited, l*.
        unit: (d_model,) rhat.
        centres: modality to (d_model,), the origin of z: delta + midpoint of text, or the neutral mean.
        safe, unsafe: (d_model,) text centroids relative to text's own centre.
        margin, reach, norm, target: m, p_max, ||r|| and the target coordinate, in the units of the stream.
        gate, mode: see `traced.gate.mars`.
        moment: which steps are edited.
        curves: consistency, separability, safety and their sum, one value per layer; None where a layer was not tried.
        shifts: per modality, the distance of its centre from that of text ("size") and the part of it along rhat
            ("along_r"), in units of ||r||.
    """

    layer: int
    unit: Float[Tensor, "d_model"]
    centres: Mapping[str, Float[Tensor, "d_model"]]
    safe: Float[Tensor, "d_model"]
    unsafe: Float[Tensor, "d_model"]
    margin: float
    reach: float
    norm: float
    target: float
    gate: Gate
    mode: Mode
    moment: Moment
    curves: Mapping[str, Sequence[float | None]]
    shifts: Mapping[str, Mapping[str, float]]

    def parts(self, strength: Any, modality: Modalities) -> Iterator[SiteEdit]:
        tensors = {
            "unit": self.unit,
            "centre": self._pick(self.centres, modality, "centres"),
            "safe": self.safe,
            "unsafe": self.unsafe,
            "margin": self.margin,
            "reach": self.reach,
            "norm": self.norm,
            "target": self.target,
            "gate": self.gate,
            "mode": self.mode,
        }
        if self.moment in ("prefill", "every_step"):
            tensors["strength"] = strength
            yield SiteEdit(self.layer, "resid_post", gates.mars, tensors, self.where)
            return
        note = {"memory": "steps", "gate": gates.always, "condition": {}}
        yield SiteEdit(self.layer, "resid_post", gates.remember, note, "all")
        step = {
            "memory": "steps",
            "strength": strength,
            "function": gates.mars,
            "tensors": tensors,
            "first": 1,
            "last": 1 if self.moment == "first_decode" else None,
        }
        yield SiteEdit(self.layer, "resid_post", gates.recall, step, self.where)

    def coordinates(
        self, x: Float[Tensor, "item d_model"], modality: Modalities = "text"
    ) -> tuple[Float[Tensor, " item"], Float[Tensor, " item"]]:
        """The coordinate p of activations of the layer, and the step MARS would take there.

        Args:
            x: `resid_post` of the layer at the last prompt token.
            modality: of the items, one or one each.
        """
        centre = self._pick(self.centres, modality, "centres").reshape(-1, x.shape[-1])
        edit = self.edit(modality=modality)
        assert edit is not None
        tensors = dict(edit.parts[-1].tensors)
        tensors = {**tensors.get("tensors", tensors), "strength": self.strength}
        moved = gates.mars(x.unsqueeze(1), **tensors).squeeze(1)
        return (x - centre) @ self.unit, (moved - x) @ self.unit

    def diagnostics(self) -> dict[str, Any]:
        return {
            **super().diagnostics(),
            "layers": [self.layer],
            "margin": self.margin,
            "reach": self.reach,
            "norm": [self.norm],
            "curves": {name: list(values) for name, values in self.curves.items()},
            "shifts": {m: dict(values) for m, values in self.shifts.items()},
        }


@method(
    "mars",
    sees="neutral media",
    summary="a gated step along the re-centred text direction",
    variants={
        "mars_neutral": {"origin": "neutral"},
        "mars_no_recentring": {"recentre": False},
        "mars_no_gate": {"gate": "none"},
        "mars_soft": {"gate": "soft"},
        "mars_target": {"mode": "target"},
        "mars_selected": {"layer": "selected"},
        "mars_selected_no_recentring": {"layer": "selected", "recentre": False},
        "mars_selected_no_gate": {"layer": "selected", "gate": "none"},
    },
)
def fit_mars(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    recentre: bool = True,
    origin: Origin = "midpoint",
    beside: Literal["text", "instructions"] | None = None,
    q: float | None = 0.95,
    relu: bool = True,
    gate: Gate = "hard",
    mode: Mode = "distance",
    beta: float = 0.0,
    layer: int | Literal["selected"] | None = None,
    when: Moment = "prefill",
    safe_roles: Sequence[Literal["benign", "near_miss"]] = ("benign",),
    n_texts: int = 16,
    n_media: int = 4,
    neutral: Mapping[str, Sequence[Any]] | None = None,
) -> Mars:
    """Fit MARS.

    Args:
        recentre: S1; False uses text's centre in every modality.
        origin: "midpoint": z = h - delta - midpoint of the text centroids; "neutral": z = h - mean of h over the
            neutral inputs themselves, so that meaningless input is the zero of p.
        beside: texts that accompany the neutral media, see `DefenceData.shift`; None: "text" for "midpoint" (a medium
            beside a complete request), "instructions" for "neutral" (beside the wording that real media come with).
        q: quantile of benign text that sets the margin; None puts it at the origin (a plain ReLU gate).
        relu: the margin is at least 0, so that only rows on the refusal side of the origin are steered; False takes the
            quantile as it is.
        gate: "hard", "soft" (opens gradually), or "none" (the ablation: every row, up to p_max).
        mode: "distance" (S3), or "target": step = strength max(0, mean unsafe p + beta sd - p), in the trust region.
        beta: of the target mode.
        layer: None selects it (S4); "selected" takes that of the text direction, as `addition` does.
        when: "prefill" (the position that emits the first token), "first_decode" (the pass that reads the first token),
            "every_decode" or "every_step".
        safe_roles: which text counts as safe for the margin and for S4; the centroid mu_s is that of benign text.
        n_texts, n_media: of S1, see `DefenceData.shift`.
        neutral: neutral media of your own, by modality.

    Raises:
        DataError: a switch out of range, activations that do not differ, or a margin beyond p_max.
        PromptError: a role is missing, or the layer does not exist.
    """
    _check_switches(origin, q, gate, mode, when, safe_roles)
    found = data.candidates()
    mu_u, mu_s, r = found.harmful[0], found.benign[0], found.vectors[0]
    curves, best = layer_scores(data, mu_s, r, safe_roles)
    chosen = best if layer is None else data.layers(layer if isinstance(layer, str) else [layer])[0]
    u, norm = unit(r[chosen]), float(r[chosen].norm())
    middle = (mu_u[chosen] + mu_s[chosen]) / 2

    kinds = data.shown
    centres: dict[str, Tensor] = {"text": middle}
    shifts: dict[str, dict[str, float]] = {}
    for kind in kinds:
        own = None if neutral is None else neutral.get(kind)
        texts = beside or ("text" if origin == "midpoint" else "instructions")
        found_shift = data.shift(kind, beside=texts, n_texts=n_texts, n_media=n_media, media=own)
        delta, mean = (x[chosen] for x in found_shift)
        centre = mean if origin == "neutral" else middle + delta
        centres[kind] = centre if recentre else middle
        away = centre - middle
        shifts[kind] = {"size": float(away.norm()) / norm, "along_r": float(away @ u) / norm}

    unsafe = (data.streams(data.train("text", "harmful"))[:, chosen] - middle) @ u
    safe = (data.streams(data.train("text", *safe_roles))[:, chosen] - middle) @ u
    reach = float(torch.quantile(unsafe, UNSAFE_QUANTILE))
    margin = 0.0 if q is None else float(torch.quantile(safe, q))
    margin = max(0.0, margin) if relu else margin
    if margin >= reach and gate != "none":
        raise DataError(
            f"MARS at layer {chosen}",
            f"the margin of safe text ({margin:.3g}) lies beyond the trust region of unsafe text ({reach:.3g})",
            "choose another layer or a smaller q",
        )
    return Mars(
        name="mars",
        # A gate that stays closed on every priced prompt makes any kappa free; the paper's own full step is the end.
        bounds=(0.0, 1.0),
        layer=chosen,
        unit=u,
        centres=centres,
        safe=mu_s[chosen] - middle,
        unsafe=mu_u[chosen] - middle,
        margin=margin,
        reach=reach,
        norm=norm,
        target=float(unsafe.mean() + beta * unsafe.std()),
        gate=gate,
        mode=mode,
        moment=when,
        curves=curves,
        shifts=shifts,
        when="prefill" if when == "prefill" else "every_step",
        switches={
            "recentre": recentre,
            "origin": origin,
            "beside": beside,
            "q": q,
            "relu": relu,
            "gate": gate,
            "mode": mode,
            "beta": beta,
            "layer": layer,
            "when": when,
            "safe_roles": tuple(safe_roles),
            "n_texts": n_texts,
            "n_media": n_media,
        },
        provenance=data.provenance(data.train("text", *{"harmful", "benign", *safe_roles})),
    )


def _check_switches(origin: str, q: float | None, gate: str, mode: str, when: str, safe_roles: Sequence[str]) -> None:
    known = {
        "origin": (origin, ("midpoint", "neutral")),
        "gate": (gate, ("hard", "soft", "none")),
        "mode": (mode, ("distance", "target")),
        "when": (when, ("prefill", "first_decode", "every_decode", "every_step")),
    }
    for name, (value, choices) in known.items():
        if value not in choices:
            raise DataError(f"MARS with {name}={value!r}", "no such choice", f"use one of {', '.join(choices)}")
    if q is not None and not 0 <= q <= 1:
        raise DataError("MARS", f"q = {q}", "use a quantile between 0 and 1, or None")
    if not safe_roles or set(safe_roles) - {"benign", "near_miss"}:
        raise DataError("MARS", f"safe_roles = {tuple(safe_roles)}", "use 'benign', 'near_miss' or both")
