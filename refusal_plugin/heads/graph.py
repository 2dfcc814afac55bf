"""The circuit as a graph: part of the prompt -> head -> direction -> answer, harmful minus benign prompts.

    left edge   part of the prompt -> head     mean over harmful minus mean over benign of the head's sources there
    right edge  head -> direction              its contrast: the sum of its left edges
    last edge   direction -> answer            the refusal rate, where it was measured; not a decomposition

Joins what `attribute_heads` and `attribute_sources` found; nothing is run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import DataError
from ..report.shown import Shown
from ..statistics import Estimate
from .result import HeadAttribution
from .sources import SPANS, SourceAttribution


@dataclass(frozen=True)
class Edge:
    """One head of the graph.

    Attributes:
        layer, head, modality: which, on which prompts.
        sources: part of the prompt (`sources.SPANS`) to what the head takes from it, harmful minus benign.
        contrast: what it writes in all, with its 95 % interval `low`, `high`; units of the stream.
    """

    layer: int
    head: int
    modality: str
    sources: Mapping[str, float]
    contrast: float
    low: float
    high: float


@dataclass(frozen=True)
class Circuit(Shown):
    """The graph of every modality.

    Attributes:
        edges: one per modality and head.
        norm: length of the direction: 1 in the picture's percent.
        refused: modality to refusal rate of harmful prompts, where it was measured.
    """

    edges: tuple[Edge, ...]
    norm: float
    refused: Mapping[str, Estimate] = field(default_factory=dict)

    def finding(self) -> str:
        kinds = ", ".join(dict.fromkeys(edge.modality for edge in self.edges))
        return f"{len(self.edges)} edges from heads to the direction; {kinds}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per modality and head."""
        return ({**{k: v for k, v in vars(e).items() if k != "sources"}, **e.sources} for e in self.edges)

    def drawn(self) -> Sequence[str | None]:
        from ..report.figures.heads_circuit import circuit_figure

        edges = [{**vars(edge), "sources": dict(edge.sources)} for edge in self.edges]
        refused = [{"modality": m, "refused": {"none": rate.to_json()}} for m, rate in self.refused.items()]
        return [circuit_figure({"norm": self.norm, "top": edges, "removal": refused})]


def circuit(
    found: HeadAttribution, sources: SourceAttribution, refused: Mapping[str, Estimate] | None = None, *, seed: int = 0
) -> Circuit:
    """Join contributions and their sources into a graph, for the heads of `sources`.

    Args:
        found: from `attribute_heads`, along the direction of `sources`.
        sources: from `attribute_sources`, on the same harmful and benign prompts.
        refused: modality to refusal rate of the harmful prompts.
        seed: of the bootstrap.

    Raises:
        DataError: different prompts, another layer, or no modality with harmful and benign prompts.
    """
    if found.labels != sources.labels or found.layers[0] != sources.layer:
        one = f"{len(found.labels)} prompts along layer {found.layers[0]}"
        other = f"{len(sources.labels)} along layer {sources.layer}"
        raise DataError("draw a circuit", f"{one} against {other}", "attribute both on the same prompts and direction")
    rows = set(zip(found.labels.roles, found.labels.modalities, strict=True))
    kinds = [m for m in found.labels.kinds() if {("harmful", m), ("benign", m)} <= rows]
    if not kinds:
        raise DataError("draw a circuit", "no modality has harmful and benign prompts", "give both")
    edges = []
    for m in kinds:
        bad, good, cells = sources.shares("harmful", m), sources.shares("benign", m), found.contrast(m, seed=seed)
        for place, at in enumerate(sources.heads):
            parts = {span: float(bad[span][place] - good[span][place]) for span in SPANS}
            ends = (float(x[at]) for x in (cells.value, cells.low, cells.high))
            edges.append(Edge(*at, m, parts, *ends))
    return Circuit(tuple(edges), float(found.norms[0]), dict(refused or {}))
