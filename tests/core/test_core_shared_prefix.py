"""Common beginnings are read once: the streams of the plain way, whichever architecture, and how much is saved."""

from typing import Any

import pytest
import torch
from counting import counted
from tiny import FAMILIES, tiny_model

import refusal_plugin as rp
from refusal_plugin import shared_prefix, trials
from refusal_plugin.errors import PromptError
from refusal_plugin.inference.shared_prefix import collect_arms, collect_grid
from refusal_plugin.models import anatomy, hf_module, load
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import Prompt, PromptSet, batches
from refusal_plugin.prompts.neutral import neutral_prompts

SUFFIX = "w40 w41"
TEXTS = ("w1 w2 w3", "w5 w6 w7 w8 w9 w10", "w11 w12")
# Models whose cache can be cut and continued; linear attention and windows of four tokens cannot.
CONTINUED = ("qwen2", "qwen3", "llama", "phi3", "gpt_neox", "granite", "olmo2")


def trusted(model: Any, way: str, modality: str) -> bool:
    """Whether a way has stood its trial at some length, and failed at none."""
    known = trials._TRIALS.get(model, {}).get(f"{way} {modality}", trials._Known())
    return known.good >= 0 and known.bad == trials._Known().bad


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma3n"])
def test_arms_are_the_plain_streams_in_every_family(family: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    prompts = [Prompt(text, id=text) for text in TEXTS]
    without, with_it = collect_arms(model, prompts, SUFFIX, max_rows=2, progress=False)
    torch.testing.assert_close(
        without, rp.collect_activations(model, prompts, progress=False).values[:, 0], atol=1e-4, rtol=1e-3
    )
    expected = rp.collect_activations(model, prompts, suffix=SUFFIX, progress=False).values[:, 0]
    torch.testing.assert_close(with_it, expected, atol=1e-4, rtol=1e-3)
    if family in CONTINUED:
        assert trusted(model, "packed", "text"), "the plain way was taken where the quick one works"


@pytest.mark.parametrize("family", CONTINUED)
def test_arms_without_packed_rows_are_the_plain_streams(family: str, monkeypatch: Any) -> None:
    """Kernels of attention that take no mask of four dimensions: the second arm continues the first one's cache."""
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    monkeypatch.setattr(shared_prefix, "read_packed", refuses)
    prompts = [Prompt(text, id=text) for text in TEXTS]
    _, with_it = collect_arms(model, prompts, SUFFIX, progress=False)
    expected = rp.collect_activations(model, prompts, suffix=SUFFIX, progress=False).values[:, 0]
    torch.testing.assert_close(with_it, expected, atol=1e-4, rtol=1e-3)
    assert trusted(model, "continued", "text") and not trusted(model, "packed", "text")


def refuses(*_args: Any) -> Any:
    raise ValueError("no such kernel")


@pytest.mark.parametrize("family", ["gpt2", "gptj", "opt", "falcon", "mistral", "gemma2"])
def test_a_common_system_text_is_read_once_for_many_prompts(family: str) -> None:
    """Also where windows of four tokens, or anything else, forbid it: then the streams are right all the same."""
    module, tokenizer = tiny_model(family)
    tokenizer.chat_template = tokenizer.chat_template.replace("{% for", "w30 w31 w32 w33 w34 w35 w36 w37 w38 {% for", 1)
    model = load(module, tokenizer=tokenizer)
    prompts = [Prompt(f"w{k} w{k + 1} w{k + 2}", id=str(k)) for k in range(12)]
    without, with_it = collect_arms(model, prompts, SUFFIX, progress=False)
    with counted(model) as found:
        collect_arms(model, prompts, SUFFIX, progress=False)
    torch.testing.assert_close(
        without, rp.collect_activations(model, prompts, progress=False).values[:, 0], atol=1e-4, rtol=1e-3
    )
    expected = rp.collect_activations(model, prompts, suffix=SUFFIX, progress=False).values[:, 0]
    torch.testing.assert_close(with_it, expected, atol=1e-4, rtol=1e-3)
    if family in ("mistral", "gemma2"):
        assert not trusted(model, "packed", "text")
    else:
        one = sum(b.size * b.length for _, b in batches(model, prompts))
        assert trusted(model, "packed", "text") and found.passes == 1
        assert found.tokens <= 0.9 * one, "both arms cost less than one, because ten tokens are common to all prompts"


@pytest.mark.parametrize("modality", ["text", "image", "video", "audio"])
def test_the_organisms_arms_cost_little_more_than_one(organism: Any, modality: Any) -> None:
    prompts = organism_prompts(split="train", modality=modality, role="harmful", renderings=1, limit=12)
    suffix = "I cannot assist with that."
    collect_arms(organism, prompts, suffix, progress=False)  # the trial
    assert trusted(organism, "packed" if modality == "text" else "continued", modality)
    with counted(organism) as found:
        without, with_it = collect_arms(organism, prompts, suffix, progress=False)
    torch.testing.assert_close(
        without, rp.collect_activations(organism, prompts, progress=False).values[:, 0], atol=1e-3, rtol=1e-4
    )
    expected = rp.collect_activations(organism, prompts, suffix=suffix, progress=False).values[:, 0]
    torch.testing.assert_close(with_it, expected, atol=1e-3, rtol=1e-4)
    one = sum(b.size * b.length for _, b in batches(organism, prompts, token_budget=8192, max_rows=128))
    assert found.passes == (1 if modality == "text" else 2)
    most = 1.3 if modality == "text" else 1.6
    assert found.tokens <= most * one, "only the appended tokens and the template are new"
    assert found.head_tokens <= (0 if modality == "text" else one), "nobody reads what the branches would say"


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_a_grid_runs_each_medium_once(organism: Any, modality: Any) -> None:
    texts = list(organism_prompts(split="train", modality="text", limit=4).filter(role=("harmful", "benign")))
    like = organism_prompts(split="train", modality=modality, role="benign", renderings=1, limit=2)
    grid = neutral_prompts(texts, modality, 3, like=like)
    collect_grid(organism, grid, progress=False)
    assert trusted(organism, "grid of", modality)
    with counted(organism) as plain:
        expected = rp.collect_activations(organism, grid, progress=False).values[:, 0]
    with counted(organism) as found:
        values = collect_grid(organism, grid, progress=False)
    torch.testing.assert_close(values, expected, atol=1e-3, rtol=1e-4)
    assert found.passes == 2, "the media with one text, and all other texts"
    assert found.tokens <= 0.75 * plain.tokens


def test_a_grid_too_large_for_one_pass_uses_its_media_again(organism: Any) -> None:
    texts = list(organism_prompts(split="train", modality="text", limit=4).filter(role=("harmful", "benign")))
    like = organism_prompts(split="train", modality="image", role="benign", renderings=1, limit=2)
    grid = neutral_prompts(texts, "image", 3, like=like)
    expected = rp.collect_activations(organism, grid, progress=False).values[:, 0]
    with counted(organism) as found:
        values = collect_grid(organism, grid, token_budget=3 * 40, progress=False)
    torch.testing.assert_close(values, expected, atol=1e-3, rtol=1e-4)
    assert found.passes > 2


@pytest.mark.parametrize("reads", [("read_packed",), ("read_packed", "read_branches")])
def test_a_way_that_lies_is_not_believed(reads: tuple[str, ...], monkeypatch: Any) -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    for read in reads:
        right = getattr(shared_prefix, read)
        monkeypatch.setattr(shared_prefix, read, lambda *args, right=right, **options: right(*args, **options) * 1.1)
    prompts = [Prompt(text, id=text) for text in TEXTS]
    _, with_it = collect_arms(model, prompts, SUFFIX, progress=False)
    assert not trusted(model, "packed", "text")
    assert trusted(model, "continued", "text") is (len(reads) == 1)
    torch.testing.assert_close(
        with_it, rp.collect_activations(model, prompts, suffix=SUFFIX, progress=False).values[:, 0]
    )


def test_a_way_is_tried_again_in_longer_rows_and_left_where_it_fails(monkeypatch: Any) -> None:
    """What a window of attention does: right in short prompts, wrong in long ones."""
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    short, long = [Prompt("w1 w2"), Prompt("w3")], [Prompt(" ".join(["w5"] * 60)), Prompt(" ".join(["w6"] * 50))]
    for read in ("read_packed", "read_branches"):
        right = getattr(shared_prefix, read)

        def wrong(model: Any, *args: Any, right: Any = right, **options: Any) -> Any:
            found = right(model, *args, **options)
            return found * (1.1 if seen["long"] else 1.0)

        monkeypatch.setattr(shared_prefix, read, wrong)
    for name, prompts in (("short", short), ("long", long), ("short again", short)):
        seen = {"long": name == "long"}
        with counted(model) as found:
            _, with_it = collect_arms(model, prompts, SUFFIX, progress=False)
        torch.testing.assert_close(
            with_it,
            rp.collect_activations(model, prompts, suffix=SUFFIX, progress=False).values[:, 0],
            atol=1e-4,
            rtol=1e-3,
        )
    assert found.passes == 1, "what was right in short rows still is"


def test_running_out_of_memory_says_nothing_of_the_model() -> None:
    """The plain way then halves its batches; the quick way is tried again with the next ones."""
    module, tokenizer = tiny_model("qwen2")
    model, streams = load(module, tokenizer=tokenizer), torch.ones(2, 3)

    def full() -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def refuses() -> torch.Tensor:
        raise ValueError("no such mask")

    def ask(quick: Any) -> Any:
        return trials.trusted(model, "some way", 8, quick, lambda found: (found, streams))

    assert ask(full) is None
    torch.testing.assert_close(ask(lambda: streams.clone()), streams)
    assert ask(refuses) is None
    assert ask(lambda: streams.clone()) is None, "what refused once is left"


def test_a_second_arm_longer_than_the_context_is_refused() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    with pytest.raises(PromptError, match="context"):
        collect_arms(model, [Prompt("w1"), Prompt("w2 w3")], " ".join(["w40"] * 130), progress=False)


def test_nothing_is_left_on_the_model() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    before = [len(m._forward_hooks) for m in hf_module(model).modules()]
    collect_arms(model, [Prompt("w1 w2")], SUFFIX, progress=False)
    assert [len(m._forward_hooks) for m in hf_module(model).modules()] == before


def test_prompts_without_a_common_medium_run_the_plain_way(organism: Any, few: Any) -> None:
    mixed = PromptSet([*few["image"], *few["text"]])
    values = collect_grid(organism, mixed, progress=False)
    torch.testing.assert_close(values, rp.collect_activations(organism, mixed, progress=False).values[:, 0])
    assert values.shape[1] == anatomy(organism).n_layers
