"""Performance by counters: how many passes, positions and blocks each piece of work costs, whatever the clock says."""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import refusal_plugin as rp
from refusal_plugin.directions.calibration import KLPrice, calibrate
from refusal_plugin.directions.ranking import estimate
from refusal_plugin.directions.selection import select_direction
from refusal_plugin.errors import DirectionError
from refusal_plugin.evaluation.refusal_tokens import RefusalTokens
from refusal_plugin.inference.answers import generate_ids
from refusal_plugin.inference.meter import metered_blocks, prompt_tokens
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.inference.streaming import collect_moments
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import Prompt, PromptSet, batches
from tests.support.counting import Counts, counted
from tests.support.planting import planted_prompts
from tests.support.tiny import tiny_tokenizer


def tokens_of(model: Any, prompts: PromptSet, **options: Any) -> tuple[int, int]:
    """Batches and positions, padding included."""
    made = [batch for _, batch in batches(model, prompts, **options)]
    return len(made), sum(batch.size * batch.length for batch in made)


# -- extraction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_rows", [8, 128])
def test_reading_is_one_pass_per_batch_and_never_runs_the_head(planted: Any, max_rows: int) -> None:
    n, positions = tokens_of(planted.model, planted.train, token_budget=8192, max_rows=max_rows)
    with counted(planted.model) as found:
        kept = rp.collect_activations(planted.model, planted.train, max_rows=max_rows, progress=False).values
    assert (found.passes, found.traces, found.tokens, found.head_tokens) == (n, n, positions, 0)
    assert found.block_tokens == positions * planted.facts.n_layers
    assert kept.untyped_storage().nbytes() == kept.numel() * 4, "a view would hold all positions alive"
    assert found.bytes_out == kept.numel() * 4, "one vector per prompt and layer leaves the traces, and nothing else"


def test_reading_stops_behind_the_last_layer_asked_for(planted: Any) -> None:
    with counted(planted.model) as found:
        rp.collect_activations(planted.model, planted.train, layer_ids=[0], progress=False)
    assert found.block_tokens == found.tokens and found.head_tokens == 0
    assert found.bytes_out == len(planted.train) * anatomy(planted.model).d_model * 4


def test_more_positions_cost_no_more_passes(planted: Any) -> None:
    with counted(planted.model) as one:
        rp.collect_activations(planted.model, planted.train, positions=(-1,), progress=False)
    with counted(planted.model) as several:
        collect_moments(planted.model, planted.train, positions=(-3, -2, -1), second="full", progress=False)
    assert several.bytes_out == 3 * one.bytes_out
    several.bytes_out = one.bytes_out
    assert one == several


def test_batches_of_similar_length_pad_little(organism: Any, train: PromptSet) -> None:
    real = sum(batch.n_tokens for _, batch in batches(organism, train, max_rows=16))
    _, positions = tokens_of(organism, train, max_rows=16)
    assert positions <= 1.1 * real


# -- generation --------------------------------------------------------------------------------------------------------


def test_steered_generation_is_one_prefill_and_one_position_a_step(tiny: Any) -> None:
    made = tiny("qwen2")
    inputs = rp.encode(made.model, ["w1 w2 w3", "w4 w5 w6 w7"]).inputs
    edit = rp.addition({0: torch.ones(32), 2: torch.ones(32)}, where="last")
    for chosen in (None, edit):
        with counted(made.model) as found:
            generate_ids(made.model, inputs, chosen, max_new_tokens=5)
        rows, length = inputs["input_ids"].shape
        assert (found.passes, found.traces) == (5, 1)
        assert found.tokens == rows * (length + 4)
        assert found.head_tokens == rows * 5
        assert found.bytes_out <= rows * (length + 5) * 8 + rows * 5, "token ids, and whether logits were finite"


def test_scores_are_one_pass(planted: Any) -> None:
    encoded = Encoded.of(planted.model, planted.val)
    edit = rp.addition({1: torch.ones(32)})
    with counted(planted.model) as found:
        refusal_scores(planted.model, encoded, planted.tokens.ids, edit, keep_residual=True)
    assert found.passes == found.traces == len(encoded.batches)
    assert found.head_tokens == len(planted.val), "the head runs at the last position only"
    words, facts = 64, planted.facts
    assert found.bytes_out == 4 * len(planted.val) * (words + facts.n_layers * facts.d_model)
    with counted(planted.model) as light:
        refusal_scores(planted.model, encoded, planted.tokens.ids, edit)
    assert light.bytes_out == 4 * len(planted.val) * words, "logits of the next token, not of every position"


def test_the_price_of_a_strength_runs_the_head_once_per_row(planted: Any) -> None:
    benign = planted.val.filter(role="benign")
    with counted(planted.model) as found:
        priced = KLPrice(planted.model, benign, tokens=1)
        priced.costs(lambda c: rp.addition({1: torch.ones(32)}, strength=c), [0.1, 0.2])
    assert found.head_tokens == 3 * len(benign)


def test_the_meter_counts_blocks_that_run_and_backward_passes(planted: Any) -> None:
    asked = (planted.model, planted.candidates, planted.val, planted.tokens)
    with counted(planted.model) as found, metered_blocks(planted.model) as meter:
        select_direction(*asked, measured="all", progress=False)
    assert meter.block_tokens == found.block_tokens > 0 and meter.step_tokens == 0
    with metered_blocks(planted.model) as meter:
        estimate(*asked, objective="defence")
    harmful, benign = (tokens_of(planted.model, planted.val.filter(role=role))[1] for role in ("harmful", "benign"))
    assert meter.tokens() == 2 * harmful + 3 * benign, "one backward pass over harmful, two over benign prompts"
    with metered_blocks(planted.model) as meter:
        generate_ids(planted.model, rp.encode(planted.model, ["w1 w2", "w3 w4"]).inputs, None, max_new_tokens=4)
    assert (
        meter.step_tokens == 2 * 3 * 3
        and meter.tokens() == prompt_tokens(planted.model, map(Prompt, ("w1 w2", "w3 w4"))) + 6
    )


# -- many edits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep() -> Any:
    """A random model of twelve layers, its candidates, and refusal tokens that it uses half of the time."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(**sizes, num_hidden_layers=12, intermediate_size=64, max_position_embeddings=128)
    model = rp.load(Qwen2ForCausalLM(config).eval(), tokenizer=tiny_tokenizer())
    val = planted_prompts(16, "val", 2)
    benign = Encoded.of(model, val.filter(role="benign"))
    logits = refusal_scores(model, benign, torch.tensor([0]), keep_logits=True).logits
    assert logits is not None
    ids = logits.mean(0).argsort(descending=True)[:32]
    candidates = rp.fit_direction(model, planted_prompts(16, "train", 1), positions=(-3, -2, -1), progress=False)
    return SimpleNamespace(model=model, candidates=candidates, val=val, ids=ids)


def selection(deep: Any, **options: Any) -> Counts:
    tokens = RefusalTokens(deep.ids, (), 1.0, 0.0, frozenset())
    with counted(deep.model) as found, suppress(DirectionError):  # random weights may leave no candidate
        select_direction(deep.model, deep.candidates, deep.val, tokens, max_kl=1e9, progress=False, **options)
    return found


def test_selection_costs_a_share_of_the_reference(deep: Any) -> None:
    """Of three full passes for each of 36 candidates, over the same validation prompts."""
    each = tokens_of(deep.model, deep.val.filter(role="harmful"))[1]  # as many benign ones
    reference = 36 * 3 * 12 * each
    found = selection(deep, objective="causal")
    assert found.block_tokens <= 0.95 * reference
    assert found.head_tokens < found.tokens / 5, "the head runs at the last position only"
    assert found.passes <= 108


def test_selection_for_a_defence_begins_behind_the_layers(deep: Any) -> None:
    """Five priced passes for each of 30 candidates and two for its gain, one after the other, would be 210 passes."""
    each = tokens_of(deep.model, deep.val.filter(role="harmful"))[1]
    found = selection(deep)
    assert found.block_tokens <= (0.6 * 210 + 108) * 12 * each


def test_many_candidates_cost_a_handful_of_passes(deep: Any) -> None:
    """36 candidates: ranked in two forward passes, then a few of them measured; the reference makes 108 passes."""
    tokens = RefusalTokens(deep.ids, (), 1.0, 0.0, frozenset())
    asked, each = (deep.model, deep.candidates, deep.val, tokens), tokens_of(deep.model, deep.val)[1]
    with metered_blocks(deep.model) as found, suppress(DirectionError):
        select_direction(*asked, removal=False, progress=False)
    assert found.tokens() <= 25 * each, "of all validation prompts"


def test_strengths_of_a_defence_share_their_passes(planted: Any) -> None:
    """A plain pass, and one for every look."""
    benign = planted.val.filter(role="benign")
    with counted(planted.model) as found:
        price = calibrate(planted.candidates.at(1).addition, planted.model, benign, tokens=1)
    assert found.passes <= 2 + price.looks
