"""Answers -> labels -> rates: who refused, who answered, how sure we are, and what the set can show at all."""

from .agreement import Agreement, judge_agreement
from .formats import FORMATS, HARMBENCH, LLAMA_GUARD, WILDGUARD, Format
from .judge import LABELS, REFUSALS, Judge, Label, PhraseJudge, match_answers
from .model_judges import ClassifierJudge, FirstTokenJudge, GenerativeJudge
from .openings import find_openings, opening_scores
from .paired import PairedComparison, compare_paired, mcnemar
from .power import Power, defence_success, power
from .rates import DefenceRates, Outcomes, balanced, compare_rates, outcomes, rates, read_exactly, same_prompts
from .text import Reasoning, normalise

__all__ = [
    "FORMATS",
    "HARMBENCH",
    "LABELS",
    "LLAMA_GUARD",
    "REFUSALS",
    "WILDGUARD",
    "Agreement",
    "ClassifierJudge",
    "DefenceRates",
    "FirstTokenJudge",
    "Format",
    "GenerativeJudge",
    "Judge",
    "Label",
    "Outcomes",
    "PairedComparison",
    "PhraseJudge",
    "Power",
    "Reasoning",
    "balanced",
    "compare_paired",
    "compare_rates",
    "defence_success",
    "find_openings",
    "judge_agreement",
    "match_answers",
    "mcnemar",
    "normalise",
    "opening_scores",
    "outcomes",
    "power",
    "rates",
    "read_exactly",
    "same_prompts",
]
