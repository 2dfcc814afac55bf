"""Answers -> labels -> rates: who refused, who answered, how sure we are."""

from .judge import LABELS, Judge, Label, PhraseJudge, normalise
from .rates import DefenceRates, Outcomes, compare_rates, outcomes, rates

__all__ = [
    "LABELS",
    "DefenceRates",
    "Judge",
    "Label",
    "Outcomes",
    "PhraseJudge",
    "compare_rates",
    "normalise",
    "outcomes",
    "rates",
]
