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

from ..activations import collect
from ..answers import Answer, generate
from ..edits import addition
from ..errors import DataError, DirectionError, PromptError
from ..evaluation import read_exactly
from ..evaluation.judge import Judge
from ..models import anatomy
from ..progress import Progress, track
from ..prompts import MODALITIES, PromptSet
from ..provenance import provenance
from ..scores import Encoded, refusal_tokens, score
from .effects import Doses, Length, Operator, doses, rate_effects, score_effects, some_pairs
from .report import TransferReport
from .streams import Streams, need_disjoint
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


def transfer(
    model: Any,
    prompts: PromptSet,
    *,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    layer: int | None = None,
    refusal_ids: Int[Tensor, " k"] | None = None,
    coefficient: float = 1.0,
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
        coefficient: strength of addition, in multiples of the vector.
        length: "matched" gives every source the length of the first one's direction, "own" leaves each its own.
        operator: "benign_mean" sets the coordinate to the target's benign mean, "project_out" to zero.
        score_pairs, rate_pairs: pair groups of each target for refusal scores (every layer) and for generated answers.
        draws, draws_by_layer: random directions at `layer` (for p-values, at least 3) and elsewhere (for the curves).
        judge: who labels answers.
        max_new_tokens: longest answer.
        known: measurements to use again.
        seed: of bootstrap and random directions.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: a modality lacks items, or a pair group lies in the fit and in the test part.
        DirectionError: an unknown layer.
        DataError: NaN activations, or a direction of zero length.
    """
    known = known or Known()
    facts = anatomy(model)
    fit_part, test_part = (prompts.filter(split=name) for name in ("train", "test"))
    sources, targets = _modalities(fit_part, test_part, sources, targets)
    used: list[str] = [m for m in MODALITIES if m in {*sources, *targets}]
    need_disjoint(
        fit_part.where(lambda p: p.modality in used), test_part.where(lambda p: p.modality in used), "transfer"
    )
    chosen = tuple(range(facts.n_layers)) if layers is None else tuple(sorted(set(layers)))
    for one in (*chosen, *(() if layer is None else (layer,))):
        if not 0 <= one < facts.n_layers:
            raise DirectionError(
                f"transfer at layer {one}", f"layers are 0 to {facts.n_layers - 1}", "choose among these"
            )

    with track(2 * len(used) + 2 * len(targets), "transfer", progress) as advance:
        fit: dict[str, Streams] = {}
        test: dict[str, Streams] = {}
        for name in used:
            part = fit_part.filter(modality=name)  # type: ignore[arg-type]
            if name in known.fit:
                fit[name] = known.fit[name]
            elif all(any(p.role == role for p in part) for role in ("harmful", "benign")):
                fit[name] = Streams(part, collect(model, part, progress=False).values[:, 0])
            advance(1)
        for name in used:
            part = test_part.filter(modality=name)  # type: ignore[arg-type]
            if name in known.streams:
                test[name] = known.streams[name]
            elif len(part):
                test[name] = Streams(part, collect(model, part, progress=False).values[:, 0])
            advance(1)
        if refusal_ids is None:
            refusal_ids = refusal_tokens(model, fit_part.filter(modality="text"), judge=judge, progress=False).ids
        given = fitted_doses(fit, sources, targets, coefficient, length, operator)
        if layer is None:
            layer = choose_layer(model, prompts, given, sources[0], chosen, refusal_ids)
        if layer not in chosen:
            chosen = tuple(sorted({*chosen, layer}))

        understood = {name: _understood(model, known, test[name], max_new_tokens) for name in targets}
        values, p = read_tables(fit, test, sources, targets, chosen, layer, understood, seed)
        undefended: dict[str, list[Answer]] = {}
        for j, name in enumerate(targets):
            here = test[name].prompts
            effects = score_effects(
                model, some_pairs(here, score_pairs), j, given, refusal_ids, layer,
                layer_ids=chosen, draws=draws, draws_by_layer=draws_by_layer, seed=seed,
            )  # fmt: skip
            put_effects(values, p, effects, j, chosen.index(layer))
            advance(1)
            undefended[name] = list(known.answers.get(name) or ())
            if not undefended[name]:
                undefended[name] = generate(model, here, max_new_tokens=max_new_tokens, progress=False)
            said = {answer.prompt_id: answer for answer in undefended[name]}
            rates = rate_effects(
                model, some_pairs(here, rate_pairs), j, given, layer,
                known=said, judge=judge, max_new_tokens=max_new_tokens, seed=seed,
            )  # fmt: skip
            for key, table in rates.items():
                values[key][:, j, chosen.index(layer)] = table
            advance(1)

    gap = None
    if sources[0] in targets:
        gap = the_gap(fit, test, sources[0], targets, chosen, layer, undefended, understood, judge, seed)
    settings = {
        "coefficient": coefficient, "length": length, "operator": operator, "score_pairs": score_pairs,
        "rate_pairs": rate_pairs, "draws": draws, "draws_by_layer": draws_by_layer, "seed": seed,
        "fit": {name: len(fit[name].prompts) for name in fit},
    }  # fmt: skip
    vectors = torch.stack([_vector(fit[name]) for name in sources])[:, list(chosen)].float()
    asked = PromptSet(p for name in used for part in (fit, test) if name in part for p in part[name].prompts)
    return TransferReport(
        tuple(sources), tuple(targets), chosen, layer, values, p, corrected(p), vectors, gap, settings,
        warnings(fit, test, targets), provenance(model, asked),
    )  # fmt: skip


def fitted_doses(
    fit: Mapping[str, Streams],
    sources: Sequence[str],
    targets: Sequence[str],
    coefficient: float,
    length: Length,
    operator: Operator,
) -> Doses:
    """The vectors that act, and each target's benign mean (the first source's where the target has no fit items)."""
    fitted = torch.stack([_vector(fit[name]) for name in sources])
    if bool((fitted.norm(dim=-1) == 0).any()):
        raise DataError("transfer", "a direction of zero length", "fit on prompts whose activations differ")
    benign = torch.stack([fit.get(name, fit[sources[0]]).of("benign").double().mean(0) for name in targets])
    return doses(fitted, benign, coefficient, length, operator)


def choose_layer(
    model: Any, prompts: PromptSet, given: Doses, source: str, layers: Sequence[int], refusal_ids: Tensor
) -> int:
    """The layer whose direction makes benign validation items of the source refuse most, among layers < 0.8 L."""
    n_layers = given.vectors.shape[1]
    early = [layer for layer in layers if layer < MAX_DEPTH * n_layers] or list(layers)
    benign = prompts.filter(split="val", modality=source, role="benign")  # type: ignore[arg-type]
    if not len(benign):
        return early[-1]
    encoded = Encoded.of(model, benign[list(range(min(24, len(benign))))])
    found = {
        layer: float(score(model, encoded, refusal_ids, addition({layer: given.vectors[0, layer]})).score.mean())
        for layer in early
    }
    return max(found, key=lambda layer: found[layer])


def _modalities(
    fit: PromptSet, test: PromptSet, sources: Sequence[str] | None, targets: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    def has(part: PromptSet, modality: str) -> bool:
        return all(any(p.modality == modality and p.role == role for p in part) for role in ("harmful", "benign"))

    for name in (*(sources or ()), *(targets or ())):
        if name not in MODALITIES:
            raise PromptError(f"transfer with modality {name!r}", "no such modality", f"use {', '.join(MODALITIES)}")
    found: list[str] = [m for m in MODALITIES if has(fit, m)] if sources is None else list(dict.fromkeys(sources))
    tried: list[str] = [m for m in MODALITIES if has(test, m)] if targets is None else list(dict.fromkeys(targets))
    for what, names, part, split in (("source", found, fit, "train"), ("target", tried, test, "test")):
        lacking = [name for name in names if not has(part, name)]
        if not names or lacking:
            which = f"{what} {lacking[0]}" if lacking else f"any {what}"
            raise PromptError(f"transfer with {which}", f"no harmful and benign items in split '{split}'", "add some")
    return found, tried


def _vector(streams: Streams) -> Float[Tensor, "layer d_model"]:
    found: Tensor = streams.of("harmful").double().mean(0) - streams.of("benign").double().mean(0)
    return found


def _understood(model: Any, known: Known, streams: Streams, max_new_tokens: int) -> frozenset[str] | None:
    """Ids of the items read back correctly; None if no item has a question."""
    name = streams.prompts[0].modality
    if name in known.understood:
        return known.understood[name]
    asked = streams.prompts.where(lambda p: p.read_text is not None and p.read_answer is not None)
    if not len(asked):
        return None
    said = generate(model, [p.read_back() for p in asked], max_new_tokens=max_new_tokens, progress=False)
    return frozenset(p.id for p, hit in zip(asked, read_exactly(list(asked), said), strict=True) if hit)
