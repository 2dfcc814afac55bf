"""The selection in one session: what goes beside the weights, and the figures that come back.

`selection_figures` measures step by step, each step a trace of its own: right on this machine, a hundred requests on a
server. Here the same passes over the same batches run in one session (`traced.selecting`), and `Measured` answers what
`selection` asks from what came back. Only figures of what may be asked are measured, with two differences of cost:

    figures="needed", objective="causal"   the filters of every candidate are measured, not of one after the other
    objective="causal", method="cosmic"    the strength of the chosen candidate alone is a second, small request

Work that exceeds `remote.Settings.max_tokens` is cut between units (groups of candidates, layers); every further
request repeats the two plain passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import cosine
from ..inference.continuation import TOKEN_BUDGET, Sweep, planted, repeatable
from ..inference.edits import SITE_ORDER, site_module
from ..inference.scores import Encoded, RefusalTokens
from ..models import anatomy, layers
from ..models.wrapper import save
from ..prompts import PromptSet
from ..prompts.batch import Batch
from ..prompts.light import next_token_inputs
from ..prompts.tree import Trees
from ..remote.cutting import portions, workload
from ..statistics import auroc
from ..traced.selecting import measure_candidates
from .direction import Candidates
from .selection_figures import GRID, KEEP, STRENGTHS, TIGHT, Operator, Place, groups, removals

SEARCH = 8
"""Passes that a strength takes, about: for the estimate of cost."""


def bench(model: Any, prompts: PromptSet, positions: Sequence[int]) -> dict[str, Any]:
    """Validation prompts, encoded: plain data for `traced.selecting.measure_candidates`.

    Args:
        model: a loaded model.
        prompts: harmful, benign and near-miss text.
        positions: of the candidates; -1 is among them.

    Returns:
        "harmful", "safe", "benign": each "n" prompts in batches of (rows, inputs, ends, rows may be repeated): "wide"
        for few candidates, "tight" for many, and "trees" for either where they pay, with one of them as a "trial"; and
        the numbers of the search.
    """
    safe = prompts.filter(role=("benign", "near_miss"))
    found: dict[str, Any] = {
        "harmful": _run(model, prompts.filter(role="harmful"), ("wide", "tight")),
        "safe": _run(model, safe, ("wide",)),
        "benign": _run(model, safe.filter(role="benign"), ("wide", "tight")),
        "benign_rows": [row for row, prompt in enumerate(safe) if prompt.role == "benign"],
    }
    return found | {
        "last": list(positions).index(-1),
        "keep": KEEP,
        "strengths": (*STRENGTHS, GRID),
        "budget": TOKEN_BUDGET,
    }


def _run(model: Any, prompts: PromptSet, kinds: Sequence[str]) -> dict[str, Any]:
    large = Encoded.of(model, prompts)
    trees = planted(model, large)
    batches: dict[str, Sequence[tuple[list[int], Batch | Trees]]] = {
        "wide": large.batches,
        "tight": Encoded.of(model, prompts, max_rows=TIGHT).batches if "tight" in kinds else (),
        "trees": () if trees is None else trees.batches,
        "trial": () if trees is None else (trees.trial(),),
    }
    found: dict[str, Any] = {"n": len(prompts)}
    for kind, some in batches.items():
        found[kind] = [(rows, next_token_inputs(model, one), one.ends, repeatable(one)) for rows, one in some]
    return found


def sites_of(model: Any) -> list[dict[str, Any]]:
    """Per block its traced modules by site, in the order in which they run."""
    facts = anatomy(model)
    return [
        {site: site_module(block, layer, site, facts) for site in SITE_ORDER}
        for layer, block in enumerate(layers(model))
    ]


@dataclass(frozen=True)
class Asked:
    """Which figures of which candidates a selection may ask for.

    Attributes:
        places: candidates that are measured.
        priced: those whose strength and gain are searched for.
        ablation, induction: whether removal, and addition of the full vector, are measured.
        cosmic: whether the streams of both are kept.
        operator, target: of the removal; cost of a strength in nats.
    """

    places: tuple[Place, ...]
    priced: frozenset[Place]
    ablation: bool
    induction: bool
    cosmic: bool
    operator: Operator
    target: float

    @classmethod
    def of(
        cls,
        positions: Sequence[int],
        n_layers: int,
        *,
        objective: str = "defence",
        method: str = "interventions",
        operator: Operator = "project_out",
        target_kl: float = 0.1,
        max_depth: float,
        figures: str = "all",
    ) -> "Asked":
        """What a selection with these arguments may ask for; see `selection.select`.

        Args:
            positions, n_layers: of the candidates.
            Others as there.
        """
        places = [(layer, position) for position in positions for layer in range(n_layers)]
        shallow = tuple(place for place in places if place[0] < max_depth * n_layers)
        every, cosmic = figures == "all", method == "cosmic"
        both = every or cosmic or objective == "causal"
        return cls(
            tuple(places) if every else shallow,
            frozenset(shallow if objective == "defence" else ()),
            ablation=both,
            induction=both,
            cosmic=every or cosmic,
            operator=operator,
            target=target_kl,
        )

    def units(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Units of work for `traced.selecting`, the ablations in the groups of the local run.

        Args:
            positions: of the candidates, in their order.
        """
        index = {position: p for p, position in enumerate(positions)}
        found: list[dict[str, Any]] = []
        for operator, some in removals(self.operator, self.places) if self.ablation else ():
            for group in groups(some):
                named = [(layer, index[position]) for layer, position in group]
                found.append({"kind": "ablate", "operator": operator, "places": named, "stream": self.cosmic})
        for layer in sorted({layer for layer, _ in self.places}):
            here = [position for at, position in self.places if at == layer]
            priced = [index[position] for position in here if (layer, position) in self.priced]
            unit = {"kind": "add", "layer": layer, "ps": [index[position] for position in here]}
            found.append(unit | {"induce": self.induction, "priced": priced, "target": self.target})
        return found


def passes(unit: dict[str, Any], n_layers: int) -> float:
    """Forward passes over the validation prompts that a unit takes, about."""
    if unit["kind"] == "ablate":
        return float(len(unit["places"]))
    rest = float((n_layers - 1 - unit["layer"]) / n_layers)
    return len(unit["ps"]) * rest * bool(unit["induce"]) + len(unit["priced"]) * rest * (SEARCH + 1) + 3 / n_layers


def tokens_of(work: dict[str, Any]) -> int:
    """Tokens of the validation prompts, padding included."""
    return sum(int(b[1]["input_ids"].numel()) for name in ("harmful", "safe") for b in work[name]["wide"])


def work_of(model: Any, work: dict[str, Any], units: Sequence[dict[str, Any]]) -> Any:
    """Units as a stage of `remote.portions`."""
    n_layers = anatomy(model).n_layers
    tokens = tokens_of(work)
    return workload(list(units), tokens=[tokens * passes(unit, n_layers) for unit in units])


def measure(
    model: Any, candidates: Candidates, prompts: PromptSet, tokens: RefusalTokens, asked: Asked, remote: bool | str
) -> "Measured":
    """All figures that a selection may ask for, in one session, or in several where one would be too long.

    Raises:
        RemoteError: the server refuses or fails; says why and what to do.
    """
    work = bench(model, prompts, candidates.positions)
    harmful, benign, ids = candidates.harmful, candidates.benign, tokens.ids
    blocks, sites = layers(model), sites_of(model)
    every = asked.units(candidates.positions)
    whole: list[dict[str, Any]] = []
    for (units,) in portions(work_of(model, work, every), remote=remote, fixed=2 * tokens_of(work)):
        with torch.no_grad(), model.session(remote=remote):
            found = save(measure_candidates(model, blocks, sites, work, harmful, benign, ids, units))
        whole.append(found)
    return Measured(candidates, prompts, every, whole, source=(model, tokens, remote))


@dataclass(frozen=True)
class Measured:
    """Figures that were measured beside the weights, as `selection` asks for them (see `selection_figures.Figures`).

    Attributes:
        candidates, prompts: what was measured on what.
        units, found: the work, and what came back from each request.
        source: model, tokens and place, to measure a strength that was not asked for.
    """

    candidates: Candidates
    prompts: PromptSet
    units: list[dict[str, Any]]
    found: list[dict[str, Any]]
    source: tuple[Any, RefusalTokens, bool | str]
    rows: dict[Place, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        results = [result for one in self.found for result in one["units"]]
        for unit, result in zip(self.units, results, strict=True):
            if unit["kind"] == "ablate":
                named = {"bypass": "bypass", "kl": "kl", "stream": "ablated"}
                for k, (layer, p) in enumerate(unit["places"]):
                    row = self.rows.setdefault((layer, self.candidates.positions[p]), {})
                    row |= {new: result[old][k] for old, new in named.items() if old in result}
                continue
            for k, p in enumerate(unit["ps"]):
                row = self.rows.setdefault((unit["layer"], self.candidates.positions[p]), {})
                row |= {key: result[key][k] for key in ("at_harmful", "at_safe", "induce", "stream") if key in result}
            for k, p in enumerate(unit["priced"]):
                row = self.rows[unit["layer"], self.candidates.positions[p]]
                row |= {key: result[key][k] for key in ("strength", "kl_add", "gain")}

    def auroc(self, place: Place) -> float:
        """Of harmful against benign and near-miss prompts along a candidate."""
        return auroc(self.rows[place]["at_harmful"], self.rows[place]["at_safe"])

    def bypass(self, places: Sequence[Place], _operator: Operator, *, keep_residual: bool) -> Sweep:
        """Mean scores of harmful prompts without the candidates."""
        return self._sweep(places, "bypass", "ablated" if keep_residual else None)

    def kl_ablate(self, places: Sequence[Place], _operator: Operator) -> list[float]:
        """Mean KL on benign prompts, per candidate."""
        return [float(self.rows[place]["kl"]) for place in places]

    def induce(self, layer: int, positions: Sequence[int]) -> Sweep:
        """Mean scores of benign prompts with the full vectors of a layer added."""
        places = [(layer, position) for position in positions]
        return self._sweep(places, "induce", "stream" if all("stream" in self.rows[p] for p in places) else None)

    def _sweep(self, places: Sequence[Place], name: str, streams: str | None) -> Sweep:
        score = torch.stack([self.rows[place][name] for place in places]).reshape(-1, 1)
        kept = torch.stack([self.rows[place][streams] for place in places]) if streams else None
        return Sweep(score, torch.zeros_like(score), kept, 0)

    def strengths(self, layer: int, positions: Sequence[int], target_kl: float) -> list[dict[str, float]]:
        """Per position the strength that costs `target_kl`, its cost and its gain; a further request if unmeasured."""
        keys, rows = ("strength", "kl_add", "gain"), [self.rows[layer, position] for position in positions]
        if any("strength" not in row for row in rows):
            model, tokens, remote = self.source
            places = tuple((layer, position) for position in positions)
            asked = Asked(places, frozenset(places), False, False, False, "project_out", target_kl)
            rows = list(measure(model, self.candidates, self.prompts, tokens, asked, remote).rows.values())
        return [{key: float(row[key]) for key in keys} for row in rows]

    def evaluation_layers(self) -> Tensor:
        """The streams that came back hold COSMIC's evaluation layers only: all of them."""
        return torch.arange(len(self.found[0]["layers"]))

    def cosmic(
        self, _place: Place, ablated: Float[Tensor, "chosen d_model"], steered: Float[Tensor, "chosen d_model"]
    ) -> float:
        """The COSMIC score from mean streams of the evaluation layers; see `selection_figures.Figures.cosmic`."""
        means, chosen = self.found[0], self.found[0]["layers"]
        first = cosine(ablated.flatten(), means["benign"][chosen].flatten())
        return float(first + cosine(steered.flatten(), means["harmful"][chosen].flatten()))
