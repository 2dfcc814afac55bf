"""The circuit that writes refusal: part of the prompt -> head -> direction -> answer, harmful minus benign prompts.

    left edge   part of the prompt -> head     mean over harmful minus mean over benign of the head's sources there
    right edge  head -> direction              its contrast: the sum of its left edges
    last edge   direction -> answer            the refusal rate, where it was measured; not a decomposition

    between modalities    contrast[other] - contrast[one], edge by edge; pair groups are drawn for both

Joins what `attribute_heads` and `attribute_sources` found. Of one harmful prompt of each modality the sources are kept
token by token, patch by patch, with the attention patterns (`examples`, `pictures`): they are what a viewer shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..progress import Progress
from ..prompts import Prompt
from ..report.shown import Shown
from ..statistics import Estimate
from ..storage import write_json
from .attention_view import view_of
from .attribution import attribute_heads
from .causal import Head
from .intervals import Intervals, difference_intervals
from .labels import chosen_prompts
from .pictures import Overlay, overlay
from .result import HeadAttribution
from .sources import SPANS, SourceAttribution, attribute_sources
from .targets import Target
from .tracing import tracer_graph


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
        found, sources: what it was joined from.
        examples: sources of one harmful prompt of each modality, with whole attention patterns; None if not asked for.
        pictures: those of a medium, laid over it.
        notes: what to know before quoting it.
    """

    edges: tuple[Edge, ...]
    norm: float
    refused: Mapping[str, Estimate] = field(default_factory=dict)
    found: HeadAttribution | None = None
    sources: SourceAttribution | None = None
    examples: SourceAttribution | None = None
    pictures: Mapping[str, Overlay] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        found: HeadAttribution,
        sources: SourceAttribution,
        refused: Mapping[str, Estimate] | None = None,
        *,
        seed: int = 0,
    ) -> "Circuit":
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
            do = "attribute both on the same prompts and direction"
            raise DataError("draw a circuit", f"{one} against {other}", do)
        rows = set(zip(found.labels.roles, found.labels.modalities, strict=True))
        kinds = [m for m in found.labels.kinds() if {("harmful", m), ("benign", m)} <= rows]
        if not kinds:
            raise DataError("draw a circuit", "no modality has harmful and benign prompts", "give both")
        edges = [edge for m in kinds for edge in _edges(m, sources, _parts(sources, m), found.contrast(m, seed=seed))]
        return cls(tuple(edges), float(found.norms[0]), dict(refused or {}), found, sources)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those of the edges."""
        return tuple(dict.fromkeys(edge.modality for edge in self.edges))

    def mlps(self, modality: str, *, seed: int = 0) -> Intervals:
        """What the MLPs (and other mixers without heads) of each layer write, harmful minus benign: (layer,).

        Raises:
            DataError: the circuit was not joined from attributions, or lacks the modality.
        """
        found = self._measured("say what MLPs write").found
        assert found is not None
        return replace(found, heads=found.mlp.unsqueeze(2)).contrast(modality, seed=seed)

    def difference(self, one: str = "text", other: str = "image", *, seed: int = 0) -> "Circuit":
        """What the heads write in `other` beyond what they write in `one`; below zero where `other` falls short.

        Raises:
            DataError: a modality that the circuit lacks.
        """
        whole = self._measured(f"compare {one} and {other}")
        found, sources = whole.found, whole.sources
        assert found is not None and sources is not None
        if not {one, other} <= set(self.modalities):
            raise DataError(f"compare {one} and {other}", f"there are {', '.join(self.modalities)}", "choose of these")
        sides = [("harmful", other), ("benign", one)], [("benign", other), ("harmful", one)]
        (a, a_pairs), (b, b_pairs) = (_summed(found, side) for side in sides)
        cells = difference_intervals(a, a_pairs, b, b_pairs, seed=seed)
        parts = {span: x - _parts(sources, one)[span] for span, x in _parts(sources, other).items()}
        return Circuit(tuple(_edges(f"{other} \u2212 {one}", sources, parts, cells)), self.norm)

    def graph(self, modality: str) -> dict[str, Any]:
        """The circuit of one harmful prompt as attribution-graph viewers read it; see `tracing`.

        Raises:
            DataError: no prompt of this modality was kept.
        """
        examples = self.examples
        if examples is None or self.found is None or modality not in examples.labels.modalities:
            have = ", ".join(examples.labels.modalities) if examples else "none"
            raise DataError(f"draw the graph of one {modality} prompt", f"kept are {have}", "make it with rp.circuit")
        row = examples.labels.modalities.index(modality)
        mlp = self.found.mlp[self.found.labels.ids.index(examples.labels.ids[row]), :, 0]
        picture = self.pictures.get(modality)
        return tracer_graph(self.found, examples, row, mlp, picture.places if picture else ())

    def save(self, path: str | Path, modality: str | None = None) -> Path:
        """Write the circuit for a paper (.svg, .png), for a browser (.html) or for graph viewers (.json).

        Args:
            path: its ending says which.
            modality: of the prompt of a .json, the first by default; of the panels of a picture, all by default.

        Raises:
            DataError: another ending, or a modality that is not there.
            OptionalDependencyError: .png without `resvg_py`. Without `circuitsvis` a page has no attention.
        """
        from ..report.standalone import circuit_page, circuit_png, circuit_svg

        target, record = Path(path), self._record(modality)
        if target.suffix == ".json":
            write_json(target, self.graph(modality or self.modalities[0]))
        elif target.suffix == ".svg":
            target.write_text(circuit_svg(record), encoding="utf-8")
        elif target.suffix == ".png":
            target.write_bytes(circuit_png(record))
        elif target.suffix == ".html":
            kept = self.examples
            views = [view_of(kept, row) for row in range(len(kept.labels))] if kept else []
            target.write_text(circuit_page(repr(self), [self], views), "utf-8")
        else:
            raise DataError(f"save a circuit as {target.name}", f"ending '{target.suffix}'", ".svg .png .html .json")
        return target

    def finding(self) -> str:
        best = max(self.edges, key=lambda edge: abs(edge.contrast))
        most = f"L{best.layer} H{best.head} in {best.modality} {100 * best.contrast / self.norm:+.0f}%"
        heads = len({(edge.layer, edge.head) for edge in self.edges})
        return f"{heads} heads write the direction in {', '.join(self.modalities)}; most {most} of its length"

    def caveats(self) -> Sequence[str]:
        return ("What a head writes is not yet what the model would do without it.", *self.notes)

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per modality and head."""
        return ({**{k: v for k, v in vars(e).items() if k != "sources"}, **e.sources} for e in self.edges)

    def drawn(self) -> Sequence[str | None]:
        from ..report.figures.heads_circuit import circuit_figure
        from ..report.markup import Markup

        over = [Markup(picture._repr_html_()) for picture in self.pictures.values()]
        return [circuit_figure(self._record()), *over]

    def _record(self, modality: str | None = None) -> dict[str, Any]:
        """What the figure draws."""
        edges = [{**vars(e), "sources": dict(e.sources)} for e in self.edges if modality in (None, e.modality)]
        if not edges:
            raise DataError(f"draw {modality}", f"there are {', '.join(self.modalities)}", "choose one of these")
        refused = [{"modality": m, "refused": {"none": rate.to_json()}} for m, rate in self.refused.items()]
        return {"norm": self.norm, "top": edges, "removal": refused}

    def _measured(self, asked: str) -> "Circuit":
        if self.found is None or self.sources is None:
            raise DataError(asked, "this circuit is a difference", "ask the circuit that it was made of")
        return self


def circuit(
    model: Any,
    direction: Target,
    prompts: Iterable[Prompt | str],
    *,
    heads: Sequence[Head] | None = None,
    top: int = 4,
    refused: Mapping[str, Estimate] | None = None,
    seed: int = 0,
    progress: Progress = None,
) -> Circuit:
    """Which heads write the refusal direction, and from which tokens, patches, frames and seconds, per modality.

    Args:
        model: a loaded model, on this machine.
        direction: as for `attribute_heads`.
        prompts: harmful and benign ones, of every modality that is to be compared.
        heads: (layer, head) pairs; by default the `top` of each modality by contrast on these very prompts, whose
            contrasts are then a little too large. For figures to quote, rank on other prompts and give them.
        top: heads per modality.
        refused: modality to refusal rate of the harmful prompts, for the last edge.
        seed: of the bootstrap.
        progress: None shows a bar where somebody can see it.

    Raises:
        DataError: no modality with harmful and benign prompts.
        ModelError, DirectionError, PromptError: as `attribute_heads` and `attribute_sources`.
    """
    chosen = chosen_prompts(prompts, "draw a circuit")
    found = attribute_heads(model, direction, chosen, progress=progress)
    kinds = found.labels.kinds()
    notes: tuple[str, ...] = ()
    if heads is None:
        notes = ("Its heads were ranked on the prompts they are measured on: they look a little too strong.",)
        heads = sorted({(row.layer, row.head) for m in kinds for row in found.top(top, m, seed=seed)})
    sources = attribute_sources(model, direction, chosen, heads, progress=progress)
    made = Circuit.of(found, sources, refused, seed=seed)
    one_each = [next(p for p in chosen if p.role == "harmful" and p.modality == m) for m in made.modalities]
    examples = attribute_sources(model, direction, one_each, heads, keep_attention=True, progress=progress)
    pictures: dict[str, Overlay] = {p.modality: overlay(model, examples, p) for p in one_each if len(p.media) == 1}
    return replace(made, examples=examples, pictures=pictures, notes=notes)


def _parts(sources: SourceAttribution, modality: str) -> dict[str, Float[Tensor, " head"]]:
    """Part of the prompt to what each head takes from it, harmful minus benign."""
    bad, good = (sources.shares(role, modality) for role in ("harmful", "benign"))
    return {span: bad[span] - good[span] for span in SPANS}


def _edges(
    name: str, sources: SourceAttribution, parts: Mapping[str, Float[Tensor, " head"]], cells: Intervals
) -> list[Edge]:
    found = []
    for place, at in enumerate(sources.heads):
        ends = (float(x[at]) for x in (cells.value, cells.low, cells.high))
        found.append(Edge(*at, name, {span: float(x[place]) for span, x in parts.items()}, *ends))
    return found


def _summed(
    found: HeadAttribution, groups: Sequence[tuple[str, str]]
) -> tuple[Float[Tensor, "prompt layer head"], list[str]]:
    """Rows whose mean is the SUM of the groups' means, with their pair groups."""
    rows = [found.labels.rows(role, modality) for role, modality in groups]
    n = sum(map(len, rows))
    scaled = [found.heads[mine, ..., 0] * (n / len(mine)) for mine in rows]
    return torch.cat(scaled), [found.labels.pairs[row] for mine in rows for row in mine]
