"""What `transfer` found: labelled tables with intervals, saved without pickle, shown without computing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import estimate
from ..errors import DataError
from ..models.provenance import Artefact
from ..statistics import Estimate
from ..storage import frame

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
class ModalityGap:
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

    def to_frame(self) -> Any:
        """One row per modality, layer and measure, as a pandas DataFrame.

        Raises:
            OptionalDependencyError: pandas is not installed.
        """
        return frame(
            {"modality": name, "layer": layer, "measure": key, **estimate(table[m, k]).to_json()}
            for key, table in self.values.items()
            for m, name in enumerate(self.modalities)
            for k, layer in enumerate(self.layers)
        )

    def _repr_html_(self) -> str:
        from ..report import frame as framed
        from ..report.figures.gap import gap_figure

        return str(framed("Modality gap", gap_figure({"modality_gap": self.to_json()})))

    def __repr__(self) -> str:
        kinds = ", ".join(m for m in self.modalities if m != self.reference)
        return f"ModalityGap({kinds} against {self.reference}; layer {self.layer})"


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

    def to_frame(self) -> Any:
        """One row per measure, source, target and layer, as a pandas DataFrame; "random" is a source.

        Raises:
            OptionalDependencyError: pandas is not installed.
        """
        return frame(
            {
                "measure": key,
                "source": source,
                "target": target,
                "layer": layer,
                **estimate(table[i, j, k]).to_json(),
            }
            for key, table in self.values.items()
            for i, source in enumerate((*self.sources, RANDOM))
            for j, target in enumerate(self.targets)
            for k, layer in enumerate(self.layers)
        )

    def _repr_html_(self) -> str:
        from ..report import frame as framed
        from ..report.figures.transfer import transfer_curves, transfer_matrix

        shown = {"transfer": self.to_json()}
        return str(framed("Transfer", transfer_matrix(shown), transfer_curves(shown), note=" ".join(self.warnings)))

    def __repr__(self) -> str:
        return f"TransferReport({', '.join(self.sources)} -> {', '.join(self.targets)}; layer {self.layer})"


def _known(what: str, value: object, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise DataError(f"{what} {value!r}", "not in this report", f"use one of {', '.join(map(str, known))}")


def _number(found: Tensor) -> float | None:
    value = float(found)
    return None if not torch.isfinite(found) else value
