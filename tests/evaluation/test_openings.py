"""The score of opening sequences, against probabilities multiplied out by hand."""

import itertools
from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError, DirectionError
from refusal_plugin.evaluation import FirstTokenJudge, find_openings, opening_scores
from refusal_plugin.evaluation.openings import tree
from refusal_plugin.evaluation.refusal_tokens import refusal_tokens
from refusal_plugin.inference.edits import Edit, SiteEdit, addition
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.models import anatomy, hf_module
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import PromptSet
from refusal_plugin.traced.measure import opening_score, refusal_score
from refusal_plugin.traced.write import add


@pytest.fixture(scope="module")
def prompts(organism: Any) -> PromptSet:
    """Prompts of unlike lengths, with and without a medium."""
    texts, images = (organism_prompts(split="val", modality=m, limit=2) for m in ("text", "image"))
    return PromptSet([*texts, *images])


def ids(organism: Any, words: str) -> tuple[int, ...]:
    return tuple(anatomy(organism).tokenizer(words, add_special_tokens=False)["input_ids"])


def test_openings_of_one_token_are_scored_as_the_next_token_is_bit_for_bit(organism: Any, prompts: PromptSet) -> None:
    encoded = Encoded.of(organism, prompts)
    for edit in (None, addition({3: torch.ones(anatomy(organism).d_model)}, strength=0.2)):
        plain = refusal_scores(organism, encoded, torch.tensor([7, 3, 19]), edit).score
        assert torch.equal(opening_scores(organism, encoded, [(7,), (3,), (19,)], edit), plain)
    logits = torch.randn(4, 30) * 5
    nodes, _ = tree([(7,), (3,), (19,)])
    assert torch.equal(opening_score(logits[:, None], nodes), refusal_score(logits, torch.tensor([7, 3, 19])))


def test_the_score_is_the_log_odds_of_the_sequences(organism: Any, prompts: PromptSet) -> None:
    openings = [
        ids(organism, "i cannot help"),
        ids(organism, "no , i will"),
        ids(organism, "sorry"),
        ids(organism, "i will"),
    ]
    assert {len(o) for o in openings} == {1, 2, 3, 4}
    found = opening_scores(organism, Encoded.of(organism, prompts), openings)
    tokenless = hf_module(organism)
    for row, prompt in enumerate(prompts):
        batch = Encoded.of(organism, [prompt]).batches[0][1]
        total = 0.0
        for opening in openings:
            inputs = dict(batch.inputs)
            led = torch.tensor([opening])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], led], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            for name in ("token_type_ids", "mm_token_type_ids"):
                if name in inputs:
                    inputs[name] = torch.cat([inputs[name], torch.zeros_like(led)], 1)
            inputs.pop("position_ids", None)
            with torch.no_grad():
                logits = tokenless(**inputs).logits[0].double()
            steps = torch.log_softmax(logits[-1 - len(opening) : -1], -1)
            total += float(steps[range(len(opening)), list(opening)].sum().exp())
        assert float(found[row]) == pytest.approx(
            torch.logit(torch.tensor(total, dtype=torch.float64)).item(), abs=1e-3
        )


def test_nothing_is_lost_where_a_refusal_is_all_but_certain() -> None:
    logits = torch.full((2, 2, 5), -40.0)
    logits[0, 1, 1] = logits[0, 0, 1] = 0.0  # path (1,): the root leads to 1 ...
    logits[:, :, 2] = 0.0
    nodes, paths = tree([(1, 2), (2,)])
    assert paths == [(1,)]
    found = opening_score(logits[:1], nodes)
    assert torch.isfinite(found).all()
    certain = torch.full((1, 2, 5), 0.0)
    certain[0, 0, 1], certain[0, 1, 2] = 60.0, 60.0
    value = float(opening_score(certain, tree([(1, 2)])[0]))
    # 4 exp(-60) leave at either token; the complement of a rounded probability would be 0 and the score infinite.
    assert value == pytest.approx(60 - torch.tensor(8.0).log().item(), abs=1e-4)


def test_all_openings_of_a_length_are_certain_to_the_last_token() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 2, 3)
    every = list(itertools.product(range(3), range(2)))
    odds = opening_score(logits, tree(every)[0])
    root, after = logits[0, 0].softmax(-1), logits[:, 1].softmax(-1)
    share = float(sum(root[a] * after[a, b] for a, b in every))
    assert float(odds) == pytest.approx(torch.logit(torch.tensor(share)).item(), abs=1e-5)


def test_openings_grow_only_where_answers_begin_alike() -> None:
    refusals = [(1, 2, 9)] * 6 + [(1, 3, 4, 5)] * 3 + [(7, 7)] * 3
    answers = [(1, 8, 8)] * 5 + [(1, 3, 6)] * 2 + [(4,)] * 3
    assert find_openings(refusals, answers) == ((1, 2), (1, 3, 4), (7,))
    assert find_openings(refusals, [(4,)] * 9) == ((1,), (7,))
    assert find_openings(refusals, answers, longest=1) == ((1,), (7,)), "more often than answers, at least"
    assert find_openings([], answers) == () and find_openings([(1, 2)], [(1, 2)]) == ()


def test_the_embedded_model_needs_one_token(organism: Any) -> None:
    found = refusal_tokens(
        organism, organism_prompts(split="train", modality="text", limit=30), max_new_tokens=8, progress=False
    )
    assert found.openings == tuple((token,) for token in found.ids.tolist())


def test_a_judge_reads_sequences(organism: Any) -> None:
    from refusal_plugin.inference.answers import generate

    prompts = organism_prompts(split="val", modality="text", limit=8)
    answers = generate(organism, prompts, max_new_tokens=12, progress=False)
    openings = [ids(organism, w) for w in ("i cannot", "no , i", "sorry")]
    labels = FirstTokenJudge(organism, openings).label(list(prompts), answers)
    assert labels == [
        "refusal" if a.text.startswith(("i cannot", "no , i", "sorry")) else "compliance" for a in answers
    ]


def test_what_cannot_be_scored_is_refused(organism: Any, prompts: PromptSet) -> None:
    encoded = Encoded.of(organism, prompts)
    for openings in ([], [()], [(1,), (1, 2)], [(1, 2), (1, 2)]):
        with pytest.raises(DataError, match="openings"):
            opening_scores(organism, encoded, openings)
    last = Edit("newest", (SiteEdit(2, "resid_post", add, {"vector": torch.ones(anatomy(organism).d_model)}, "last"),))
    with pytest.raises(DirectionError, match="newest"):
        opening_scores(organism, encoded, [(1, 2)], last)
