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
own block, candidates are rows of one batch, and all is measured in one session, here or on a server (`figures`). Where
there are many candidates, gradients rank all of them in a handful of passes (`ranking`), and only the most promising
are measured, then the neighbours of the best (by layer and by position) until none is better. If none of those passes
the filters, the next ones are measured, in the end all.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ..errors import DirectionError, PromptError
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.edits import Operator
from ..progress import Progress, track
from ..prompts import PromptSet
from ..remote.options import current
from ..statistics import spearman
from .calibration import TARGET_KL, at_price, harmless_items
from .direction import Candidates, Direction
from .figures import Figures, Place, measure
from .ranking import estimate

Objective: TypeAlias = Literal["causal", "defence"]
Method: TypeAlias = Literal["interventions", "cosmic"]

BEST = 6
"""Candidates that are measured first where gradients rank them."""
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
        estimate: first-order estimate of what the choice rests on (gain, or bypass for "causal"), where candidates were
            ranked by it. A row that has this alone was not measured.
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
    estimate: float = math.nan
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
    target_kl: float = TARGET_KL,
    max_kl: float = MAX_KL,
    max_depth: float = MAX_DEPTH,
    removal: bool = True,
    measured: int | Literal["all"] | None = None,
    harmless: PromptSet | None = None,
    remote: bool | str = False,
    progress: Progress = None,
) -> Direction:
    """The best candidate, with the whole selection table and a strength, priced where `harmless` prompts are given.

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
        target_kl: nats that a strength may cost: of the first token where candidates are compared, of the whole answer
            where the chosen one is priced.
        max_kl, max_depth: limits of the filters.
        removal: whether the table also holds what removing and inducing do (bypass, induce, KL, COSMIC); the choice for
            a defence does not rest on them, and costs a third without.
        measured: how many candidates are measured at first, the most promising by gradients; "all" for every one.
            None takes 6 where that is less than a third of the candidates and gradients are to be had (not by COSMIC,
            which has no slope here, and not on a server without `remote.settings(trusted=True)`), else all.
        harmless: validation prompts, of every modality in which the direction will act, on which the strength of the
            chosen one is priced as everywhere else (`at_price`). Without them it is the one at which it was compared
            with the others, and says that it is not priced.
        remote: measure on NDIF: one request for a defence, several where one would exceed `remote.Settings.max_tokens`.
            Where the choice does not rest on strengths, that of the chosen candidate is one more.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: a role is missing, or prompts of the fit are used again.
        DirectionError: no candidate passes the filters (the error says which filter stopped how many), the choice rests
            on figures that are left out, or a strength is to be priced on a server.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    require_validation(candidates, prompts)
    if harmless is not None:
        harmless = harmless_items(PromptSet.of(harmless, "price a strength"))
        if remote:
            found = "a price reads many whole answers, where the weights are"
            raise DirectionError("price a strength on a server", found, "leave harmless= out, and use at_price later")
    if not isinstance(tokens, RefusalTokens):
        found = f"a {type(tokens).__name__} in the place of the refusal tokens"
        raise DirectionError("select a direction", found, "give refusal_tokens(model, training_prompts)")
    if not removal and (objective, method) != ("defence", "interventions"):
        asked, found = f"select a direction for {objective} by {method}", "removal=False leaves out what decides"
        raise DirectionError(asked, found, "leave removal=True")
    options: dict[str, Any] = {"operator": operator, "target_kl": target_kl, "remote": remote}
    source = (model, candidates, prompts, tokens)
    limits: dict[str, Any] = {"method": method, "objective": objective, "max_kl": max_kl, "max_depth": max_depth}
    limits["removal"] = removal
    places = [place for place in places_of(candidates) if _differs(candidates, place)]
    may = [place for place in places if place[0] < max_depth * candidates.n_layers]
    some = first_measured(measured, len(may), method, remote)
    with track(2, "layers and positions", progress) as advance:
        figures: dict[Place, Figures] = {}
        known: dict[str, Any] = {}
        if some is not None:
            guessed = estimate(*source, objective=objective, **options)
            limits["estimates"] = {
                place: one["gain" if objective == "defence" else "bypass"] for place, one in guessed.items()
            }
            may.sort(key=lambda place: _promise(guessed[place], objective, max_kl), reverse=True)
        advance(1)
        wanted = places if some is None else may[:some]
        while wanted:
            priced = [place for place in wanted if place in may] if objective == "defence" else ()
            figures |= measure(*source, places=wanted, priced=priced, removal=removal, known=known, **options)
            wanted = [] if some is None else _next(candidates, figures, may, some, limits)
        chosen = choose(candidates, figures, **limits)
        if objective == "causal":  # here the choice does not rest on strengths: that of the chosen one is enough
            place = (chosen.layer, chosen.position)
            figures[place] |= measure(*source, places=[place], priced=[place], removal=False, known=known, **options)[
                place
            ]
            chosen = choose(candidates, figures, **limits)
        advance(1)
    return chosen if harmless is None else at_price(chosen, model, harmless, target_kl=target_kl)


def first_measured(measured: int | Literal["all"] | None, n: int, method: Method, remote: bool | str) -> int | None:
    """How many of n candidates are measured at first; None for all: see `select_direction`.

    Raises:
        DirectionError: fewer than one.
    """
    if isinstance(measured, int) and measured < 1:
        raise DirectionError("select a direction", f"measured = {measured}", "give 1 or more, or 'all'")
    gradients = method != "cosmic" and (not remote or current().trusted is True)
    few = BEST if measured is None else measured  # "all" is no number
    if not isinstance(few, int) or not gradients or few >= n or (measured is None and 3 * few >= n):
        return None
    return few


def _promise(guessed: Figures, objective: Objective, max_kl: float) -> tuple[float, ...]:
    """What the order of measuring maximises: first those that should pass the filters, then what the choice does."""
    if objective == "defence":
        return (guessed["gain"],)
    passes = guessed["induce"] >= 0 and guessed["kl_ablate"] <= max_kl
    return (float(passes), -guessed["bypass"] if passes else guessed["induce"])


def _next(
    candidates: Candidates, figures: Mapping[Place, Figures], order: Sequence[Place], some: int, limits: dict[str, Any]
) -> list[Place]:
    """What to measure next: the neighbours of the best, by layer and by position; without a best, the next in order."""
    left = [place for place in order if place not in figures]
    try:
        best = choose(candidates, figures, **limits)
    except DirectionError:
        return left[:some]
    column = candidates.positions.index
    here = (best.layer, column(best.position))
    return [(layer, p) for layer, p in left if abs(layer - here[0]) + abs(column(p) - here[1]) == 1]


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
    estimates: Mapping[Place, float] | None = None,
) -> Direction:
    """The best of measured candidates: filter, rank, and keep the whole table.

    Args:
        candidates: what was measured.
        figures: what was measured of them, see `figures.measure`.
        estimates: what they were ranked by, if they were: those without figures are out.
        Others as in `select_direction`.

    Raises:
        DirectionError: no candidate passes the filters; the error says which filter stopped how many.
    """
    rows: list[Row] = []
    for place in places_of(candidates):
        known: dict[str, Any] = dict(figures.get(place, {}))
        row = Row(*place, **known, estimate=math.nan if estimates is None else estimates[place])
        reason = _reason(row, objective, max_kl, removal)
        if estimates is not None and place not in figures:
            reason = "estimated only"
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


def rank_agreement(table: Iterable[Mapping[str, Any]], objective: str) -> float | None:
    """Rank correlation of first-order estimates and what was then measured; None where nothing was ranked.

    Over the measured candidates, most of which are the most promising ones: over all of them it would be higher.

    Args:
        table: of a `Direction`.
        objective: what it was selected for.
    """
    name = "gain" if objective == "defence" else "bypass"
    # Tables of earlier versions have no estimates.
    pairs = [(row.get("estimate", math.nan), row[name]) for row in table]
    both = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    return spearman(*zip(*both, strict=True)) if len(both) > 2 else None


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
