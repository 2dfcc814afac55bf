"""Answers -> labels -> rates: who refused, who answered, how sure we are, and what the set can show at all."""

from .agreement import Agreement, compare_judges, judge_agreement
from .contract import Contract, compare_contracts
from .endpoint import EndpointJudge
from .formats import Format
from .guards import RECOMMENDED, GenerativeJudge
from .judge import LABELS, REFUSALS, Judge, Label, PhraseJudge, match_answers, name_of
from .model_judges import ClassifierJudge, FirstTokenJudge
from .openings import find_openings, opening_scores
from .paired import PairedComparison, mcnemar, paired_test
from .power import Power, defence_success, statistical_power
from .rates import (
    DefenceRates,
    Outcomes,
    balanced,
    label_answers,
    rate_changes,
    read_exactly,
    refusal_rates,
    same_prompts,
)
from .templates import FORMATS
from .text import Reasoning, normalise

__all__ = [
    "FORMATS",
    "LABELS",
    "RECOMMENDED",
    "REFUSALS",
    "Agreement",
    "ClassifierJudge",
    "Contract",
    "DefenceRates",
    "EndpointJudge",
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
    "compare_contracts",
    "compare_judges",
    "paired_test",
    "rate_changes",
    "defence_success",
    "find_openings",
    "judge_agreement",
    "match_answers",
    "mcnemar",
    "name_of",
    "normalise",
    "opening_scores",
    "label_answers",
    "statistical_power",
    "read_exactly",
    "refusal_rates",
    "same_prompts",
]
