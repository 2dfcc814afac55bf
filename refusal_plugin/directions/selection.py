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
own block, candidates are rows of one batch, and all is measured in one session, here or on a server (`figures`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ..errors import DirectionError, PromptError
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.edits import Operator
from ..progress import Progress, track
from ..prompts import PromptSet
from .direction import Candidates, Direction
from .figures import Figures, Place, measure

Objective: TypeAlias = Literal["causal", "defence"]
Method: TypeAlias = Literal["interventions", "cosmic"]

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
    removal: bool = True,
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
        removal: whether the table also holds what removing and inducing do (bypass, induce, KL, COSMIC); the choice for
            a defence does not rest on them, and costs a third without.
        remote: measure on NDIF: one request for a defence, several where one would exceed `remote.Settings.max_tokens`.
            Where the choice does not rest on strengths, that of the chosen candidate is one more.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: a role is missing, or prompts of the fit are used again.
        DirectionError: no candidate passes the filters (the error says which filter stopped how many), or the choice
            rests on figures that are left out.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    require_validation(candidates, prompts)
    if not isinstance(tokens, RefusalTokens):
        found = f"a {type(tokens).__name__} in the place of the refusal tokens"
        raise DirectionError("select a direction", found, "give refusal_tokens(model, training_prompts)")
    if not removal and (objective, method) != ("defence", "interventions"):
        asked, found = f"select a direction for {objective} by {method}", "removal=False leaves out what decides"
        raise DirectionError(asked, found, "leave removal=True")
    places = [place for place in places_of(candidates) if _differs(candidates, place)]
    options: dict[str, Any] = {"operator": operator, "target_kl": target_kl, "remote": remote}
    source = (model, candidates, prompts, tokens)
    with track(2, "layers and positions", progress) as advance:
        may = [place for place in places if place[0] < max_depth * candidates.n_layers]
        priced = may if objective == "defence" else ()
        figures = measure(*source, places=places, priced=priced, removal=removal, **options)
        advance(1)
        how: dict[str, Any] = {"method": method, "objective": objective, "max_kl": max_kl, "max_depth": max_depth}
        how["removal"] = removal
        chosen = choose(candidates, figures, **how)
        if objective == "causal":  # here the choice does not rest on strengths: that of the chosen one is enough
            place = (chosen.layer, chosen.position)
            figures[place] |= measure(*source, places=[place], priced=[place], removal=False, **options)[place]
            chosen = choose(candidates, figures, **how)
        advance(1)
    return chosen


def places_of(candidates: Candidates) -> list[Place]:
    """Layer and position of every candidate."""
    return [(layer, position) for position in candidates.positions for layer in range(candidates.n_layers)]


def _differs(candidates: Candidates, place: Place) -> bool:
    """Whether a candidate is a direction at all.

    A first layer that reads a few tokens back (a short convolution, a window) sees the same end of the template in
    every prompt: its means are equal, and their difference has no direction.
    """
    return bool(candidates.at(*place).vector.any())


def choose(
    candidates: Candidates,
    figures: Mapping[Place, Figures],
    *,
    method: Method = "interventions",
    objective: Objective = "defence",
    max_kl: float = MAX_KL,
    max_depth: float = MAX_DEPTH,
    removal: bool = True,
) -> Direction:
    """The best of measured candidates: filter, rank, and keep the whole table.

    Args:
        candidates: what was measured.
        figures: what was measured of them, see `figures.measure`.
        Others as in `select_direction`.

    Raises:
        DirectionError: no candidate passes the filters; the error says which filter stopped how many.
    """
    rows: list[Row] = []
    for place in places_of(candidates):
        known: dict[str, Any] = dict(figures.get(place, {}))
        row = Row(*place, **known)
        reason = _reason(row, objective, max_kl, removal)
        if not _differs(candidates, place):
            reason = "harmful and benign means are equal"
        if place[0] >= max_depth * candidates.n_layers:
            reason = f"layer >= {max_depth:g} L"
        rows.append(replace(row, kept=not reason, reason=reason))
    kept = [row for row in rows if row.kept]
    if not kept:
        raise DirectionError(
            f"select a direction on '{candidates.provenance.get('model', '?')}' for {objective}",
            f"none of {len(rows)} candidates passes ({_reasons(rows)})",
            "try operator='benign_mean', raise max_kl, use more prompts, or take candidates.at(layer) by hand",
        )
    best = max(kept, key=lambda row: _rank(row, method, objective))
    chosen = candidates.at(best.layer, best.position)
    strength = chosen.strength if math.isnan(best.strength) else best.strength
    table = tuple(vars(replace(row, chosen=row is best)) for row in rows)
    return replace(chosen, strength=strength, objective=objective, selection=method, table=table)


def _rank(row: Row, method: Method, objective: Objective) -> float:
    """What the choice maximises."""
    if method == "cosmic":
        return row.cosmic
    return row.gain if objective == "defence" else -row.bypass


def _reason(row: Row, objective: Objective, max_kl: float, removal: bool) -> str:
    """Why a candidate is out; empty if it stays."""
    needed = ["auroc", *(["gain"] if objective == "defence" else [])]
    needed += ["bypass", "induce", "kl_ablate", "cosmic"] if removal else []
    if any(math.isnan(getattr(row, name)) for name in needed):
        return "NaN"
    if objective == "causal" and row.induce < 0:
        return "induce < 0"
    if objective == "causal" and row.kl_ablate > max_kl:
        return f"KL of ablation > {max_kl:g}"
    if objective == "defence" and row.gain <= 0:
        return "gain <= 0"
    return ""


def require_validation(candidates: Candidates, prompts: PromptSet) -> None:
    PromptSet.of(prompts, "select a direction").require(asked="select a direction")
    if -1 not in candidates.positions:
        raise DirectionError(
            "select a direction", f"the candidates were read at {list(candidates.positions)}", "include position -1"
        )
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
