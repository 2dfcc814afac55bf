"""What every recipe costs, by counters, as upper bounds derived from its prompts.

Passes per prompt instead of per batch, streams that nobody reads or logits of every position that leave a trace fail
here, on any machine.
"""

from math import ceil, log2
from typing import Any

import pytest

from refusal_plugin.inference.streams import some_pairs
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import PromptSet
from refusal_plugin.recipe_files import recipe, recipes
from tests.support.counting import FLOAT, LONG, Counts, area, counted, made, run

ROLES = ("harmful", "benign")
ANSWER = 24
"""Longest answer from which refusal tokens are read."""
FULL = 16
"""Rows that a pass under many edits holds at least, on average."""


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    """Two of every split, modality and role."""
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(limit=2, renderings=1)


def acted_on(prompts: PromptSet, model: Any, pairs: int) -> list[PromptSet]:
    """Test items on which directions act, by modality and role."""
    test = prompts.filter(split="test")
    kinds = anatomy(model).modalities
    return [some_pairs(test.filter(modality=m), pairs).filter(role=role) for m in kinds for role in ROLES]


def answered(model: Any, prompts: PromptSet) -> int:
    """Passes of the answers from which refusal tokens are read, at most."""
    return ANSWER * len(made(model, prompts))


def test_every_recipe_is_counted() -> None:
    tested = {name.removeprefix("test_recipe_") for name in globals() if name.startswith("test_recipe_")}
    assert set(recipes()) == tested | {"study"}, "the study asks all of them in turn"


def test_recipe_direction_extraction(organism: Any) -> None:
    """One pass per batch, one vector per prompt and layer, and never the head."""
    from refusal_plugin.organism.data import organism_prompts

    facts, text = anatomy(organism), organism_prompts(modality="text", limit=24)  # enough for several batches
    used = text.filter(split="train", role=ROLES) + text.filter(split="val")
    work = made(organism, used)
    found = run("direction_extraction", organism, text)
    assert 1 < len(work) < len(used) / 8
    assert found.passes <= len(work) + 1 and found.tokens <= area(work) and found.head_tokens == 0
    assert found.bytes_out <= FLOAT * len(used) * facts.n_layers * facts.d_model


def test_recipe_refusal_heads(organism: Any, prompts: PromptSet) -> None:
    """One pass per batch as far as the direction's layer; a few numbers per head come back, never the head's write."""
    facts = anatomy(organism)
    text, look = prompts.filter(split="train", modality="text", role=ROLES), prompts.filter(split="val", role=ROLES)
    fit, seen = made(organism, text), made(organism, look)
    depth = facts.n_layers // 2 + 1
    found = run("refusal_heads", organism, prompts)
    assert found.passes <= len(fit) + len(seen) + 1 and found.head_tokens == 0
    assert found.block_tokens <= facts.n_layers * area(fit) + depth * area(seen)
    streams, numbers = len(text) * facts.n_layers * facts.d_model, len(look) * (depth * (facts.n_heads + 3) + 1)
    assert found.bytes_out <= FLOAT * (streams + numbers) + 2**10


def test_recipe_cross_modal_transfer(organism: Any, prompts: PromptSet) -> None:
    """Reads every item once; all directions of all layers are rows of shared passes, two numbers per row come back."""
    facts, module = anatomy(organism), recipe("cross_modal_transfer")
    arms = 1 + facts.n_layers * (len(facts.modalities) + module.DRAWS)
    rows = arms * sum(len(part) for part in acted_on(prompts, organism, module.PAIRS))
    items, text = prompts.filter(split=("train", "test")), prompts.filter(split="train", modality="text")
    found = run("cross_modal_transfer", organism, prompts)
    assert found.passes <= len(made(organism, items)) + answered(organism, text) + rows / FULL
    answers = 2 * LONG * len(text) * max(batch.length + ANSWER for batch in made(organism, text))
    assert found.bytes_out <= FLOAT * (len(items) * facts.n_layers * facts.d_model + 2 * rows) + answers


def test_recipe_safe_space(organism: Any, prompts: PromptSet) -> None:
    """Reads training items once; all cleaned vectors are rows of shared passes, two numbers per row come back."""
    facts, module = anatomy(organism), recipe("safe_space")
    with counted(organism) as found:
        result = module.run(organism, prompts)
    settings = {len(sweep) for sweep in result.sweeps.values()}
    test, fit = prompts.filter(split="test"), prompts.filter(split="train")
    text, rows = fit.filter(modality="text"), (1 + max(settings)) * len(test)
    assert len(settings) == 1 and max(settings) > 3
    # Beside every pass of cleaned vectors one over its prompts untouched, for the price.
    assert found.passes <= len(made(organism, fit)) + answered(organism, text) + 2 * rows / FULL
    answers = 2 * LONG * len(text) * max(batch.length + ANSWER for batch in made(organism, text))
    assert found.bytes_out <= FLOAT * (len(fit) * facts.n_layers * facts.d_model + 2 * rows) + answers


def test_recipe_defence(organism: Any, prompts: PromptSet) -> None:
    """Reads text and neutral media once without the head; both answers of a test prompt are rows of one batch."""
    facts, module = anatomy(organism), recipe("defence")
    text, test = prompts.filter(modality="text", role=ROLES), prompts.filter(split="test")
    read = len(text.filter(split=("train", "val"))) + 3 * 16 * 4  # media, texts, neutral media
    with counted(organism) as found:
        module.run(organism, prompts)
    spoken = sum(ceil(len(test.filter(modality=m)) / 8) for m in facts.modalities)
    passes = answered(organism, text.filter(split="train")) + module.MAX_NEW_TOKENS * spoken
    assert found.passes <= passes + read / 8, "batches, not prompts"
    assert found.bytes_out <= FLOAT * read * facts.n_layers * facts.d_model + 2**20


def test_recipe_candidate_selection(organism: Any, prompts: PromptSet) -> None:
    """Candidates are rows of shared passes: what a selection takes grows with layers, not with layers x prompts."""
    facts, module = anatomy(organism), recipe("candidate_selection")
    text = prompts.filter(modality="text")
    fit, val = text.filter(split="train", role=ROLES), text.filter(split="val")
    found: Counts = run("candidate_selection", organism, prompts)
    shallow = ceil(module.MAX_DEPTH * facts.n_layers)
    batches = max(len(made(organism, val, max_rows=8)), 3)
    looks = 2 * facts.n_layers + shallow * (4 + round(log2(128))) + 4
    assert found.passes <= len(made(organism, fit)) + answered(organism, fit) + batches * looks
    logits = FLOAT * len(val) * len(facts.tokenizer) * (looks + facts.n_layers)
    assert found.bytes_out <= FLOAT * (len(fit) + len(val)) * facts.n_layers * facts.d_model * 4 + logits
