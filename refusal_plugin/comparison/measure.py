"""Price every defence, let it answer, and label the answers: the long part of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from ..defences.opened import is_gated
from ..defences.run import DefenceRun
from ..evaluation import (
    Agreement,
    Judge,
    Outcomes,
    PhraseJudge,
    Power,
    compare_judges,
    label_answers,
    statistical_power,
)
from ..inference.edits import NO_EDIT
from ..models import anatomy
from ..progress import Progress, track
from ..prompts import Modality
from .cells import SAFE, Kind, Measurement
from .claims import AT_STRENGTH_OF
from .fits import Fitted
from .results import Measured


class Settings(TypedDict):
    """Of a `DefenceRun`."""

    target_kl: float
    price_tokens: int
    calibration_items: int
    max_new_tokens: int
    max_rows: int
    token_budget: int


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        modalities: in this order.
        strengths: multiples of the matched strength.
        pareto: names of the methods that are run at them, with the first seed.
    """

    modalities: tuple[Modality, ...]
    strengths: tuple[float, ...]
    pareto: frozenset[str]


def measure(
    arena: DefenceRun,
    fitted: Sequence[Fitted],
    plan: Plan,
    judge: Judge | None = None,
    progress: Progress = None,
    guard: Judge | None = None,
) -> Measured:
    """Measure a plan, one modality after the other.

    Args:
        arena: the model and its prompts.
        fitted: the defences.
        plan: what is measured.
        judge: who labels.
        progress: see `track`.
        guard: a second judge, asked about the undefended answers and the first fit's at the matched price.
    """
    agreement: dict[str, Agreement] = {}
    plain: dict[str, Outcomes] = {}
    powers: dict[str, Power] = {}
    surprise: dict[str, list[float]] = {}
    cells: list[Measurement] = []
    first = min((f.seed for f in fitted), default=0)
    steps = len(plan.modalities) * (1 + 2 * len(fitted))
    with track(steps, f"comparison on {anatomy(arena.model).name}", progress) as advance:
        for m in plan.modalities:
            arena.forget()
            test = arena.tests[m]
            heard = list(arena.answers(None, m)[0])
            harmless = [place for place, p in enumerate(test) if p.role in SAFE]
            spoken = {-1: [heard[place] for place in harmless]}
            plain[m] = label_answers(test, heard, judge)
            powers[m] = statistical_power(plain[m])
            advance(1)
            prices = {}
            for f in fitted:
                prices[f.name, f.seed] = arena.price(f.defence, m)
                advance(1)
            for f in fitted:
                price = prices[f.name, f.seed]
                graded = f.defence.system is None
                wide = graded and f.name in plan.pareto and f.seed == first
                tried = [price.strength, *(k * price.strength for k in plan.strengths if wide)]
                kinds: list[Kind] = ["matched"]
                kinds += ["grid" for _ in tried[1:]]
                of = AT_STRENGTH_OF.get(f.name, "")
                # A control has both seeds of a pair, what it controls for perhaps only one of them.
                base = prices.get((of, f.seed), prices.get((of, f.seed ^ 1)))
                if base is not None and graded and m != "text":  # the claims about it are about media
                    tried.append(base.strength)
                    kinds.append("same_strength")
                for kind, c, said in zip(kinds, tried, arena.answers(f.defence, m, tried), strict=True):
                    heard += said if kind == "matched" and f.seed == first else []
                    spoken |= {len(cells): [said[place] for place in harmless]} if kind == "matched" else {}
                    cells.append(Measurement(f.name, f.seed, m, kind, c, price, label_answers(test, said, judge)))
                if graded and m != "text" and is_gated(f.defence.edit(price.strength, modality=m) or NO_EDIT):
                    said = arena.answers(f.defence, m, [price.strength], roles=("harmful",), gate_open=True)[0]
                    hit = label_answers(test.filter(role="harmful"), said, judge)
                    oracle = on_harm(hit, plain[m])
                    cells.append(Measurement(f.name, f.seed, m, "oracle", price.strength, price, oracle))
                advance(1)
            surprise[m], *nats = arena.surprise(m, list(spoken.values()))
            for cell, own in zip(list(spoken)[1:], nats, strict=True):
                cells[cell] = replace(cells[cell], surprise=tuple(own))
            if guard is not None:
                asked = list(test) * (len(heard) // len(test))
                rng = np.random.default_rng(0)
                agreement[m] = compare_judges(asked, heard, judge or PhraseJudge(), guard, rng=rng)
    return Measured(plain, powers, cells, agreement, surprise)


def on_harm(harmful: Outcomes, plain: Outcomes) -> Outcomes:
    """Outcomes of harmful prompts, and of all others as the model is: a defence whose gate is the true label."""
    own = dict(zip((p.id for p in harmful.prompts), harmful.labels, strict=True))
    found = (own.get(p.id, label) for p, label in zip(plain.prompts, plain.labels, strict=True))
    return Outcomes(plain.prompts, tuple(found), plain.correct)
