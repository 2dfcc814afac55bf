"""Removing heads: equal to torch hooks; the first-order guess is a finite difference."""

from typing import Any

import numpy as np
import pytest
import torch

from refusal_plugin.errors import DataError, DirectionError
from refusal_plugin.evaluation.refusal_tokens import RefusalTokens
from refusal_plugin.heads.causal import HeadAblation
from refusal_plugin.models import anatomy, hf_layers, hf_module
from refusal_plugin.prompts import PromptSet, encode
from refusal_plugin.traced.measure import refusal_score


@pytest.fixture(scope="module")
def tokens(organism: Any) -> RefusalTokens:
    ids = torch.tensor(organism.tokenizer.convert_tokens_to_ids(["i"]))
    return RefusalTokens(ids, ("i",), 1.0, 0.0, frozenset())


@pytest.fixture(scope="module")
def bench(organism: Any, prompts: Any, tokens: RefusalTokens) -> HeadAblation:
    return HeadAblation.of(organism, prompts.filter(role=("harmful", "benign")), tokens)


def hooked_scores(bench: HeadAblation, heads: list[tuple[int, int]], kind: str) -> torch.Tensor:
    """The same with plain torch hooks, one prompt at a time."""
    facts, found = anatomy(bench.model), []
    for prompt in bench.encoded.prompts:
        batch, handles = encode(bench.model, prompt), []
        for layer, head in heads:
            span = slice(head * facts.d_head, (head + 1) * facts.d_head)
            value = bench.means[prompt.modality][layer, span] if kind == "mean" else 0.0

            def change(_module: Any, args: Any, span: slice = span, value: Any = value) -> Any:
                z = args[0].clone()
                z[:, -1, span] = value
                return (z, *args[1:])

            projection = hf_layers(bench.model)[layer].get_submodule(facts.attention_out)
            handles.append(projection.register_forward_pre_hook(change))
        with torch.no_grad():
            found.append(refusal_score(hf_module(bench.model)(**batch.inputs).logits[:, -1], bench.tokens.ids))
        for handle in handles:
            handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["mean", "zero"])
def test_removal_equals_torch_hooks(bench: HeadAblation, kind: Any) -> None:
    heads = [(1, 0), (1, 3), (3, 2)]
    torch.testing.assert_close(bench.scores(heads, kind), hooked_scores(bench, heads, kind), rtol=1e-3, atol=2e-4)


def test_no_head_removed_changes_nothing(bench: HeadAblation) -> None:
    torch.testing.assert_close(bench.scores([]), bench.untouched, rtol=1e-4, atol=1e-4)
    assert bench.effect([], "text").value == pytest.approx(0.0, abs=1e-4)


def test_the_slope_is_a_finite_difference(bench: HeadAblation) -> None:
    """Move one head a little towards its benign mean: the score changes as attribution patching says."""
    facts = anatomy(bench.model)
    small, layer, head = 0.01, facts.n_layers - 2, 1
    batch = encode(bench.model, list(bench.encoded.prompts.filter(modality="text")))
    rows = bench.labels.rows(modality="text")
    span = slice(head * facts.d_head, (head + 1) * facts.d_head)
    usual = bench.means["text"][layer, span]

    def change(_module: Any, args: Any) -> Any:
        z = args[0].clone()
        z[:, -1, span] += small * (usual - z[:, -1, span])
        return (z, *args[1:])

    projection = hf_layers(bench.model)[layer].get_submodule(facts.attention_out)
    handle = projection.register_forward_pre_hook(change)
    with torch.no_grad():
        moved = refusal_score(hf_module(bench.model)(**batch.inputs).logits[:, -1], bench.tokens.ids)
    handle.remove()
    expected = bench.patching[rows, layer, head]
    torch.testing.assert_close((bench.untouched[rows] - moved) / small, expected, rtol=0.1, atol=0.02)


def test_the_last_layers_ranking_predicts_the_exact_effect(bench: HeadAblation) -> None:
    """Behind the last attention there is only an MLP and a norm: first order and exact must agree in rank."""
    layer = anatomy(bench.model).n_layers - 1
    exact = [bench.effect([(layer, head)], "text").value for head in range(anatomy(bench.model).n_heads)]
    guess = bench.ranking("text")[layer]
    assert np.corrcoef(exact, guess.numpy())[0, 1] > 0.7


def test_effects_have_intervals_over_pairs(bench: HeadAblation) -> None:
    found = bench.effect([(2, 1)], "text")
    assert (
        found.low is not None
        and found.low <= found.value <= found.high
        and found.n == len(bench.labels.rows("harmful", "text"))
    )


def test_answers_without_heads(bench: HeadAblation) -> None:
    """Nothing removed: the plain answers. All heads of the deeper layers removed: something else."""
    from refusal_plugin.inference.answers import generate

    plain = generate(bench.model, bench.encoded.prompts, max_new_tokens=6, progress=False)
    assert [a.ids for a in bench.answers([], max_new_tokens=6, progress=False)] == [a.ids for a in plain]
    facts = anatomy(bench.model)
    many = [(layer, head) for layer in range(facts.n_layers) for head in range(facts.n_heads)]
    broken = bench.answers(many, max_new_tokens=6, progress=False)
    assert [a.ids for a in broken] != [a.ids for a in plain]
    assert 0 <= bench.refused(plain, "text").value <= 1


def test_the_random_control_has_the_same_layers_and_size(bench: HeadAblation) -> None:
    heads = [(1, 0), (1, 3), (3, 2)]
    drawn = bench.random_heads(heads, 1)
    assert sorted(layer for layer, _ in drawn) == [1, 1, 3] and not set(drawn) & set(heads)
    everything = [(0, head) for head in range(anatomy(bench.model).n_heads)]
    assert len(set(bench.random_heads(everything))) == len(everything)


def test_bad_requests(bench: HeadAblation, organism: Any, prompts: PromptSet, tokens: RefusalTokens) -> None:
    with pytest.raises(DirectionError, match="layers, and"):
        bench.scores([(0, 99)])
    with pytest.raises(DirectionError, match="kind"):
        bench.scores([(0, 0)], "median")
    with pytest.raises(DataError, match="benign"):
        HeadAblation.of(organism, prompts.filter(role="harmful"), tokens)
