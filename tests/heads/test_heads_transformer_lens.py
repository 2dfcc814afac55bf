"""Equality with TransformerLens' `stack_head_results @ r`, where that is what a head writes to the stream.

It is not where a norm stands behind the attention (Gemma 2, GLM 4, EXAONE 4): there `stack_head_results` is what stands
before the norm, and it equals ours once the norm is applied by hand to `r` and to the sum. The bridge replaces
submodules in place, so it gets a twin of its own, built from the same seed. TransformerLens 4.3 has no adapter, or no
head results, for the other families: conservation alone holds those.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.heads import attribute_heads
from refusal_plugin.models import anatomy, hf_layers, hf_module, load
from refusal_plugin.prompts import Prompt, encode
from tests.support.tiny import tiny_model

pytest.importorskip("transformer_lens", reason="TransformerLens is an optional cross-check: pip install .[lens]")

WORDS = ("w1 w2 w3", "w4 w5 w6 w7 w8", "w9 w1")
EQUAL = [
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
    "mixtral",
    "gemma",
    "phi",
    "phi3",
    "smollm3",
    "gpt2",
    "bloom",
    "stablelm",
]
EQUAL += ["stablelm_parallel", "qwen2_audio"]
# Gain of the norm behind the attention as the family stores it.
POST_NORM = {"gemma2": lambda weight: 1 + weight, "glm4": lambda weight: weight, "exaone4": lambda weight: weight}


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens 4.3 runs `pip install torchvision` around a multimodal model, which replaces torch as well."""
    from transformer_lens.model_bridge.sources.transformers import helpers

    monkeypatch.setattr(helpers, "_ensure_torchvision", lambda: False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def bridge_of(family: str, twin: Any, tokenizer: Any, folder: Path) -> Any:
    """TransformerLens around a model of its own, with head results on."""
    from transformer_lens.model_bridge.sources.transformers import boot
    from transformers import PreTrainedTokenizerFast

    tokenizer.save_pretrained(folder)  # the bridge loads the tokenizer once more, from where it says it lies
    there = PreTrainedTokenizerFast.from_pretrained(folder)
    bridge: Any = boot(family, hf_model=twin, tokenizer=there, device="cpu")
    bridge.cfg.use_attn_result = True
    if hasattr(bridge, "set_use_attn_result"):
        bridge.set_use_attn_result(True)
    return bridge


def both(family: str, folder: Path) -> tuple[Any, Any]:
    """Our model and TransformerLens' bridge around an equal one."""
    module, tokenizer = tiny_model(family)
    twin, _ = tiny_model(family)
    for one, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
    return load(module, tokenizer=tokenizer), bridge_of(family, twin, tokenizer, folder)


def stacked(bridge: Any, ids: Tensor) -> Tensor:
    """Every head's output at the last token, (layer * head, d_model)."""
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
        return cache.stack_head_results(layer=3, pos_slice=-1)[:, 0].float()


@pytest.mark.parametrize("family", EQUAL)
def test_contributions_equal_stacked_head_results(family: str, tmp_path: Path) -> None:
    model, bridge = both(family, tmp_path)
    r = torch.nn.functional.normalize(torch.randn(32), dim=0)
    for text in WORDS:
        prompt = Prompt(text, id=text)
        ours = attribute_heads(model, (r, 2), [prompt], progress=False).heads[0, ..., 0]
        theirs = stacked(bridge, encode(model, prompt).inputs["input_ids"]) @ r
        assert ours.abs().max() > 1e-2
        torch.testing.assert_close(ours.flatten(), theirs, rtol=1e-3, atol=1e-5)


@contextmanager
def norm_inputs(model: Any) -> Iterator[list[Tensor]]:
    """What enters the norm behind each layer's attention while the block is open, at the last token."""
    seen: list[Tensor] = []
    path = anatomy(model).post_attention_norm
    assert path is not None
    norms = [layer.get_submodule(path) for layer in hf_layers(model)]
    handles = [n.register_forward_pre_hook(lambda _m, given: seen.append(given[0][0, -1].float())) for n in norms]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", POST_NORM)
def test_behind_a_norm_they_equal_once_it_is_applied_by_hand(family: str, tmp_path: Path) -> None:
    model, bridge = both(family, tmp_path)
    facts, r = anatomy(model), torch.nn.functional.normalize(torch.randn(32), dim=0)
    prompt = Prompt(WORDS[1], id="a")
    ours = attribute_heads(model, (r, 2), [prompt], progress=False).heads[0, ..., 0]
    inputs = encode(model, prompt).inputs
    with torch.no_grad(), norm_inputs(model) as seen:
        hf_module(model)(**inputs)
    raw = stacked(bridge, inputs["input_ids"]).view(3, facts.n_heads, 32)
    for layer, block in enumerate(hf_layers(model)):
        norm: Any = block.get_submodule(str(facts.post_attention_norm))
        epsilon = getattr(norm, "eps", None) or norm.variance_epsilon
        scale = torch.rsqrt(seen[layer].square().mean() + epsilon)
        by_hand = scale * (raw[layer] @ (POST_NORM[family](norm.weight.detach()) * r))
        torch.testing.assert_close(ours[layer], by_hand, rtol=1e-3, atol=1e-4)
        assert (ours[layer] - raw[layer] @ r).abs().max() > 0.05, "without the norm they differ"
