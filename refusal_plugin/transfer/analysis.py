"""Does one modality's refusal direction reach another, how much, in which layers, and is it causal?

For every source A and target B (paper-free definitions in `similarity`, `effects` and `gap`):

    r_A[l]  = mean harmful - mean benign stream of A, fit part, last prompt token, resid_post
    read    cosine(r_A, r_B); AUROC of B's harmful test items along r_A
    act     add r_A in B, set B's coordinate along r_A to B's benign mean: refusal score and generated refusal rate

Fit and test part share no pair group; the layer of the generated rates is chosen on the source's validation part, or
given. What it does not show: that refusal is ONE direction, or that another model behaves alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError, PromptError
from ..evaluation import read_exactly
from ..evaluation.judge import Judge
from ..evaluation.refusal_tokens import refusal_tokens
from ..inference.activations import known_layers
from ..inference.answers import Answer, generate
from ..inference.arm_sets import ArmSet, score_arm_sets
from ..inference.edits import Operator, addition
from ..inference.streams import Streams, collect_streams, has_both, need_disjoint, some_pairs
from ..models.provenance import provenance
from ..progress import Progress, track
from ..prompts import EVERY_MODALITY, PromptSet
from .effects import Interventions, Length, rate_effects, scaled_vectors, score_effects
from .result import TransferReport
from .tables import corrected, put_effects, read_tables, the_gap, warnings

MAX_DEPTH = 0.8


@dataclass(frozen=True)
class Known:
    """What another analysis of the same model and test prompts has measured already, per modality.

    Attributes:
        streams: test streams.
        answers: undefended answers, in the order of the test prompts.
        understood: ids of the test items that were read back correctly; None where nobody asked.
        fit: fit streams.
    """

    streams: Mapping[str, Streams] = field(default_factory=dict)
    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    understood: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    fit: Mapping[str, Streams] = field(default_factory=dict)


def analyse_transfer(
    model: Any,
    prompts: PromptSet,
    *,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    layer: int | None = None,
    refusal_ids: Int[Tensor, " k"] | None = None,
    strength: float = 1.0,
    length: Length = "matched",
    operator: Operator = "benign_mean",
    score_pairs: int = 24,
    rate_pairs: int = 36,
    draws: int = 12,
    draws_by_layer: int = 2,
    judge: Judge | None = None,
    max_new_tokens: int = 24,
    known: Known | None = None,
    seed: int = 0,
    remote: bool | str = False,
    progress: Progress = None,
) -> TransferReport:
    """Every ordered pair of modalities, every layer: alike, readable, causal; with intervals, controls and the gap.

    Args:
        model: a loaded model.
        prompts: roles and splits; sources need harmful and benign items in `train`, targets in `test`.
        sources: modalities whose direction is fitted; by default all that have training items. The first one sets the
            length of all vectors and is the reference of the gap.
        targets: modalities it is tried on; by default all that have test items.
        layers: blocks to analyse; None for all.
        layer: where answers are generated and tests are made; None chooses it on the first source's validation items:
            the largest refusal score of benign items with the direction added, among layers < 0.8 L.
        refusal_ids: the model's refusal tokens; None derives them from training text.
        strength: strength of addition, in multiples of the vector.
        length: "matched" gives every source the length of the first one's direction, "own" leaves each its own.
        operator: "benign_mean" sets the coordinate to the target's benign mean, "project_out" to zero.
        score_pairs, rate_pairs: pair groups of each target for refusal scores (every layer) and for generated answers;
            with `rate_pairs=0` nothing is generated, so that rates, refusal gap and read-back stay unmeasured.
        draws, draws_by_layer: random directions at `layer` (for p-values, at least 3) and elsewhere (for the curves).
        judge: who labels answers.
        max_new_tokens: longest answer.
        known: measurements to use again.
        seed: of bootstrap and random directions.
        remote: run on NDIF: one request each for streams, scores and the arms' answers, and for refusal tokens, layer,
            plain answers and read-back where they are not given; several where one would be too large.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: a modality lacks items, or a pair group lies in the fit and in the test part.
        DirectionError: an unknown layer.
        DataError: NaN activations, or a direction of zero length.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    known, prompts = known or Known(), PromptSet.of(prompts, "transfer").assigned()
    fit_part, test_part = (prompts.filter(split=name) for name in ("train", "test"))
    sources, targets = _modalities(fit_part, test_part, sources, targets)
    used: list[str] = [m for m in EVERY_MODALITY if m in {*sources, *targets}]
    fit_part, test_part = (part.where(lambda p: p.modality in used) for part in (fit_part, test_part))
    need_disjoint(fit_part, test_part, "transfer")
    chosen = tuple(known_layers(model, None if layers is None else [*layers, *(() if layer is None else (layer,))]))
    if layer is not None:
        known_layers(model, [layer])

    with track(5, "transfer", progress) as advance:
        fit, test = _streams(model, known, fit_part, test_part, used, remote)
        advance(1)
        if refusal_ids is None:
            text = prompts.filter(split="train", modality="text")
            refusal_ids = refusal_tokens(model, text, judge=judge, remote=remote, progress=False).ids
        fitted = torch.stack([_vector(fit[name]) for name in sources])
        if bool((fitted.norm(dim=-1) == 0).any()):
            raise DataError("transfer", "a direction of zero length", "fit on prompts whose activations differ")
        vectors = scaled_vectors(fitted, strength, length)
        if layer is None:
            layer = choose_layer(model, prompts, vectors[0], sources[0], chosen, refusal_ids, remote=remote)
        advance(1)
        undefended, understood = _answers(model, known, test, targets, rate_pairs > 0, max_new_tokens, remote)
        advance(1)
        values, p = read_tables(fit, test, sources, targets, chosen, layer, understood, seed)
        # The first source's benign mean where a target has no fit items.
        benign = torch.stack([fit.get(name, fit[sources[0]]).of("benign").double().mean(0) for name in targets])
        drawn = tuple(draws if at == layer else draws_by_layer for at in chosen)
        given = Interventions(vectors, benign.float(), operator, chosen, drawn, seed)
        acted = [some_pairs(test[name].prompts, score_pairs) for name in targets]
        for j, effects in enumerate(score_effects(model, acted, given, refusal_ids, remote=remote)):
            put_effects(values, p, effects, j, chosen.index(layer))
        advance(1)
        if rate_pairs:
            asked = [some_pairs(test[name].prompts, rate_pairs) for name in targets]
            said = {answer.prompt_id: answer for answers in undefended.values() for answer in answers}
            found = rate_effects(
                model, asked, given, layer, before=said, judge=judge, max_new_tokens=max_new_tokens, remote=remote
            )
            for j, rates in enumerate(found):
                for key, table in rates.items():
                    values[key][:, j, chosen.index(layer)] = table
        advance(1)

    gap = None
    if sources[0] in targets:
        gap = the_gap(fit, test, sources[0], targets, chosen, layer, undefended, understood, judge, seed)
    settings = {
        "strength": strength, "length": length, "operator": operator, "score_pairs": score_pairs,
        "rate_pairs": rate_pairs, "draws": draws, "draws_by_layer": draws_by_layer, "seed": seed,
        "fit": {name: len(fit[name].prompts) for name in fit},
    }  # fmt: skip
    asked_all = PromptSet(p for name in used for part in (fit, test) if name in part for p in part[name].prompts)
    return TransferReport(
        tuple(sources), tuple(targets), chosen, layer, values, p, corrected(p), fitted[:, list(chosen)].float(), gap,
        settings, warnings(fit, test, targets), provenance(model, asked_all),
    )  # fmt: skip


def choose_layer(
    model: Any,
    prompts: PromptSet,
    vectors: Float[Tensor, "layer d_model"],
    source: str,
    layers: Sequence[int],
    refusal_ids: Int[Tensor, " k"],
    *,
    remote: bool | str = False,
) -> int:
    """The layer whose vector makes benign validation items of the source refuse most, among layers < 0.8 L."""
    early = [layer for layer in layers if layer < MAX_DEPTH * len(vectors)] or list(layers)
    benign = prompts.filter(split="val", modality=source, role="benign")  # type: ignore[arg-type]
    if not len(benign):
        return early[-1]
    edits = [addition({layer: vectors[layer]}) for layer in early]
    asked = ArmSet(benign[list(range(min(24, len(benign))))], edits)
    (found,) = score_arm_sets(model, [asked], refusal_ids, remote=remote)
    return early[int(found.score.mean(1).argmax())]


def _streams(
    model: Any, known: Known, fit: PromptSet, test: PromptSet, used: Sequence[str], remote: bool | str
) -> tuple[dict[str, Streams], dict[str, Streams]]:
    """Streams of the fit and of the test part by modality, those that are not known read together."""
    parts = {("fit", m): fit.filter(modality=m) for m in used if m not in known.fit and has_both(fit, m)}  # type: ignore[arg-type]
    parts |= {("test", m): test.filter(modality=m) for m in used if m not in known.streams}  # type: ignore[arg-type]
    found = collect_streams(model, parts, remote=remote)
    both = []
    for name, given in (("fit", known.fit), ("test", known.streams)):
        every = {m: given[m] if m in given else found.get((name, m)) for m in used}
        both.append({m: streams for m, streams in every.items() if streams is not None})
    return both[0], both[1]


def _answers(
    model: Any,
    known: Known,
    test: Mapping[str, Streams],
    targets: Sequence[str],
    asked: bool,
    max_new_tokens: int,
    remote: bool | str,
) -> tuple[dict[str, list[Answer]], dict[str, frozenset[str] | None]]:
    """Undefended answers of every target, and the ids of the items read back correctly (None: nobody asked)."""
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "remote": remote, "progress": False}
    answers = {name: list(known.answers.get(name) or ()) for name in targets}
    understood = {name: known.understood.get(name) for name in targets}
    if not asked:
        return answers if all(answers.values()) else {}, understood
    missing = [p for name in targets if not answers[name] for p in test[name].prompts]
    for p, answer in zip(missing, generate(model, missing, **options) if missing else (), strict=True):
        answers[p.modality].append(answer)
    readable = [
        p
        for name in targets
        if name not in known.understood
        for p in test[name].prompts
        if p.read_text is not None and p.read_answer is not None
    ]
    if readable:
        said = generate(model, [p.read_back() for p in readable], **options)
        right = {p.id for p, hit in zip(readable, read_exactly(readable, said), strict=True) if hit}
        for name in {p.modality for p in readable}:
            understood[name] = frozenset(p.id for p in readable if p.modality == name and p.id in right)
    return answers, understood


def _modalities(
    fit: PromptSet, test: PromptSet, sources: Sequence[str] | None, targets: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    for name in (*(sources or ()), *(targets or ())):
        if name not in EVERY_MODALITY:
            do = f"use {', '.join(EVERY_MODALITY)}"
            raise PromptError(f"transfer with modality {name!r}", "no such modality", do)
    found: list[str] = [m for m in fit.modalities if has_both(fit, m)]
    tried: list[str] = [m for m in test.modalities if has_both(test, m)]
    found = found if sources is None else list(dict.fromkeys(sources))
    tried = tried if targets is None else list(dict.fromkeys(targets))
    for what, names, part, split in (("source", found, fit, "train"), ("target", tried, test, "test")):
        lacking = [name for name in names if not has_both(part, name)]
        if not names or lacking:
            which = f"{what} {lacking[0]}" if lacking else f"any {what}"
            raise PromptError(f"transfer with {which}", f"no harmful and benign items in split '{split}'", "add some")
    return found, tried


def _vector(streams: Streams) -> Float[Tensor, "layer d_model"]:
    found: Tensor = streams.of("harmful").double().mean(0) - streams.of("benign").double().mean(0)
    return found
