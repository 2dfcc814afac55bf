"""What `transfer` found: labelled tables with intervals, saved without pickle, shown without computing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import estimate
from ..errors import DataError
from ..models.provenance import Artefact
from ..report.shown import Shown
from ..statistics import Estimate

BY_LAYER = (
    "cosine",
    "cosine_fitted",
    "auroc",
    "auroc_near_miss",
    "auroc_comprehended",
    "induced_score",
    "ablated_score",
)
AT_LAYER = ("induced", "restored", "ablated")
MEASURES = (*BY_LAYER, *AT_LAYER)
TESTED = ("cosine", "auroc", "induced_score", "ablated_score")
RANDOM = "random"


@dataclass(frozen=True)
class ModalityGap(Shown):
    """The gap between each modality and the reference; the measures are those of `transfer.gap`.

    Attributes:
        modalities: rows of the tables, the reference among them.
        reference: what the others are compared with, usually text.
        layers: columns of the tables.
        layer: the layer the report speaks about.
        values: measure to (modality, layer, 4): value, low, high, n; NaN where not measured.
        refusal: "ungated" and "gated" to (modality, 4): refusal of the reference minus refusal of the modality.
        dropped: per modality, harmful items the gate left out; None without read-back questions.
    """

    modalities: tuple[str, ...]
    reference: str
    layers: tuple[int, ...]
    layer: int
    values: Mapping[str, Float[Tensor, "modality layer 4"]]
    refusal: Mapping[str, Float[Tensor, "modality 4"]]
    dropped: tuple[int | None, ...]

    def estimate(self, measure: str, modality: str, layer: int | None = None) -> Estimate:
        """One figure, at the report's layer by default.

        Raises:
            DataError: no such measure, modality or layer.
        """
        _known("measure", measure, (*self.values, *self.refusal))
        _known("modality", modality, self.modalities)
        m = self.modalities.index(modality)
        if measure in self.refusal:
            return estimate(self.refusal[measure][m])
        at = self.layer if layer is None else layer
        _known("layer", at, self.layers)
        return estimate(self.values[measure][m, self.layers.index(at)])

    def to_json(self) -> dict[str, Any]:
        """The section `modality_gap` of results.json."""
        found: dict[str, Any] = {}
        for m, name in enumerate(self.modalities):
            rows = [
                {"layer": layer, **{key: estimate(table[m, k]).to_json() for key, table in self.values.items()}}
                for k, layer in enumerate(self.layers)
            ]
            gap: dict[str, Any] = {key: estimate(table[m]).to_json() for key, table in self.refusal.items()}
            found[name] = {
                "reference": self.reference,
                "layer": self.layer,
                **rows[self.layers.index(self.layer)],
                "refusal_gap": {**gap, "dropped": self.dropped[m]},
                "by_layer": rows,
            }
        return found

    def finding(self) -> str:
        gaps = {m: self.estimate("ungated", m) for m in self.modalities if m != self.reference and self.refusal}
        said = "; ".join(f"{m} {gap}" for m, gap in gaps.items())
        return f"layer {self.layer}; refusal of {self.reference} minus that of {said or 'nothing else'}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per modality, layer and measure."""
        for key, table in self.values.items():
            for m, name in enumerate(self.modalities):
                for k, layer in enumerate(self.layers):
                    yield {"modality": name, "layer": layer, "measure": key, **estimate(table[m, k]).to_json()}

    def drawn(self) -> Sequence[str]:
        from ..report.figures.gap import gap_figure

        return [gap_figure({"modality_gap": self.to_json()})]


@dataclass(frozen=True)
class TransferReport(Artefact):
    """Source modality x target modality: what one modality's refusal direction is in another.

    Attributes:
        sources, targets: labels of the tables' first two axes; the source axis ends with a row "random", the control
            (for AUROC: mean and central 95 % of random directions).
        layers: labels of the third axis.
        layer: where the rates were generated and the tests made.
        values: measure to (source + 1, target, layer, 4): value, low, high, n; NaN where not measured. Scores are in
            nats, rates and their changes in 0 .. 1, positive is more refusal.
        p, p_holm: tested measure to (source, target) two-sided p-values at `layer`, plain and Holm-adjusted over all
            pairs and measures; NaN where not tested.
        directions: (source, layer, d_model) as fitted, towards refusal.
        gap: the modality gap, if there is a reference among the targets.
        settings: operator, length, strength, numbers of pairs and draws, splits, seed.
        warnings: what to know before quoting a figure.
        provenance: model, data and versions.
    """

    FORMAT: ClassVar[str] = "refusal_plugin.transfer.v2"
    NAN: ClassVar[bool] = True

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    layers: tuple[int, ...]
    layer: int
    values: Mapping[str, Float[Tensor, "arm target layer 4"]]
    p: Mapping[str, Float[Tensor, "source target"]]
    p_holm: Mapping[str, Float[Tensor, "source target"]]
    directions: Float[Tensor, "source layer d_model"]
    gap: ModalityGap | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self, measure: str, source: str, target: str, layer: int | None = None) -> Estimate:
        """One figure, at the report's layer by default; `source` may be "random".

        Raises:
            DataError: no such measure, modality or layer.
        """
        at = self.layer if layer is None else layer
        arms = (*self.sources, RANDOM)
        for what, value, known in (
            ("measure", measure, tuple(self.values)),
            ("source", source, arms),
            ("target", target, self.targets),
            ("layer", at, self.layers),
        ):
            _known(what, value, known)
        return estimate(self.values[measure][arms.index(source), self.targets.index(target), self.layers.index(at)])

    def problem(self) -> str:
        """What is wrong with a file's content."""
        shape = (len(self.sources) + 1, len(self.targets), len(self.layers), 4)
        wrong = [key for key, table in self.values.items() if tuple(table.shape) != shape]
        tested = [*self.p.items(), *self.p_holm.items()]
        wrong += [key for key, table in tested if (len(table) + 1, table.shape[1]) != shape[:2]]
        if wrong or len(self.directions) != len(self.sources) or self.layer not in self.layers:
            return f"its labels do not fit its tables ({wrong[0] if wrong else 'directions or layer'})"
        return ""

    def marked(self, measure: str, source: str, target: str, alpha: float = 0.05) -> bool:
        """Whether a figure differs from what a random direction gives, after Holm's correction."""
        _known("tested measure", measure, tuple(self.p_holm))
        found = float(self.p_holm[measure][self.sources.index(source), self.targets.index(target)])
        return found <= alpha

    def _cell(self, i: int, j: int) -> dict[str, Any]:
        k = self.layers.index(self.layer)
        random = {
            key: estimate(self.values[key][-1, j, k]).to_json()
            for key in ("auroc", "induced_score", "ablated_score", *AT_LAYER)
        }
        return {
            "layer": self.layer,
            **{key: estimate(self.values[key][i, j, k]).to_json() for key in MEASURES},
            "random": random,
            "p_holm": {key: _number(table[i, j]) for key, table in self.p_holm.items()},
            "by_layer": {
                key: [
                    {"layer": layer, **estimate(self.values[key][i, j, n]).to_json()}
                    for n, layer in enumerate(self.layers)
                ]
                for key in BY_LAYER
            },
            "random_by_layer": {
                key: [
                    {"layer": layer, **estimate(self.values[key][-1, j, n]).to_json()}
                    for n, layer in enumerate(self.layers)
                ]
                for key in ("auroc", "induced_score", "ablated_score")
            },
        }

    def to_json(self) -> dict[str, Any]:
        """The section `transfer` of results.json: source to target to figures."""
        return {s: {t: self._cell(i, j) for j, t in enumerate(self.targets)} for i, s in enumerate(self.sources)}

    def finding(self) -> str:
        one = self.sources[0]
        there = [t for t in self.targets if t != one]
        said = [f"{t} {self.estimate('restored', one, t)}, {self.estimate('restored', RANDOM, t)}" for t in there]
        head = f"{', '.join(self.sources)} -> {', '.join(self.targets)}; layer {self.layer}"
        return "\n".join([head, *(f"refusal restored by {one}, by a random direction: {line}" for line in said)])

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per measure, source, target and layer; "random" is a source."""
        for key, table in self.values.items():
            for i, source in enumerate((*self.sources, RANDOM)):
                for j, target in enumerate(self.targets):
                    for k, layer in enumerate(self.layers):
                        at = {"measure": key, "source": source, "target": target, "layer": layer}
                        yield {**at, **estimate(table[i, j, k]).to_json()}

    def drawn(self) -> Sequence[str]:
        from ..report.figures.transfer import transfer_curves, transfer_matrix

        shown = {"transfer": self.to_json()}
        return [transfer_matrix(shown), transfer_curves(shown)]


def _known(what: str, value: object, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise DataError(f"{what} {value!r}", "not in this report", f"use one of {', '.join(map(str, known))}")


def _number(found: Tensor) -> float | None:
    value = float(found)
    return None if not torch.isfinite(found) else value
