"""How far along the refusal direction the stream has come, layer by layer.

    p[l] = < h[l] - benign[l], v[l] > / <v[l], v[l]>        v[l] = harmful[l] - benign[l], means of text at layer l

so that 0 is mean benign and 1 mean harmful text in EVERY layer, each under that layer's own direction: it shows where
the modalities part, not how large the stream is. Read at the position where the direction was read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..directions.direction import Direction
from ..inference.activations import collect_activations
from ..prompts import Prompt
from ..report.shown import Shown
from .intervals import Intervals, mean_intervals
from .labels import Labels, chosen_prompts


@dataclass(frozen=True)
class LayerProjection(Shown):
    """Projections behind every layer.

    Attributes:
        values: 0 = benign text, 1 = harmful text of that layer.
        labels: names and groups of the prompts.
        layer: the direction's own.
    """

    values: Float[Tensor, "prompt layer"]
    labels: Labels
    layer: int

    def roles(self, modality: str) -> tuple[str, ...]:
        """The roles that occur in a modality."""
        pairs = set(zip(self.labels.roles, self.labels.modalities, strict=True))
        return tuple(role for role in ("harmful", "near_miss", "benign") if (role, modality) in pairs)

    def mean(self, role: str, modality: str, *, seed: int = 0) -> Intervals:
        """Mean per layer over the prompts of a role, with intervals over pair groups; DataError if there are none."""
        rows = self.labels.rows(role, modality)
        return mean_intervals(self.values[rows], [self.labels.pairs[row] for row in rows], seed=seed)

    def finding(self) -> str:
        last = {m: self.mean("harmful", m).value for m in self.labels.kinds() if "harmful" in self.roles(m)}
        harm = ", ".join(f"{m} {float(value[self.layer]):.2f}" for m, value in last.items())
        return f"{len(self.labels)} prompts, {self.values.shape[1]} layers; harm at layer {self.layer}: {harm or '-'}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per prompt and layer."""
        for i, row in enumerate(self.values.tolist()):
            who = {key: getattr(self.labels, key)[i] for key in ("ids", "roles", "modalities")}
            yield from ({**who, "layer": n, "projection": x} for n, x in enumerate(row))

    def drawn(self) -> Sequence[str]:
        from ..report.figures.projection import layers_figure

        sections = {
            m: {"projection_by_layer": {role: self.mean(role, m).records() for role in self.roles(m)}}
            for m in self.labels.kinds()
        }
        return [layers_figure({"modalities": sections, "direction": {"layer": self.layer}})]


def project_layers(
    model: Any, direction: Direction, prompts: Iterable[Prompt | str], *, remote: Any = False
) -> LayerProjection:
    """The refusal coordinate of some prompts behind every layer.

    Args:
        model: a loaded model.
        direction: its means of harmful and benign text are the yardstick of every layer.
        prompts: of any modality the model takes.
        remote: run on NDIF.

    Raises:
        PromptError: 0 prompts, or one the model does not take.
        ModelError: the model's stream is not one vector per token.
    """
    chosen = chosen_prompts(prompts, "project layers")
    stream = collect_activations(model, chosen, positions=(direction.position,), remote=remote, progress=False).values[
        :, 0
    ]
    vectors = direction.harmful - direction.benign
    along = ((stream - direction.benign) * vectors).sum(-1) / vectors.square().sum(-1)
    return LayerProjection(along, Labels.of(chosen), direction.layer)
