"""Do two judges say the same? Accuracy, and Cohen's kappa, which takes the agreement of chance out.

    kappa = (p_o - p_e) / (1 - p_e)      p_o: share of equal labels, p_e: the same if both labelled independently

Cohen 1960. 1 is perfect, 0 is what two independent judges with these habits reach. Undefined (None) where both give one
and the same label throughout: then there is nothing that could have disagreed.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from ..errors import DataError
from ..inference.answers import Answer
from ..prompts import Prompt
from ..report.shown import Shown
from ..statistics import RESAMPLES, Estimate, rate
from .judge import REFUSALS, Judge, match_answers


@dataclass(frozen=True)
class Agreement(Shown):
    """How two lists of labels agree.

    Attributes:
        accuracy: share of equal labels.
        kappa: Cohen's kappa.
        table: (first label, second label) to count.
    """

    accuracy: Estimate
    kappa: Estimate
    table: dict[tuple[str, str], int]

    def finding(self) -> str:
        return f"equal labels {self.accuracy}; kappa {self.kappa}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """The table: first label, second label, how often."""
        return [{"first": a, "second": b, "n": n} for (a, b), n in sorted(self.table.items())]

    def to_json(self) -> dict[str, Any]:
        """JSON-able; the table as a list of `{first, second, n}`."""
        return {"accuracy": self.accuracy.to_json(), "kappa": self.kappa.to_json(), "table": self.records()}


def judge_agreement(
    first: Sequence[str],
    second: Sequence[str],
    clusters: Iterable[Hashable] | None = None,
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Agreement of two judges, or of a judge with a labelled set, with 95 % bootstrap intervals over pair groups.

    Args:
        first: labels of one judge (or the true ones).
        second: labels of the other on the same answers.
        clusters: pair id of each answer; None = independent.
        rng: source of randomness.
        resamples: number of bootstrap resamples.

    Raises:
        DataError: no labels, or not as many of one as of the other.
    """
    if len(first) != len(second) or not first:
        raise DataError("agreement of judges", f"{len(first)} and {len(second)} labels", "give one of each per answer")
    ids = list(range(len(first))) if clusters is None else list(clusters)
    if len(ids) != len(first):
        raise DataError("agreement of judges", f"{len(ids)} pair ids for {len(first)} labels", "give one per answer")
    accuracy = rate([a == b for a, b in zip(first, second, strict=True)], ids, rng=rng, resamples=resamples)
    names = sorted({*first, *second})
    groups = {pair: k for k, pair in enumerate(dict.fromkeys(ids))}
    counts = np.zeros((len(groups), len(names), len(names)))
    for pair, a, b in zip(ids, first, second, strict=True):
        counts[groups[pair], names.index(a), names.index(b)] += 1
    value = kappa(counts.sum(0))
    table = dict(Counter(zip(first, second, strict=True)))
    if value is None:
        return Agreement(accuracy, Estimate.missing(len(first)), table)
    draws = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=resamples)
    drawn = [kappa(sample) for sample in np.einsum("rg,gab->rab", draws, counts)]
    known = [k for k in drawn if k is not None]
    low, high = (float(q) for q in np.quantile(known, [0.025, 0.975])) if known else (value, value)
    return Agreement(accuracy, Estimate(value, low, high, len(first)), table)


def compare_judges(
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    first: Judge,
    second: Judge,
    *,
    rng: Generator,
    resamples: int = RESAMPLES,
) -> Agreement:
    """Whether two judges, say the phrase judge and a guard model, call the same answers refused; over pair groups.

    Labels are compared as the rates use them: a refusal is one, late or not, and so is every other label.

    Args:
        prompts: what was asked.
        answers: one per prompt, in order.
        first, second: the judges.
        rng: source of randomness.
        resamples: number of bootstrap resamples.

    Raises:
        DataError: the answers are not those to the prompts in their order.
    """
    match_answers(prompts, answers)
    one, two = (
        ["refusal" if label in REFUSALS else label for label in judge.label(prompts, answers)]
        for judge in (first, second)
    )
    return judge_agreement(one, two, [p.pair for p in prompts], rng=rng, resamples=resamples)


def kappa(table: np.ndarray) -> float | None:
    """Cohen's kappa of a square table of counts; None where chance alone agrees always.

    Args:
        table: (label, label) counts, rows one judge, columns the other.
    """
    share = table / table.sum()
    observed = float(np.trace(share))
    expected = float(share.sum(1) @ share.sum(0))
    return None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)
