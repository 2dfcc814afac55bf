"""The result of a head attribution: contributions prompt by prompt, their contrast, ranking, and their file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, DirectionError
from ..models.provenance import Artefact
from .intervals import Intervals, difference_intervals
from .labels import Labels


@dataclass(frozen=True)
class HeadRow:
    """One head in a ranking.

    Attributes:
        layer, head: which.
        modality: of the prompts.
        harmful, benign: mean direct contribution, units of the stream (or nats of logit), positive towards refusal.
        contrast: harmful minus benign, with its 95 % interval `low`, `high` over pair groups.
    """

    layer: int
    head: int
    modality: str
    harmful: float
    benign: float
    contrast: float
    low: float
    high: float


@dataclass(frozen=True)
class HeadAttribution(Artefact):
    """Direct contributions to the stream along directions, prompt by prompt.

    Attributes:
        heads: what every head writes; zero behind the direction's layer.
        bias: what the biases behind the heads write, per layer.
        mlp: what the MLPs write, per layer.
        embedding: the stream before the first layer, along the direction.
        constant: what does not depend on a layer (biases of the final norm and of the output head, for logits).
        remainder: total minus everything else: what the model adds in other ways.
        total: the stream behind the direction's layer, along the direction.
        labels: names and groups of the prompts.
        names, layers: of the directions, and the layer behind which each is read.
        norms: length of each direction before it was made one; contributions over it are in units of the
            harmful-benign difference of the text it was fitted on.
        model: name of the model.
        unit: of the contributions: "stream", or "logit" (nats).
    """

    FORMAT: ClassVar[str] = "refusal_plugin.heads.v1"

    heads: Float[Tensor, "prompt layer head direction"]
    bias: Float[Tensor, "prompt layer direction"]
    mlp: Float[Tensor, "prompt layer direction"]
    embedding: Float[Tensor, "prompt direction"]
    constant: Float[Tensor, "prompt direction"]
    remainder: Float[Tensor, "prompt direction"]
    total: Float[Tensor, "prompt direction"]
    labels: Labels
    names: tuple[str, ...]
    layers: tuple[int, ...]
    norms: Float[Tensor, " direction"]
    model: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "stream"

    @property
    def conservation_error(self) -> float:
        """Largest remainder, relative to the largest sum of the sizes of all components of a prompt."""
        sizes = sum(x.abs().flatten(1, -2).sum(1) for x in (self.heads, self.bias, self.mlp))
        assert isinstance(sizes, Tensor)
        sizes = sizes + self.embedding.abs() + self.constant.abs()
        return float(self.remainder.abs().max() / sizes.max().clamp_min(1e-30))

    def direction(self, name: str | None = None) -> int:
        """Index of a direction by name; the first without one.

        Raises:
            DirectionError: no such direction.
        """
        if name is None:
            return 0
        if name not in self.names:
            raise DirectionError(f"heads along {name!r}", f"there is {', '.join(self.names)}", "use one of these")
        return self.names.index(name)

    def whole(self, modality: str, name: str | None = None) -> float:
        """What pictures call 100 %: the length of the direction, or how far harmful and benign logits lie apart."""
        at = self.direction(name)
        if self.unit == "stream":
            return float(self.norms[at])
        bad, good = (self.total[self.labels.rows(role, modality), at].mean() for role in ("harmful", "benign"))
        return float((bad - good).abs())

    def mean(self, role: str, modality: str | None = None, name: str | None = None) -> Float[Tensor, "layer head"]:
        """Mean contribution of every head over the prompts of a role."""
        return self.heads[self.labels.rows(role, modality), ..., self.direction(name)].mean(0)

    def contrast(
        self,
        modality: str | None = None,
        name: str | None = None,
        *,
        against: str | tuple[str, ...] = "benign",
        seed: int = 0,
    ) -> Intervals:
        """Harmful minus `against` for every head, with intervals over pair groups: (layer, head).

        Raises:
            DataError: one of the two groups is empty.
        """
        bad, good = self.labels.rows("harmful", modality), self.labels.rows(against, modality)
        x = self.heads[..., self.direction(name)]
        pairs = self.labels.pairs
        return difference_intervals(x[bad], [pairs[i] for i in bad], x[good], [pairs[i] for i in good], seed=seed)

    def top(
        self, k: int = 10, modality: str | None = None, name: str | None = None, *, seed: int = 0
    ) -> tuple[HeadRow, ...]:
        """The `k` heads with the largest contrast towards refusal, best first.

        Raises:
            DataError: k < 1, or no harmful or no benign prompts.
        """
        if k < 1:
            raise DataError("rank heads", f"k = {k}", "ask for at least 1")
        found = self.contrast(modality, name, seed=seed)
        harmful, benign = self.mean("harmful", modality, name), self.mean("benign", modality, name)
        n_heads, depth = found.value.shape[1], self.layers[self.direction(name)] + 1
        order = found.value[:depth].flatten().argsort(descending=True, stable=True)[:k].tolist()
        rows = []
        for place in order:
            at = (place // n_heads, place % n_heads)
            values = (harmful[at], benign[at], found.value[at], found.low[at], found.high[at])
            rows.append(HeadRow(at[0], at[1], modality or "all", *(float(v) for v in values)))
        return tuple(rows)

    def problem(self) -> str:
        """What is wrong with a file's content."""
        prompts, depth, _, n = self.heads.shape
        if {len(self.names), len(self.layers)} != {n} or any(layer not in range(depth) for layer in self.layers):
            return f"{len(self.names)} directions at layers {list(self.layers)} for {n} of {depth} layers"
        kept = vars(self.labels).values()
        return "" if {len(part) for part in kept} == {prompts} else f"its labels are not those of {prompts} prompts"

    def finding(self) -> str:
        n, layers, heads, _ = self.heads.shape
        said = f"{n} prompts, {layers} layers x {heads} heads, along {', '.join(self.names)}"
        best = [f"{m} L{row.layer} H{row.head}" for m in self._ranked() for row in self.top(1, m)]
        return f"{said}; strongest: {', '.join(best)}" if best else said

    def caveats(self) -> Sequence[str]:
        said = [f"conservation error {self.conservation_error:.1e}; what a head writes is not yet what it causes."]
        if len(self.names) > 1:
            said.append(f"shown along {self.names[0]}; also {', '.join(self.names[1:])}.")
        return said if self._ranked() else [*said, "no modality has harmful and benign prompts: no contrast to draw."]

    def records(self, name: str | None = None) -> Iterable[Mapping[str, Any]]:
        """One row per prompt, layer and head, along the first direction or a named one."""
        for i, layers in enumerate(self.heads[..., self.direction(name)].tolist()):
            named = {key: getattr(self.labels, key)[i] for key in ("ids", "roles", "modalities", "pairs")}
            for layer, row in enumerate(layers):
                yield from ({**named, "layer": layer, "head": head, "contribution": x} for head, x in enumerate(row))

    def drawn(self) -> Sequence[str]:
        from ..report.figures.heads_map import heads_map_figure
        from ..report.table import html_table

        kinds = self._ranked()
        if not kinds:
            return []
        record: dict[str, Any] = {"contrast": {m: self._cells(m) for m in kinds}, "norm": self.whole(kinds[0])}
        unit = "units of the stream"
        if self.unit == "logit":
            unit, record["along"] = "nats of logit", self.names[0]
            record["distance"] = f"the distance between harmful and benign {kinds[0]} in that logit difference"
        rows = [
            [m, f"L{r.layer} H{r.head}", r.contrast, r.low, r.high, r.harmful, r.benign]
            for m in kinds
            for r in self.top(5, m)
        ]
        heads = ["modality", "head", "contrast", "low", "high", "harmful", "benign"]
        return [heads_map_figure(record), html_table(heads, rows, caption=f"Strongest heads, {unit}.")]

    def _ranked(self) -> list[str]:
        """Modalities with harmful and benign prompts."""
        pairs = set(zip(self.labels.roles, self.labels.modalities, strict=True))
        return [m for m in self.labels.kinds() if {("harmful", m), ("benign", m)} <= pairs]

    def _cells(self, modality: str) -> dict[str, Any]:
        """Contrast with its interval and both means, (layer, head), up to the direction's layer, as the report has."""
        found, depth = self.contrast(modality), self.layers[0] + 1
        cells = {"value": found.value, "low": found.low, "high": found.high}
        cells |= {role: self.mean(role, modality) for role in ("harmful", "benign")}
        return {name: value[:depth].tolist() for name, value in cells.items()}
