"""From streams, scores and answers to the tables of a report: what `transfer` and its recipe have in common."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..contrasts import Contrast, empty, row
from ..evaluation import label_answers
from ..evaluation.judge import Judge
from ..inference.answers import Answer
from ..inference.streams import SAFE, Streams
from ..statistics import holm, student_p_value
from .effects import ScoreEffects
from .gap import gap_tables, refusal_gap
from .result import MEASURES, TESTED, ModalityGap
from .similarity import auroc_null, aurocs, cosine_null, cosines

FEW = 30


def read_tables(
    fit: Mapping[str, Streams],
    test: Mapping[str, Streams],
    sources: Sequence[str],
    targets: Sequence[str],
    layers: Sequence[int],
    layer: int,
    understood: Mapping[str, frozenset[str] | None],
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tables of every measure, those that need activations only filled in, and the p-values of the latter."""
    values = {key: empty(len(sources) + 1, len(targets), len(layers)) for key in MEASURES}
    p = {key: torch.full((len(sources), len(targets)), float("nan"), dtype=torch.float64) for key in TESTED}
    at, k = list(layers), list(layers).index(layer)
    fit, test = ({name: s.at(at) for name, s in part.items()} for part in (fit, test))
    groups = sorted({pair for s in fit.values() for pair in s.pairs("harmful", "benign")})
    directions: dict[str, Contrast] = {name: s.direction(groups) for name, s in fit.items()}
    vectors = torch.stack([directions[name].vector for name in sources])
    values["cosine"][:-1], values["cosine_fitted"][:-1] = cosines(directions, sources, targets, len(at), seed)
    for j, target in enumerate(targets):
        values["auroc"][:-1, j] = aurocs(vectors, test[target], SAFE, seed)
        values["auroc_near_miss"][:-1, j] = aurocs(vectors, test[target], ("near_miss",), seed)
        seen = understood.get(target)
        if seen is not None:
            values["auroc_comprehended"][:-1, j] = aurocs(vectors, test[target].keep(seen), SAFE, seed)
        for n in range(len(at)):
            null = auroc_null(test[target], n, seed, 4000 if n == k else 500)
            if null is None:
                continue
            values["auroc"][-1, j, n] = torch.tensor([float(null.values.mean()), null.low, null.high, len(null.values)])
            for i in range(len(sources) if n == k else 0):
                p["auroc"][i, j] = null.p_value(float(values["auroc"][i, j, n, 0]), alternative="two-sided")
        for i, source in enumerate(sources):
            if target not in directions or (target in sources and sources.index(target) <= i):
                continue  # the cosine is symmetric: one test per pair, none of a direction with itself
            drawn = cosine_null(fit[source], k, directions[target].vector[k], seed)
            seen_cosine = abs(float(values["cosine_fitted"][i, j, k, 0]))
            p["cosine"][i, j] = (1 + float((drawn >= seen_cosine - 1e-12).sum())) / (1 + len(drawn))
    return values, p


def put_effects(values: dict[str, Tensor], p: dict[str, Tensor], effects: ScoreEffects, target: int, at: int) -> None:
    """Write one target's score effects into the tables, and their p-values against the random directions."""
    for key, table, null in (
        ("induced_score", effects.induced, effects.null_induced),
        ("ablated_score", effects.ablated, effects.null_ablated),
    ):
        values[key][:, target] = table
        for i in range(p[key].shape[0]):
            observed = float(table[i, at, 0])
            if len(null[at]) >= 3 and observed == observed:
                p[key][i, target] = student_p_value(observed, null[at])


def corrected(p: Mapping[str, Float[Tensor, "source target"]]) -> dict[str, Tensor]:
    """Holm's adjustment over all tested pairs and measures together."""
    every = torch.cat([table.flatten() for table in p.values()])
    known = every.isfinite()
    if bool(known.any()):
        every[known] = torch.from_numpy(np.asarray(holm(every[known])))
    parts = torch.split(every, [table.numel() for table in p.values()])
    return {key: part.reshape(table.shape).clone() for (key, table), part in zip(p.items(), parts, strict=True)}


def the_gap(
    fit: Mapping[str, Streams],
    test: Mapping[str, Streams],
    reference: str,
    targets: Sequence[str],
    layers: Sequence[int],
    layer: int,
    answers: Mapping[str, Sequence[Answer]],
    understood: Mapping[str, frozenset[str] | None],
    judge: Judge | None,
    seed: int,
) -> ModalityGap:
    """The modality gap of every target against the reference."""
    at = list(layers)
    cut = {name: test[name].at(at) for name in targets}
    fitted = {name: s.at(at) for name, s in fit.items()}
    means = tuple(fitted[reference].of(role).double().mean(0) for role in ("harmful", "benign"))
    values = gap_tables(cut, fitted, reference, (means[0], means[1]), seed)
    refusal = {key: empty(len(targets)) for key in ("ungated", "gated")}
    dropped: list[int | None] = []
    judged = {}
    if answers:
        judged = {name: label_answers(cut[name].prompts, answers[name], judge) for name in targets}
    for m, name in enumerate(targets):
        if not judged or name == reference:
            dropped.append(None)
            continue
        found = refusal_gap(judged[reference], judged[name], understood.get(name), seed)
        for key in refusal:
            refusal[key][m] = row(found[key])  # type: ignore[arg-type]
        dropped.append(found["dropped"])  # type: ignore[arg-type]
    return ModalityGap(tuple(targets), reference, tuple(layers), layer, values, refusal, tuple(dropped))


def warnings(fit: Mapping[str, Streams], test: Mapping[str, Streams], targets: Sequence[str]) -> tuple[str, ...]:
    """What to know before quoting a figure."""
    found = []
    for name in targets:
        n = len(set(test[name].pairs("harmful")))
        if n < FEW:
            found.append(f"{name}: only {n} pair groups of harmful test items; intervals are wide.")
        if name not in fit:
            found.append(f"{name}: no training items, so it has no direction of its own and is no source.")
    return tuple(found)
