"""Common beginnings are read once: streams, scores and answers of the plain way, whatever the architecture."""

from typing import Any

import pytest
import torch

import refusal_plugin as rp
from refusal_plugin.errors import PromptError
from refusal_plugin.inference import prefix
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.arms import generate_arms, score_arms
from refusal_plugin.inference.edits import Edit, SiteEdit, addition, together
from refusal_plugin.inference.loop import re_encoder
from refusal_plugin.inference.prefix import collect_variants, trusted
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.models import anatomy, hf_module, load
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import Prompt, PromptSet, batches, encode
from refusal_plugin.prompts.neutral import neutral_prompts
from refusal_plugin.traced import gate
from refusal_plugin.traced.write import add, blend
from tests.support.counting import counted
from tests.support.tiny import FAMILIES, tiny_model

SUFFIX = "w40 w41"
TEXTS = ("w1 w2 w3", "w5 w6 w7 w8 w9 w10", "w11 w12")
PROMPTS = [Prompt(text, id=text) for text in TEXTS]
NEW = 5
# Models whose cache can be cut and continued; linear attention and windows of four tokens cannot.
CONTINUED = ("qwen2", "qwen3", "llama", "phi3", "gpt_neox", "granite", "olmo2", "gpt2", "opt")


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharing also where it saves too little to pay."""
    monkeypatch.setattr(prefix, "LEAST", 1)


def fresh(family: str = "qwen2") -> Any:
    """A model whose cache has not been tried."""
    module, tokenizer = tiny_model(family)
    module.generation_config.eos_token_id = None
    return load(module, tokenizer=tokenizer)


def believed(model: Any, prompts: Any, *, answers: bool = False) -> bool:
    return trusted(model, encode(model, list(prompts)), re_encoder(model), answers=answers)


def check(model: Any, prompts: Any, suffix: str = SUFFIX, atol: float = 1e-4) -> None:
    without, with_it = collect_variants(model, prompts, (None, suffix), max_rows=3, progress=False)
    for found, one in ((without, None), (with_it, suffix)):
        expected = rp.collect_activations(model, prompts, suffix=one, progress=False).values[:, 0]
        torch.testing.assert_close(found, expected, atol=atol, rtol=1e-3)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma3n"])
def test_arms_are_the_plain_streams_in_every_family(family: str) -> None:
    model = fresh(family)
    check(model, PROMPTS)
    if family in CONTINUED:
        assert believed(model, PROMPTS), "the plain way was taken where the quick one works"


@pytest.mark.parametrize("modality", ["text", "image", "video", "audio"])
def test_the_organisms_arms_cost_little_more_than_one(organism: Any, modality: Any) -> None:
    prompts = organism_prompts(split="train", modality=modality, role="harmful", renderings=1, limit=12)
    suffix = "I cannot assist with that."
    check(organism, prompts, suffix, atol=1e-3)  # and the trial
    assert believed(organism, prompts)
    with counted(organism) as found:
        collect_variants(organism, prompts, (None, suffix), progress=False)
    one = sum(b.size * b.length for _, b in batches(organism, prompts, token_budget=8192, max_rows=128))
    assert found.tokens <= 1.9 * one, "what both begin with is read once"


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_a_grid_runs_each_medium_once(organism: Any, modality: Any) -> None:
    texts = list(organism_prompts(split="train", modality="text", limit=4).filter(role=("harmful", "benign")))
    like = organism_prompts(split="train", modality=modality, role="benign", renderings=1, limit=2)
    grid = neutral_prompts(texts, modality, 3, like=like)
    collect_variants(organism, grid, progress=False)
    assert believed(organism, list(grid)[:2])
    with counted(organism) as plain:
        expected = rp.collect_activations(organism, grid, progress=False).values[:, 0]
    with counted(organism) as found:
        (values,) = collect_variants(organism, grid, progress=False)
    torch.testing.assert_close(values, expected, atol=1e-3, rtol=1e-4)
    assert found.passes == 2, "the media, and all texts behind them"
    assert found.tokens <= 0.85 * plain.tokens
    (small,) = collect_variants(organism, grid, token_budget=3 * 40, progress=False)
    torch.testing.assert_close(small, expected, atol=1e-3, rtol=1e-4)


def test_prompts_without_a_common_medium_run_the_plain_way(organism: Any, few: Any) -> None:
    mixed = PromptSet([*few["image"], *few["text"]])
    (values,) = collect_variants(organism, mixed, progress=False)
    torch.testing.assert_close(values, rp.collect_activations(organism, mixed, progress=False).values[:, 0])


@pytest.mark.parametrize("failure", ["lies", "refuses", "lies in long rows"])
def test_a_cache_that_lies_or_refuses_is_not_used(monkeypatch: Any, failure: str) -> None:
    """Also what a window of attention does: right in short prompts, wrong in long ones, and left alone there only."""
    model, right = fresh(), prefix.Stem.cache_of

    def wrong(stem: Any, rows: Any) -> Any:
        if failure == "refuses":
            raise NotImplementedError("this cache cannot be copied")
        cache = right(stem, rows)
        if failure == "lies" or stem.inputs["input_ids"].shape[1] > 32:
            cache.layers[0].values *= 2
        return cache

    monkeypatch.setattr(prefix.Stem, "cache_of", wrong)
    long = [Prompt(" ".join(["w5"] * 60)), Prompt(" ".join(["w6"] * 50))]
    for prompts in (PROMPTS, long, PROMPTS):
        check(model, prompts)
    assert believed(model, PROMPTS) is (failure == "lies in long rows") and not believed(model, long)
    edits = list(newest(model).values())
    expected = [generate(model, PROMPTS, edit, max_new_tokens=NEW, progress=False) for edit in edits]
    assert generate_arms(model, PROMPTS, edits, max_new_tokens=NEW, progress=False) == expected


def test_running_out_of_memory_says_nothing_of_the_model(monkeypatch: Any) -> None:
    model, right, full = fresh(), prefix.Stem.cache_of, [True]

    def cache_of(stem: Any, rows: Any) -> Any:
        if full.pop() if full else False:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return right(stem, rows)

    monkeypatch.setattr(prefix.Stem, "cache_of", cache_of)
    assert not believed(model, PROMPTS) and believed(model, PROMPTS)


def test_a_second_arm_longer_than_the_context_is_refused() -> None:
    with pytest.raises(PromptError, match="context"):
        collect_variants(fresh(), [Prompt("w1"), Prompt("w2 w3")], (None, " ".join(["w40"] * 130)), progress=False)


def test_nothing_is_left_on_the_model() -> None:
    model = fresh()
    before = [len(m._forward_hooks) for m in hf_module(model).modules()]
    collect_variants(model, [Prompt("w1 w2")], (None, SUFFIX), progress=False)
    assert [len(m._forward_hooks) for m in hf_module(model).modules()] == before


# -- arms of the newest token ------------------------------------------------------------------------------------------


def newest(model: Any, scale: float = 3.0) -> dict[str, Edit | None]:
    """Edits of the newest token: plain, gated, remembering, and none."""
    width = anatomy(model).d_model
    vector = scale * torch.randn(width, generator=torch.Generator().manual_seed(0))
    unit = vector / vector.norm()
    judge = {"memory": "prompt", "gate": gate.ramp, "condition": {"unit": unit, "low": -1.0, "high": 1.0}}
    act = {"memory": "prompt", "strength": 2.0, "function": add, "tensors": {"vector": -vector}, "first": 0}
    late = (
        SiteEdit(0, "resid_post", gate.remember, judge),
        SiteEdit(2, "resid_post", gate.recall, {**act, "first": 1, "last": 2}, "last"),
    )
    judged = (
        SiteEdit(0, "resid_post", gate.remember, judge, "last"),
        SiteEdit(1, "resid_post", gate.recall, {**act, "last": None}, "last"),
    )
    towards = {"target": 3 * vector, "strength": 0.3}
    return {
        "none": None,
        "weak": addition({0: vector, 2: vector}, strength=0.5, where="last"),
        "strong": addition({0: vector, 2: vector}, strength=-2.0, where="last"),
        "late": Edit("late", late),
        "judged": together("judged", Edit("judged", judged), addition({1: vector}, strength=0.1, where="last")),
        "near": Edit("near", (SiteEdit(1, "resid_post", blend, towards, "last"),)),
        "prompt only": addition({1: vector}, where="last", when="prefill"),
    }


def answers_are_those_alone(model: Any, prompts: Any, edits: list[Edit | None], *, shared: bool) -> None:
    expected = [generate(model, prompts, edit, max_new_tokens=NEW, progress=False) for edit in edits]
    assert len({tuple(answer.ids for answer in one) for one in expected}) >= 2, "the edits do something"
    assert generate_arms(model, prompts, edits, max_new_tokens=NEW, progress=False) == expected
    with counted(model) as found:
        assert generate_arms(model, prompts, edits, max_new_tokens=NEW, progress=False) == expected
    rows, length = encode(model, list(prompts)).inputs["input_ids"].shape
    plain = len(edits) * rows * (length + NEW - 1)
    assert (found.tokens < plain) if shared else (found.tokens == plain)


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "gpt2", "qwen3_next", "qwen2_vl"])
def test_answers_are_those_of_each_edit_alone(family: str) -> None:
    """Plain keys and values, windows, absolute positions, linear attention, three rows of positions."""
    model = fresh(family)
    answers_are_those_alone(
        model, PROMPTS, list(newest(model).values())[:6], shared=believed(model, PROMPTS, answers=True)
    )
    if family in CONTINUED:
        assert believed(model, PROMPTS, answers=True)


@pytest.mark.parametrize("modality", ["text", "image", "audio"])
def test_the_organism_with_strengths_and_gates(organism: Any, few: Any, modality: str) -> None:
    answers_are_those_alone(organism, few[modality], list(newest(organism, 2.0).values())[:6], shared=True)


def test_edits_that_look_back_read_every_prompt_themselves() -> None:
    model = fresh()
    edits = [*list(newest(model).values())[:6], addition({1: torch.ones(32)}, where="all")]
    answers_are_those_alone(model, PROMPTS, edits, shared=False)


@pytest.mark.parametrize("modality", ["text", "image", "video", "audio"])
def test_scores_are_those_of_each_edit_alone(organism: Any, few: Any, tokens: Any, modality: str) -> None:
    prompts, edits = few[modality], list(newest(organism, 2.0).values())
    with counted(organism) as found:
        shared = score_arms(organism, prompts, tokens.ids, edits)
    assert found.traces == 0, "continued in hooks"
    for arm, edit in enumerate(edits):
        alone = refusal_scores(organism, Encoded.of(organism, prompts), tokens.ids, edit)
        torch.testing.assert_close(shared.score[arm], alone.score, atol=2e-3, rtol=1e-4)


def test_edits_in_hooks_of_the_callers_own_are_not_shared() -> None:
    """They act on the whole prompt, which is then not the same for all."""
    model = fresh()
    edits: list[Edit | None] = [None, addition({0: torch.ones(32)}, where="last")]
    outer = addition({1: torch.ones(32)}, where="last")
    with outer.attached(model):
        expected = [generate(model, PROMPTS, edit, max_new_tokens=NEW, progress=False) for edit in edits]
        assert generate_arms(model, PROMPTS, edits, max_new_tokens=NEW, progress=False) == expected
