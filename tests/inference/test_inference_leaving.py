"""Rows that have ended leave the batch: the answers stay those of plain `generate`, with fewer rows to carry."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import refusal_plugin as rp
from refusal_plugin.inference import answers as room
from refusal_plugin.inference.answers import Answer, end_ids, generate
from refusal_plugin.inference.arms import Strengths, edit_of_rows, generate_arms
from refusal_plugin.inference.edits import Edit, SiteEdit, addition, together
from refusal_plugin.models import anatomy, hf_module, load
from refusal_plugin.prompts import Prompt, encode
from refusal_plugin.traced import gate
from refusal_plugin.traced.write import add
from tests.support.counting import counted
from tests.support.tiny import tiny_model

NEW, WIDTH, END = 24, 32, 50
PROMPTS = [Prompt(" ".join(f"w{(7 * k + j) % 40}" for j in range(3 + k % 4)), id=f"{k}") for k in range(8)]


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving also where it saves too little to pay for its trial."""
    monkeypatch.setattr(room, "LEAST", 1)


def ending(family: str) -> Any:
    """A model whose answers end at different steps, by what stands before."""
    module, tokenizer = tiny_model(family)

    def end(_module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        found = logits.index_fill(-1, torch.arange(8), -40.0)
        found[..., END] = torch.where((args[0][..., 0].double() * 997).floor() % 7 == 0, 40.0, -40.0)
        return found

    module.get_output_embeddings().register_forward_hook(end)
    module.generation_config.eos_token_id = END
    return load(module, tokenizer=tokenizer)


def plain(model: Any, edit: Edit | None) -> list[list[int]]:
    """New tokens of transformers' own `generate`, the whole batch in one call."""
    inputs = encode(model, PROMPTS).inputs
    with (edit or Edit("none", ())).attached(model) as module, torch.no_grad():
        ids = module.generate(**inputs, max_new_tokens=NEW, do_sample=False)  # type: ignore[operator]
    found: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return found


def cut(model: Any, rows: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    stop = end_ids(model)
    return [tuple(row[: next((k for k, token in enumerate(row) if token in stop), len(row))]) for row in rows]


def ids_of(answers: Sequence[Answer]) -> list[tuple[int, ...]]:
    return [answer.ids for answer in answers]


def remembering(scale: float = 3.0) -> Edit:
    """An edit that decides on the prompt, acts in some steps of the answer, and adds a vector at all of them."""
    vector = scale * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    judge = {
        "memory": "prompt",
        "gate": gate.ramp,
        "condition": {"unit": vector / vector.norm(), "low": -2.0, "high": 2.0},
    }
    act = {"memory": "prompt", "strength": 1.0, "function": add, "tensors": {"vector": -vector}, "first": 1, "last": 9}
    parts = (
        SiteEdit(0, "resid_post", gate.remember, judge),
        SiteEdit(1, "resid_post", gate.recall, act, "last"),
    )
    return together("remembering", Edit("gated", parts), addition({2: vector.flip(0)}, strength=0.3, where="last"))


def stepping(vector: torch.Tensor) -> Any:
    """One strength for each row."""
    return lambda s: Edit(
        "step", (SiteEdit(1, "resid_post", add, {"vector": vector, "strength": s.reshape(-1, 1, 1)}, "last"),)
    )


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "gpt2", "qwen3_next"])
def test_answers_are_those_of_generate_for_the_whole_batch(family: str) -> None:
    """Plain keys and values, windows, absolute positions, linear attention."""
    for edit in (None, remembering()) if family == "qwen2" else (remembering(),):
        model = ending(family)
        generate(model, PROMPTS, edit, max_new_tokens=NEW, progress=False)  # and the trial
        expected = cut(model, plain(model, edit))
        with counted(model) as found:
            said = generate(model, PROMPTS, edit, max_new_tokens=NEW, progress=False)
        assert ids_of(said) == expected
        lengths = sorted(len(ids) for ids in expected)
        assert lengths[2] < lengths[-1], "the answers end at different steps"
        length = encode(model, PROMPTS).length
        steps = [max(len(ids) + 1, 1) for ids in expected]
        whole = len(PROMPTS) * (length + min(max(steps), NEW) - 1)
        if family in ("qwen2", "gpt2"):
            assert found.tokens < whole, "ended rows have left"
        assert found.tokens <= whole
        assert found.head_tokens <= found.tokens - len(PROMPTS) * (length - 1), "the head runs at newest tokens only"


def test_no_more_than_a_third_of_what_runs_has_ended() -> None:
    model = ending("qwen2")
    generate(model, PROMPTS, max_new_tokens=NEW, progress=False)
    with counted(model) as found:
        said = generate(model, PROMPTS, max_new_tokens=NEW, progress=False)
    needed = sum(min(len(answer.ids) + 1, NEW) - 1 for answer in said)
    steps = found.tokens - len(PROMPTS) * encode(model, PROMPTS).length
    assert steps <= needed / (1 - 0.25) + len(PROMPTS)


def test_rows_take_their_own_edits_along() -> None:
    """Strengths of their own, edits of some rows, gates of theirs: each row as under its edit alone."""
    model = ending("qwen2")
    vector = 2 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
    arms = [
        None,
        remembering(),
        addition({0: vector, 2: vector}, strength=-1.0, where="last"),
        addition({0: vector, 2: -vector}, strength=0.5, where="last"),
        together("both", remembering(2.0), addition({1: vector}, where="last")),
    ]
    expected = [generate(model, PROMPTS, edit, max_new_tokens=NEW, max_rows=1, progress=False) for edit in arms]
    assert generate_arms(model, PROMPTS, arms, max_new_tokens=NEW, progress=False) == expected
    values = [0.0, 0.7, -1.5]
    by_strength = Strengths(stepping(vector), values)
    alone = [addition({1: vector}, strength=s, where="last") for s in values]
    expected = [generate(model, PROMPTS, edit, max_new_tokens=NEW, max_rows=1, progress=False) for edit in alone]
    assert generate_arms(model, PROMPTS, by_strength, max_new_tokens=NEW, progress=False) == expected


def test_media_that_have_been_read_are_not_read_again(organism: Any, few: Any) -> None:
    prompts = [*few["image"], *few["image"]]
    expected = generate(organism, prompts, max_new_tokens=NEW, max_rows=1, progress=False)
    with counted(organism) as found:
        assert generate(organism, prompts, max_new_tokens=NEW, progress=False) == expected
    steps = sorted(min(len(answer.ids) + 1, NEW) for answer in expected)
    assert found.tokens < len(prompts) * (encode(organism, prompts).length + steps[-1] - 1) or steps[0] == steps[-1]


def test_an_edit_of_the_callers_own_sees_the_whole_batch() -> None:
    """Its rows are known to the caller alone."""
    model = ending("qwen2")
    own = edit_of_rows(Strengths(stepping(torch.ones(WIDTH)), [2.0]), [0] * 8)
    assert own is not None
    with own.attached(model):
        expected = cut(model, plain(model, None))
        assert ids_of(generate(model, PROMPTS, max_new_tokens=NEW, progress=False)) == expected


def test_a_cache_that_mixes_rows_up_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cache_utils import DynamicCache

    model = ending("qwen2")
    expected = cut(model, plain(model, None))
    monkeypatch.setattr(DynamicCache, "reorder_cache", lambda _cache, _rows: None)
    assert ids_of(generate(model, PROMPTS, max_new_tokens=NEW, progress=False)) == expected
    assert anatomy(model).d_model == WIDTH and not hf_module(model)._forward_hooks


def test_answers_keep_the_models_dtype() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module.to(torch.bfloat16), tokenizer=tokenizer)
    seen: set[torch.dtype] = set()
    handles = [
        part.register_forward_hook(lambda _m, _a, out: seen.add(rp.traced.read.residual(out).dtype))
        for part in rp.models.hf_layers(model)
    ]
    generate(model, PROMPTS, remembering(), max_new_tokens=4, progress=False)
    for handle in handles:
        handle.remove()
    assert seen == {torch.bfloat16}
