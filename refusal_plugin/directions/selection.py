"""Choose the layer and position of the refusal direction on a validation split of text.

By interventions (Arditi et al. 2024, arXiv 2406.11717), per candidate (layer, position), on validation prompts:

    bypass   mean refusal score of harmful prompts with the direction ablated at all layers and positions (low = causal)
    induce   mean refusal score of benign prompts with the full vector added at its own layer
    KL       KL(untouched || ablated) of the next token on benign prompts
    layer    only layers < 0.8 L

    objective="causal"   (the reference)  the smallest bypass among those with layer, KL <= 0.1 and induce >= 0
    objective="defence"  (ours)           the largest gain at equal cost, if positive, among those with layer:
        c*      the strength at which adding c r costs KL = `target_kl` on benign and near-miss prompts (bisection)
        gain    mean refusal score of harmful prompts whose direction was halved, with c* r added, minus without

For a defence the cost of ADDING on safe prompts matters, not the cost of ablating; and harmful text that the model
refuses anyway cannot show a gain. Hence the halved direction: before block 0 to L-1 the coordinate along r is moved
half-way to its mean on benign text. That is how media harm looks under the text direction (it is read, at about half
the coordinate), made from text alone, so that no harmful media is needed to choose a layer or a strength.

COSMIC (arXiv 2506.00085), without tokens: the evaluation layers are the tenth of layers with the lowest cosine
between mean harmful and mean benign; score = cos(ablated harmful, mean benign) + cos(steered benign, mean harmful)
over those layers.

Cost. The reference makes three full passes over the validation prompts per candidate. Here additions begin behind their
own block, candidates are rows of one batch, and `figures="needed"` measures only what the choice depends on (see
`selection_figures`); the choice and the figures are those of the plain way. With `remote=True` the same passes run in
one session on a server (see `selection_remote`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch

from ..errors import DirectionError, PromptError
from ..inference.scores import RefusalTokens
from ..models import anatomy
from ..progress import Progress, track
from ..prompts import PromptSet
from .direction import Candidates, Direction
from .selection_figures import Figures, Operator, Place, groups, removals
from .selection_remote import Asked, Measured, measure

Objective: TypeAlias = Literal["causal", "defence"]
Method: TypeAlias = Literal["interventions", "cosmic"]
Wanted: TypeAlias = Literal["all", "needed", "choice"]

MAX_KL = 0.1
MAX_DEPTH = 0.8


@dataclass(frozen=True)
class Row:
    """One line of the selection table; NaN where a figure was not needed.

    Attributes:
        layer, position: the candidate.
        bypass, induce: mean refusal scores in nats, see the module's equations.
        kl_ablate: nats per benign prompt.
        strength, gain: strength at equal cost, and what it gains on attenuated harmful text, in nats.
        kl_add: cost at that strength, nats per safe prompt.
        auroc: harmful against benign and near-miss validation prompts along the candidate.
        cosmic: COSMIC score.
        kept: whether it passed the filters; `reason` says why not.
    """

    layer: int
    position: int
    bypass: float = math.nan
    induce: float = math.nan
    kl_ablate: float = math.nan
    strength: float = math.nan
    kl_add: float = math.nan
    gain: float = math.nan
    auroc: float = math.nan
    cosmic: float = math.nan
    kept: bool = False
    reason: str = ""
    chosen: bool = False


def select_direction(
    model: Any,
    candidates: Candidates,
    prompts: PromptSet,
    tokens: RefusalTokens,
    *,
    objective: Objective = "defence",
    method: Method = "interventions",
    operator: Operator = "project_out",
    target_kl: float = 0.1,
    max_kl: float = MAX_KL,
    max_depth: float = MAX_DEPTH,
    figures: Wanted = "all",
    remote: bool | str = False,
    progress: Progress = None,
) -> Direction:
    """The best candidate, with the whole selection table and a strength.

    Args:
        model: a loaded model.
        candidates: from `fit`.
        prompts: validation prompts (text): harmful, benign and, if there are any, near misses.
        tokens: the model's refusal tokens.
        objective: "defence" or "causal".
        method: "interventions" or "cosmic" (then `objective` only sets the filters).
        operator: how bypass and KL of ablation remove the direction: "project_out" of every layer and position (the
            reference), or set it to its "benign_mean" at the last prompt token (see
            `Direction.set_to_benign_mean`), which also works where the stream has a large offset along the direction.
            Candidates at other positions are always projected out: the mean belongs to the position it was read at.
        target_kl: nats per safe prompt that the stored strength may cost.
        max_kl, max_depth: limits of the filters.
        figures: "all" fills the whole table; "needed" measures only what the choice depends on, layers that may be
            chosen only, and the strength of the chosen one, and leaves NaN elsewhere; "choice" leaves out that strength
            too, where the choice does not rest on it: the direction keeps the strength 1. The choice is the same.
        remote: measure on NDIF: one request for a defence, several where one would exceed `remote.Settings.max_tokens`.
            Where the choice does not rest on strengths, that of the chosen candidate is one more.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: a role is missing, or prompts of the fit are used again.
        DirectionError: no candidate passes the filters; the error says which filter stopped how many.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    require_validation(candidates, prompts)
    found: Figures | Measured
    if remote:
        settings: dict[str, Any] = {"objective": objective, "method": method, "operator": operator, "figures": figures}
        where = (candidates.positions, candidates.n_layers)
        asked = Asked.of(*where, **settings, target_kl=target_kl, max_depth=max_depth)
        found = measure(model, candidates, prompts, tokens, asked, remote)
    else:
        found = Figures(model, candidates, prompts, tokens)
    search = Search(found, method, objective, operator, target_kl, max_kl)
    return choose(search, candidates, anatomy(model).name, max_depth=max_depth, figures=figures, progress=progress)


def choose(
    search: "Search",
    candidates: Candidates,
    name: str,
    *,
    max_depth: float = MAX_DEPTH,
    figures: Wanted = "all",
    progress: Progress = None,
) -> Direction:
    """Fill the table, filter, rank: what `select_direction` does with its figures, or your own session's.

    Args:
        search: the figures, and what they are for.
        candidates: what was measured.
        name: of the model, for messages.
        Others as in `select_direction`.

    Raises:
        DirectionError: no candidate passes the filters.
    """
    places = [(layer, position) for position in candidates.positions for layer in range(candidates.n_layers)]
    limit = max_depth * candidates.n_layers
    rows = {place: Row(*place, reason=f"layer >= {max_depth:g} L" if place[0] >= limit else "") for place in places}
    with track(len(places), "layers and positions", progress) as advance:
        if figures == "all":
            search.measure_all(rows, advance)
        else:
            search.measure_needed(rows, advance)
    kept = [row for row in rows.values() if row.kept]
    if not kept:
        raise DirectionError(
            f"select a direction on '{name}' for {search.objective}",
            f"none of {len(rows)} candidates passes ({_reasons(list(rows.values()))})",
            "try operator='benign_mean', raise max_kl, use more prompts, or take candidates.at(layer) by hand",
        )
    best = max(kept, key=search.rank)
    if math.isnan(best.strength) and figures != "choice":
        best = _with(best, search.figures.strengths(best.layer, [best.position], search.target_kl)[0])
    place = (best.layer, best.position)
    rows[place] = replace(best, chosen=True)
    chosen = candidates.at(*place)
    table = tuple(vars(row) for row in rows.values())
    strength = chosen.strength if math.isnan(best.strength) else best.strength
    return replace(chosen, strength=strength, objective=search.objective, selection=search.method, table=table)


@dataclass(frozen=True)
class Search:
    """Which figures to measure, in which order, and what they mean for a candidate.

    Attributes:
        figures: where they come from.
        Others as in `select_direction`.
    """

    figures: Figures | Measured
    method: Method
    objective: Objective
    operator: Operator
    target_kl: float
    max_kl: float = MAX_KL

    def rank(self, row: Row) -> float:
        """What the choice maximises."""
        if self.method == "cosmic":
            return row.cosmic
        return row.gain if self.objective == "defence" else -row.bypass

    def measure_all(self, rows: dict[Place, Row], advance: Callable[[int], None]) -> None:
        """Every figure of every candidate; strengths only where they can matter."""
        names = ("bypass", "induce", "kl_ablate", "cosmic")
        self._fill(rows, list(rows), names, advance)
        rows |= {p: replace(row, reason="NaN") for p, row in rows.items() if _nan(row, (*names, "auroc"))}
        if self.objective == "defence":
            self._fill(rows, [place for place, row in rows.items() if not row.reason], ("gain",))
        for place, row in rows.items():
            reason = row.reason or self._reason(row)
            rows[place] = replace(row, kept=not reason, reason=reason)

    def measure_needed(self, rows: dict[Place, Row], advance: Callable[[int], None]) -> None:
        """What ranks the candidates, then the filters of one after the other from the best, until one passes."""
        places = [place for place, row in rows.items() if not row.reason]
        advance(len(rows) - len(places))
        ranking = "cosmic" if self.method == "cosmic" else "gain" if self.objective == "defence" else "bypass"
        self._fill(rows, places, ("bypass", "induce", "cosmic") if ranking == "cosmic" else (ranking,), advance)
        filters = ("gain",) if self.objective == "defence" else ("induce", "kl_ablate")  # the cheap one first
        passed = False
        for place in sorted(places, key=lambda place: _number(self.rank(rows[place])), reverse=True):
            reason = "not needed" if passed else "NaN" if _nan(rows[place], (ranking, "auroc")) else ""
            for name in filters:
                if not reason and _nan(rows[place], (name,)):
                    self._fill(rows, [place], (name,))
                reason = reason or self._reason(rows[place])
            passed = passed or not reason
            rows[place] = replace(rows[place], kept=not reason, reason=reason)

    def _fill(
        self,
        rows: dict[Place, Row],
        places: list[Place],
        names: Sequence[str],
        advance: Callable[[int], None] = lambda _n: None,
    ) -> None:
        """Measure some figures of some candidates."""
        bench = self.figures
        ablated: dict[Place, torch.Tensor] = {}
        for operator, of_kind in removals(self.operator, places):
            for group in groups(of_kind):
                if "bypass" in names:
                    found = bench.bypass(group, operator, keep_residual="cosmic" in names)
                    for k, place in enumerate(group):
                        rows[place] = replace(rows[place], bypass=float(found.score[k].mean()))
                        if found.residual is not None:
                            ablated[place] = found.residual[k][bench.evaluation_layers()]
                if "kl_ablate" in names:
                    for place, kl in zip(group, bench.kl_ablate(group, operator), strict=True):
                        rows[place] = replace(rows[place], kl_ablate=kl)
        for layer in sorted({place[0] for place in places}):
            here = [place for place in places if place[0] == layer]
            positions = [place[1] for place in here]
            for place in here:
                rows[place] = replace(rows[place], auroc=bench.auroc(place))
            if "induce" in names:
                found = bench.induce(layer, positions)
                for k, place in enumerate(here):
                    rows[place] = replace(rows[place], induce=float(found.score[k].mean()))
                    if place in ablated and found.residual is not None:
                        cosmic = bench.cosmic(place, ablated[place], found.residual[k])
                        rows[place] = replace(rows[place], cosmic=cosmic)
            if "gain" in names:
                for place, cost in zip(here, bench.strengths(layer, positions, self.target_kl), strict=True):
                    rows[place] = _with(rows[place], cost)
            advance(len(here))

    def _reason(self, row: Row) -> str:
        """Why a candidate is out; empty if it stays or is not yet measured."""
        if self.objective == "causal" and row.induce < 0:
            return "induce < 0"
        if self.objective == "causal" and row.kl_ablate > self.max_kl:
            return f"KL of ablation > {self.max_kl:g}"
        if self.objective == "defence" and row.gain <= 0:
            return "gain <= 0"
        return ""


def _with(row: Row, cost: Mapping[str, Any]) -> Row:
    return replace(row, **cost)


def _nan(row: Row, names: Sequence[str]) -> bool:
    return any(math.isnan(getattr(row, name)) for name in names)


def _number(rank: float) -> float:
    """Sorts NaN behind everything."""
    return -math.inf if math.isnan(rank) else rank


def require_validation(candidates: Candidates, prompts: PromptSet) -> None:
    if -1 not in candidates.positions:
        raise DirectionError(
            "select a direction", f"the candidates were read at {list(candidates.positions)}", "include position -1"
        )
    for role in ("harmful", "benign"):
        if not any(p.role == role for p in prompts):
            raise PromptError("select a direction", f"the validation set has no {role} prompts", f"add {role} prompts")
    used = set(candidates.provenance.get("data_ids", ()))
    again = [p.id for p in prompts if p.id in used]
    if again:
        raise PromptError(
            "select a direction", f"{len(again)} validation prompts were used to fit it ('{again[0]}')", "split by pair"
        )


def _reasons(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))
