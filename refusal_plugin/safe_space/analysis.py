"""What in the safe space protects benign answers: every modality's space, and what it does to one refusal direction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..contrasts import Contrast, Fitted, empty, estimate, product, ratio, row
from ..errors import PromptError
from ..evaluation.refusal_tokens import refusal_tokens
from ..inference.activations import known_layers
from ..inference.streams import SAFE, Streams, collect_streams, need_disjoint, some_pairs
from ..models.provenance import Artefact, provenance
from ..progress import Progress, track
from ..prompts import EVERY_MODALITY, Prompt, PromptSet
from ..statistics import resampled_groups
from .angles import Overlaps, overlaps
from .space import K, SafeSpace
from .sweep import KS, STRENGTHS, sweep


@dataclass(frozen=True)
class SafeSpaceReport(Artefact):
    """The safe spaces of several modalities against one direction.

    Attributes:
        spaces: modality to its space, of all layers, with the largest k that was asked for.
        layer: where the direction acts.
        k: the dimension the report speaks about.
        direction: (layer, d_model), the direction of every layer, towards refusal.
        inside: modality to (layer, k, 4): share of the direction's squared length inside the first k, freed from the
            noise of fitting it; value, low, high, n.
        overlaps: agreement of the spaces.
        sweeps: modality to the records of `sweep`.
        warnings: what to know before quoting a figure.
        provenance: model, data and versions.
    """

    FORMAT: ClassVar[str] = "refusal_plugin.safe_space_report.v2"
    NAN: ClassVar[bool] = True

    spaces: Mapping[str, SafeSpace]
    layer: int
    k: int
    direction: Float[Tensor, "layer d_model"]
    inside: Mapping[str, Float[Tensor, "layer k 4"]]
    overlaps: Overlaps
    sweeps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """In the order of the tables."""
        return tuple(self.spaces)

    def problem(self) -> str:
        """What is wrong with a file's content."""
        if set(self.spaces) != set(self.inside) or set(self.spaces) != set(self.overlaps.modalities):
            return "its spaces, shares and angles are of different modalities"
        wrong = [name for name, space in self.spaces.items() if self.layer not in space.layers or space.problem()]
        return f"its space of {wrong[0]} has no layer {self.layer}" if wrong else "" if self.spaces else "no space"

    def to_json(self) -> dict[str, Any]:
        """The section `safe_space` of results.json."""
        at = next(iter(self.spaces.values())).layers.index(self.layer)
        found: dict[str, Any] = {}
        for name, space in self.spaces.items():
            k = min(self.k, space.k)
            share = self.inside[name]
            found[name] = {
                "n": space.n,
                "k": k,
                "explained": [round(float(v), 6) for v in space.explained[at]],
                "share_inside": [{"k": i + 1, **estimate(share[at, i]).to_json()} for i in range(share.shape[1])],
                "share_by_layer": [
                    {"layer": layer, **estimate(share[n, k - 1]).to_json()} for n, layer in enumerate(space.layers)
                ],
                "chance": k / self.direction.shape[-1],
                "remainder": float(space.first(k).remainder(self.direction)[at]),
                "sweep": [dict(record) for record in self.sweeps.get(name, ())],
                "warnings": list(space.first(k).check(self.direction)),
            }
        o = self.overlaps
        pairs = {
            a: {
                b: {
                    "overlap": o.estimate(a, b, at).to_json(),
                    "degrees": [round(float(v), 3) for v in o.angles[i, j].rad2deg()],
                }
                for j, b in enumerate(o.modalities)
            }
            for i, a in enumerate(o.modalities)
        }
        mean, low, high = (x.tolist() for x in o.null_angles.rad2deg())
        null = [{"value": v, "low": lo, "high": hi} for v, lo, hi in zip(mean, low, high, strict=True)]
        return {
            "layer": self.layer,
            "k": self.k,
            "modalities": found,
            "angles": {"k": o.k, "pairs": pairs, "random": null, "chance": o.chance},
            "warnings": list(self.warnings),
        }

    def finding(self) -> str:
        shown = self.to_json()["modalities"]
        lines = [f"{m}: {float(one['share_inside'][one['k'] - 1]['value']):.2f} of the direction inside "
                 f"(chance {one['chance']:.2f})" for m, one in shown.items()]  # fmt: skip
        return "\n".join([f"layer {self.layer}, k {self.k}", *lines])

    def records(self) -> Iterable[Mapping[str, Any]]:
        """Share of the direction inside, one row per modality, layer and k."""
        for name, space in self.spaces.items():
            for n, layer in enumerate(space.layers):
                for k, share in enumerate(space.explained[n].tolist()):
                    at = {"modality": name, "layer": layer, "k": k + 1, "explained": share}
                    yield {**at, **estimate(self.inside[name][n, k]).to_json()}

    def drawn(self) -> Sequence[str]:
        from ..report.figures.safe_space import angles_figure, space_figure

        shown = {"safe_space": self.to_json()}
        return [space_figure(shown), angles_figure(shown)]


def analyse_safe_space(
    model: Any,
    prompts: PromptSet,
    *,
    layer: int,
    source: str = "text",
    strength: float = 1.0,
    k: int = K,
    ks: Sequence[int] = KS,
    strengths: Sequence[float] = STRENGTHS,
    refusal_ids: Int[Tensor, " r"] | None = None,
    pairs: int = 24,
    streams: Mapping[str, Streams] | None = None,
    seed: int = 0,
    remote: bool | str = False,
    progress: Progress = None,
) -> SafeSpaceReport:
    """Safe spaces of every modality with training items, and what they hold of one modality's refusal direction.

    Args:
        model: a loaded model.
        prompts: roles and splits; spaces and direction are fitted on `train`, effects measured on `test`.
        layer: where the direction acts in the sweeps.
        source: the modality whose direction is examined.
        strength: its strength in the sweeps, in multiples of the vector.
        k: the dimension the report speaks about (10 in SARSteer).
        ks, strengths: what is swept; see `sweep`. Spaces are fitted with the largest of ks.
        refusal_ids: the model's refusal tokens; None derives them from training text.
        pairs: pair groups of each modality in the sweeps.
        streams: fit streams of modalities that were collected already.
        seed: of halvings, bootstrap and controls.
        remote: run on NDIF: one request each for streams, refusal tokens and sweeps, where they are not given; several
            where one would be too large.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: the source lacks harmful or benign training items, or a pair lies in fit and test part.
        DirectionError: no such layer.
        DataError: too few safe items to fit a space.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    known_layers(model, [layer])
    prompts = PromptSet.of(prompts, "safe spaces").assigned()
    fit_part, test_part = (prompts.filter(split=name) for name in ("train", "test"))
    need_disjoint(fit_part, test_part, "safe spaces")
    with track(3, "safe spaces", progress) as advance:
        parts: dict[str, PromptSet] = {m: fit_part.filter(modality=m) for m in fit_part.modalities}
        parts = {m: part for m, part in parts.items() if m not in (streams or {})}
        parts = {m: part for m, part in parts.items() if len(part.filter(role=SAFE)) >= 4}
        given: dict[str, Streams] = dict(streams or {})
        given |= collect_streams(model, parts, remote=remote)
        advance(1)
        if source not in given or not given[source].rows("harmful") or not given[source].rows("benign"):
            raise PromptError(
                f"the refusal direction of {source}", "no harmful and benign items in split 'train'", "add some"
            )
        names: list[str] = [m for m in EVERY_MODALITY if m in given]
        if refusal_ids is None:
            text = fit_part.filter(modality="text")
            refusal_ids = refusal_tokens(model, text, remote=remote, progress=False).ids
        advance(1)
        direction = given[source].direction()
        spaces = {name: SafeSpace.of_streams(given[name], max(k, *ks), compared=k) for name in names}
        inside = {name: share_inside(direction, spaces[name], len(given[source].prompts), seed) for name in names}
        agree = overlaps(
            {name: given[name].of(*SAFE) for name in names},
            {name: given[name].pairs(*SAFE) for name in names},
            layer, k=k, seed=seed,
        )  # fmt: skip
        sweeps = sweep(
            model, {name: spaces[name].basis[layer] for name in names}, strength * direction.vector[layer].float(),
            layer, {m: _items(test_part.filter(modality=m), pairs) for m in EVERY_MODALITY if m in given}, refusal_ids,
            k=k, ks=ks, strengths=strengths, seed=seed, remote=remote,
        )  # fmt: skip
        advance(1)
    by_layer = direction.vector.float()
    said = [f"{name}: {w}" for name in names for w in spaces[name].first(min(k, spaces[name].k)).check(by_layer)]
    used = PromptSet(p for name in names for p in given[name].prompts)
    return SafeSpaceReport(
        spaces, layer, k, by_layer, inside, agree, sweeps, tuple(said), provenance(model, used)
    )  # fmt: skip


def share_inside(direction: Contrast, space: SafeSpace, n: int, seed: int) -> Float[Tensor, "layer k 4"]:
    """Share of a direction's squared length inside the first 1, 2, ... k directions, freed from fitting noise."""
    groups = int(direction.plus.counts.shape[0])
    found = empty(len(space.layers), space.k)
    weights = torch.from_numpy(resampled_groups(groups, rng=np.random.default_rng(seed), resamples=500))
    for layer in range(len(space.layers)):
        at = Fitted.of(direction, weights, layer)
        whole = product(at, at, weights)
        turned = at.through(space.basis[layer])
        noise = turned.errors.square().sum(0).cumsum(0)
        values = turned.vector.square().cumsum(0) - noise
        draws = turned.draws.square().cumsum(1) - weights.square() @ turned.errors.square().cumsum(1)
        for k in range(space.k):
            found[layer, k] = row(ratio((float(values[k]), draws[:, k]), whole, groups, n))
    return found


def _items(prompts: PromptSet, pairs: int) -> PromptSet:
    """Harmful and benign items of some pairs, and the near misses of the same pairs, one of each."""
    chosen = some_pairs(prompts, pairs)
    groups = {p.pair for p in chosen}
    near: dict[str, Prompt] = {}
    for p in prompts:
        if p.role == "near_miss" and p.pair in groups:
            near.setdefault(p.pair, p)
    return chosen + PromptSet(near.values())
