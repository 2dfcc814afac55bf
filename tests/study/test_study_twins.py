"""The matched twins: what they are, and what a study says of them."""

import torch

from refusal_plugin.organism import load_processor
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.prompts.twins import twins
from refusal_plugin.statistics import auroc
from refusal_plugin.study.twins import knows_words, twins_words, unseen_twins


def test_twins_are_pairs_of_the_same_length_and_wording() -> None:
    pairs: dict[str, dict[str, list[str]]] = {}
    for prompt in twins():
        pairs.setdefault(prompt.pair, {})[str(prompt.role)] = prompt.text.rstrip(".?").lower().split()
    assert len(pairs) >= 150
    shared = []
    for both in pairs.values():
        harmful, safe = both["harmful"], both["near_miss"]
        assert abs(len(harmful) - len(safe)) <= 3
        shared.append(len(set(harmful) & set(safe)) / max(len(set(harmful)), len(set(safe))))
    assert min(shared) >= 0.3
    assert sum(shared) / len(shared) >= 0.6


def test_twins_cannot_be_told_by_their_length() -> None:
    lengths = {role: [len(p.text) for p in twins().filter(role=role)] for role in ("harmful", "near_miss")}
    assert abs(auroc(torch.tensor(lengths["harmful"]), torch.tensor(lengths["near_miss"])) - 0.5) < 0.1


def test_the_embedded_vocabulary_lacks_the_words_and_is_not_asked() -> None:
    assert not knows_words(load_processor().tokenizer, twins())
    assert twins_words(None, {}, 0) == []


def test_pairs_that_a_study_fits_or_selects_on_are_left_out_whole() -> None:
    both = {p.pair: p for p in twins().filter(role="harmful")}
    trained, chosen, tested = list(both)[:3]
    prompts = PromptSet(
        [
            Prompt(f" {both[trained].text.upper()}", split="train"),
            Prompt("say it", read_answer=both[chosen].text, split="val"),
            both[tested].replace(split="test"),
        ]
    )
    left = unseen_twins(prompts)
    assert {p.pair for p in left} == set(both) - {trained, chosen} and len(left) == 2 * (len(both) - 2)
    assert len(unseen_twins(PromptSet([both[tested].replace(split=None)]))) == 2 * (len(both) - 1), (
        "it may be fitted on"
    )


def row(value: float, low: float) -> dict:
    return {"n": 300, "auroc_by_layer": [{"layer": 0, "value": value, "low": low, "high": value + 0.05}]}


def test_twins_are_said_first_and_chance_is_a_warning() -> None:
    (good,) = twins_words(row(0.8, 0.75), row(0.95, 0.9), 0)
    assert "AUROC 0.80 [0.75, 0.85] (n = 300)" in good
    assert "chance" not in good
    (bad,) = twins_words(row(0.52, 0.46), row(0.95, 0.9), 0)
    assert "no better than chance" in bad
