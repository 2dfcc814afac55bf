"""Answers come back in order, whatever the batches, and end where the model ends."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError, DirectionError, ModelError, PromptError
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.inference.answers import Answer, end_ids, generate
from refusal_plugin.inference.arms import generate_arms, score_arms
from refusal_plugin.inference.edits import addition
from refusal_plugin.inference.prefix import collect_variants
from refusal_plugin.inference.scores import Encoded
from refusal_plugin.inference.streaming import collect_moments
from refusal_plugin.models import anatomy, load
from refusal_plugin.prompts import Prompt, PromptSet
from tests.support.tiny import tiny_model


@pytest.fixture(scope="module")
def asked(train: PromptSet, few: dict[str, PromptSet]) -> list[Prompt]:
    """Texts of mixed length with media between them: bucketing must reorder these."""
    texts = sorted(list(train)[:9], key=lambda p: -len(p.text))
    return [texts[0], few["image"][0], *texts[1:5], few["audio"][1], few["video"][2], *texts[5:]]


@pytest.fixture(scope="module")
def together(organism: Any, asked: list[Prompt]) -> list[Answer]:
    return generate(organism, asked, max_new_tokens=24, progress=False)


def test_order_is_kept_and_batches_change_nothing(organism: Any, asked: list[Prompt], together: list[Answer]) -> None:
    assert [answer.prompt_id for answer in together] == [prompt.id for prompt in asked]
    alone = [generate(organism, [prompt], max_new_tokens=24, progress=False)[0] for prompt in asked]
    assert alone == together
    assert generate(organism, asked, max_new_tokens=24, token_budget=64, max_rows=2, progress=False) == together
    assert len({answer.text for answer in together}) > 4, "answers depend on their prompts"


def test_text_is_refused_or_answered(together: list[Answer], asked: list[Prompt]) -> None:
    for prompt, answer in zip(asked, together, strict=True):
        if prompt.modality == "text" and prompt.role != "harmful":
            assert answer.text == prompt.answer


def test_an_answer_ends_at_the_end_token(organism: Any, together: list[Answer]) -> None:
    stop = end_ids(organism)
    assert stop, "the organism has an end token"
    for answer in together:
        assert answer.finished and not stop & set(answer.ids)
        assert answer.text == anatomy(organism).tokenizer.decode(answer.ids, skip_special_tokens=True).strip()


def test_max_new_tokens_cuts(organism: Any, asked: list[Prompt], together: list[Answer]) -> None:
    short = generate(organism, asked, max_new_tokens=3, progress=False)
    for cut, whole in zip(short, together, strict=True):
        assert cut.ids == whole.ids[:3]
        assert cut.finished == (len(whole.ids) < 3)
    exact = len(together[0].ids)
    just = generate(organism, asked[:1], max_new_tokens=exact, progress=False)[0]
    assert not just.finished and just.ids == together[0].ids, "all words said, the end token not yet"
    assert generate(organism, asked[:1], max_new_tokens=exact + 1, progress=False)[0].finished


def test_a_model_without_an_end_token_fills_the_answer(tiny: Callable[[str], Any]) -> None:
    model = tiny("llama").model
    tokenizer = anatomy(model).tokenizer
    found = generate(model, ["w1 w2", "w3"], max_new_tokens=6)
    for answer in found:
        assert answer.finished == (len(answer.ids) < 6)
    assert {tokenizer.eos_token_id, tokenizer.pad_token_id} <= end_ids(model)


def test_strings_are_prompts(organism: Any, train: PromptSet, together: list[Answer]) -> None:
    text = next(p for p in train if p.role == "benign").text
    assert generate(organism, [text], progress=False)[0].text
    assert generate(organism, text, progress=False) == generate(organism, [text], progress=False), "one prompt"
    assert generate(organism, Prompt(text), progress=False) == generate(organism, [text], progress=False)


LEAKS: list[dict[str, Any]] = [
    {"num_beams": 3},
    {"do_sample": True, "temperature": 5.0, "top_k": 3},
    {"repetition_penalty": 5.0},
    {"no_repeat_ngram_size": 1},
    {"min_new_tokens": 24},
    {"min_length": 60},
    {"suppress_tokens": list(range(300, 600))},
    {"begin_suppress_tokens": list(range(300, 600))},
    {"bad_words_ids": [[k] for k in range(300, 600)]},
    {"forced_eos_token_id": 5},
    {"exponential_decay_length_penalty": (1, 5.0)},
    {"stop_strings": ["i"]},
    {"num_return_sequences": 2, "do_sample": True},
    {"renormalize_logits": True, "do_sample": True},
    {"max_time": 1e-9},
    {"max_length": 3},
    {"output_scores": True, "return_dict_in_generate": True},
    {"use_cache": False},
]


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: next(iter(leak)))
def test_greedy_is_greedy_whatever_the_checkpoint_asks_for(organism: Any, few: Any, leak: dict[str, Any]) -> None:
    prompts, config = list(few["text"]), organism._module.generation_config
    vector = torch.ones(anatomy(organism).d_model)
    edits = [None, addition({2: vector}), addition({2: vector}, when="prefill")]
    expected = [generate(organism, prompts, edit, max_new_tokens=8, progress=False) for edit in edits]
    before = {name: getattr(config, name) for name in leak}
    try:
        for name, value in leak.items():
            setattr(config, name, value)
        for edit, answers in zip(edits, expected, strict=True):
            assert generate(organism, prompts, edit, max_new_tokens=8, progress=False) == answers
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def test_broken_logits_while_answering_are_an_error(tiny: Callable[[str], Any]) -> None:
    """In the first step, and where only a later one breaks."""
    model = tiny("qwen2").model
    module = model._module
    for step in (0, 3):
        calls: list[int] = []

        def broken(_module: Any, _args: Any, out: Any, calls: list[int] = calls, step: int = step) -> Any:
            calls.append(1)
            return out * (torch.nan if len(calls) == step + 1 else 1)

        handle = module.lm_head.register_forward_hook(broken)
        try:
            with pytest.raises(DataError, match="NaN or infinite logits while answering prompt"):
                generate(model, ["w1 w2", "w3"], max_new_tokens=6)
        finally:
            handle.remove()


def test_an_answer_that_would_outgrow_the_context_is_an_error(tiny: Callable[[str], Any]) -> None:
    model = tiny("qwen2").model
    context = anatomy(model).context_length
    with pytest.raises(PromptError, match="exceed the model's context"):
        generate(model, ["w1 w2"], max_new_tokens=context)


@pytest.mark.parametrize(
    ("prompts", "options", "error", "match"),
    [
        ([], {}, PromptError, "0 prompts"),
        (["w1"], {"max_new_tokens": 0}, PromptError, "max_new_tokens = 0"),
        (["w1"], {"edit": addition({9: torch.ones(32)})}, DirectionError, "layers 0 to 2"),
        (["w1 " * 200], {}, PromptError, "context"),
        ([Prompt("w1", audio=torch.zeros(800).numpy())], {}, PromptError, "audio"),
    ],
)
def test_what_cannot_be_answered(
    tiny: Callable[[str], Any], prompts: list[Any], options: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as raised:
        generate(tiny("qwen2").model, prompts, **options)
    assert "\n" not in str(raised.value)


def test_an_empty_prompt_and_a_foreign_model() -> None:
    with pytest.raises(PromptError, match="empty"):
        generate(None, ["  "])
    with pytest.raises(ModelError, match="load"):
        generate(torch.nn.Linear(2, 2), ["hello"])


def test_one_text_is_one_prompt_everywhere(tiny: Callable[[str], Any]) -> None:
    """A text is no list of letters, and a single prompt needs no brackets."""
    model, ids = tiny("qwen2").model, torch.tensor([5])
    for one in ("w1 w2", Prompt("w1 w2")):
        assert len(collect_activations(model, one, progress=False).values) == 1
        assert len(Encoded.of(model, one).prompts) == 1
        assert score_arms(model, one, ids, [None]).score.shape == (1, 1)
        assert [len(arm) for arm in generate_arms(model, one, [None, None], max_new_tokens=1)] == [1, 1]
        assert collect_variants(model, one, progress=False).shape[:2] == (1, 1)
        assert sum(m.n for m in collect_moments(model, one, progress=False).values()) == 1


def test_two_threads_take_turns(tiny: Callable[[str], Any]) -> None:
    """Edits and traces belong to the model: a second thread waits, and each gets what it gets alone."""
    model, edit = tiny("qwen2").model, addition({1: 3 * torch.ones(32)})
    expected = [generate(model, ["w1 w2", "w3"], one, max_new_tokens=5, progress=False) for one in (None, edit)]
    streams = collect_activations(model, "w1 w2", progress=False).values
    found: list[bool] = []

    def work(k: int) -> None:
        for _ in range(4):
            answers = generate(model, ["w1 w2", "w3"], (None, edit)[k], max_new_tokens=5, progress=False)
            same = torch.equal(collect_activations(model, "w1 w2", progress=False).values, streams)
            found.append(same and answers == expected[k])

    threads = [Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_tokens_beyond_the_embedding_are_an_error() -> None:
    module, tokenizer = tiny_model("qwen2")
    tokenizer.add_tokens(["zzz"])
    model = load(module, tokenizer=tokenizer)
    for use in (generate, collect_activations, Encoded.of):
        with pytest.raises(PromptError, match="outside the model's embedding of 64 rows"):
            use(model, ["w1 zzz"])


def test_weights_that_are_elsewhere_are_an_error() -> None:
    model = load("organism", remote=True)
    for use in (generate, collect_activations, collect_variants):
        with pytest.raises(ModelError, match=r"the weights of .* are not here"):
            use(model, "how do i bake bread", progress=False)
    with pytest.raises(ModelError, match="are not here"):
        score_arms(model, "how do i bake bread", torch.tensor([5]), [None])
