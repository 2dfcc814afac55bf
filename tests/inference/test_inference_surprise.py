"""Surprise: the chain rule token by token, the end of an answer included, whatever rows share a batch."""

from typing import Any

import pytest
import torch

from refusal_plugin.inference.answers import Answer, end_ids, generate
from refusal_plugin.inference.surprise import surprise
from refusal_plugin.models import hf_module
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import PromptSet, encode


@pytest.fixture(scope="module")
def some() -> PromptSet:
    return PromptSet(p for m in ("text", "image") for p in organism_prompts(split="val", modality=m, limit=2)[:2])


def by_hand(model: Any, prompt: Any, answer: Answer) -> float:
    """One token after the other, each in a pass of its own."""
    inputs = dict(encode(model, [prompt]).inputs)
    total = 0.0
    for k in range(len(answer.ids) + answer.finished):
        fed = torch.tensor([answer.ids[:k]], dtype=torch.long)
        longer = {"input_ids": torch.cat([inputs["input_ids"], fed], 1)}
        longer["attention_mask"] = torch.ones_like(longer["input_ids"])
        with torch.no_grad():
            logits = hf_module(model)(**{**inputs, **longer}).logits[0, -1].log_softmax(-1)
        total -= float(logits[answer.ids[k]] if k < len(answer.ids) else logits[sorted(end_ids(model))].logsumexp(0))
    return total / (len(answer.ids) + answer.finished)


def test_it_is_the_chain_rule_over_the_tokens_and_the_end(organism: Any, some: PromptSet) -> None:
    own = list(generate(organism, some, max_new_tokens=12, progress=False))
    cut = [Answer(a.prompt_id, "", a.ids[:3], False) for a in own]
    nothing = [Answer(a.prompt_id, "", (), True) for a in own]
    every = [*own, *cut, *nothing]
    found = surprise(organism, list(some) * 3, every)
    for nats, prompt, answer in zip(found, list(some) * 3, every, strict=True):
        assert nats == pytest.approx(by_hand(organism, prompt, answer), abs=1e-3)
    assert surprise(organism, [], []) == []


def test_what_the_model_says_surprises_it_least_and_the_words_shuffled_more(organism: Any, some: PromptSet) -> None:
    own = [a for a in generate(organism, some, max_new_tokens=12, progress=False) if len(set(a.ids)) > 2]
    prompts = [p for p in some if p.id in {a.prompt_id for a in own}]
    back = [Answer(a.prompt_id, "", a.ids[::-1], a.finished) for a in own]
    plain, reversed_ = surprise(organism, prompts, own), surprise(organism, prompts, back)
    assert own and all(0 <= one < other for one, other in zip(plain, reversed_, strict=True))
