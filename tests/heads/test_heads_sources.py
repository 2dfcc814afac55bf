"""Sources sum to the head, spans sum to sources, and eager attention is gone afterwards."""

from typing import Any

import pytest
import torch

from refusal_plugin.errors import DirectionError, ModelError
from refusal_plugin.heads import attribute_heads
from refusal_plugin.heads.projection import project_answer, project_tokens
from refusal_plugin.heads.sources import SPANS, attribute_sources
from refusal_plugin.models import anatomy, hf_module
from refusal_plugin.prompts import Prompt, PromptSet

WORDS = PromptSet(Prompt(t, id=t, role="harmful") for t in ("w1 w2 w3", "w4 w5 w6 w7 w8", "w9 w1"))
FAMILIES = ["qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3", "olmo2", "phi3", "cohere", "granite", "glm4"]
FAMILIES += ["gpt_oss", "deepseek_v3", "smollm3", "exaone4", "gpt_neox", "llava", "qwen2_audio", "omni", "gpt2", "opt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_sources_sum_to_the_head(family: str, tiny: Any) -> None:
    """Grouped values, post-norms, sinks, sliding windows, soft caps: the parts add up to the direct contribution."""
    model, r = tiny(family), torch.randn(32)
    heads = [(2, 1), (0, 3), (2, 0), (1, 2)]
    direct = attribute_heads(model, (r, 2), WORDS, progress=False)
    found = attribute_sources(model, (r, 2), WORDS, heads, keep_attention=True, progress=False)
    expected = torch.stack([direct.heads[:, layer, head, 0] for layer, head in heads], dim=1)
    torch.testing.assert_close(found.totals, expected, rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(found.by_span().sum(-1), found.totals, rtol=1e-4, atol=1e-5)
    for pattern, full in zip(found.pattern, found.attention, strict=True):
        torch.testing.assert_close(full[:, -1], pattern)


def test_spans_of_media(organism: Any, direction: Any, prompts: Any) -> None:
    heads = [(direction.layer, 0), (0, 1)]
    before = hf_module(organism).config.get_text_config()._attn_implementation
    found = attribute_sources(organism, direction, prompts, heads, progress=False)
    assert hf_module(organism).config.get_text_config()._attn_implementation == before
    direct = attribute_heads(organism, direction, prompts, progress=False)
    expected = torch.stack([direct.heads[:, layer, head, 0] for layer, head in heads], dim=1)
    torch.testing.assert_close(found.totals, expected, rtol=1e-3, atol=1e-4)
    for row, modality in enumerate(found.labels.modalities):
        assert ("media" in found.spans[row]) == (modality != "text")
        assert len(found.tokens[row]) == found.values[row].shape[1]
    assert set(found.shares("harmful", "image")) == set(SPANS)
    assert found.attention[0].numel() == 0, "whole patterns only when asked for"


def test_a_planted_source_is_found(organism: Any, direction: Any) -> None:
    """A head's write from one token is the attention to it times what its value says: by hand."""
    prompt = Prompt("how do i bake the bread ?", id="a")
    layer, head, facts = 1, 2, anatomy(organism)
    found = attribute_sources(organism, direction, [prompt], [(layer, head)], progress=False)
    from refusal_plugin.models import hf_layers
    from refusal_plugin.prompts import encode

    attention, seen = hf_layers(organism)[layer].self_attn, {}
    handle = attention.v_proj.register_forward_hook(lambda _m, _a, out: seen.update(v=out))
    with torch.no_grad():
        hf_module(organism)(**encode(organism, prompt).inputs)
    handle.remove()
    groups = facts.n_heads // (seen["v"].shape[-1] // facts.d_head)
    at = head // groups
    v = seen["v"][0, :, at * facts.d_head : (at + 1) * facts.d_head]
    read = attention.o_proj.weight[:, head * facts.d_head : (head + 1) * facts.d_head].T @ direction.unit
    torch.testing.assert_close(found.values[0][0], found.pattern[0][0] * (v @ read), rtol=1e-4, atol=1e-5)


def test_bad_heads(organism: Any, direction: Any, prompts: Any, tiny: Any) -> None:
    for heads in ([], [(direction.layer + 1, 0)], [(0, 99)]):
        with pytest.raises(DirectionError, match="written by layers"):
            attribute_sources(organism, direction, prompts, heads, progress=False)
    with pytest.raises(ModelError, match="common interface"):
        attribute_sources(tiny("gptj"), (torch.randn(32), 1), WORDS, [(0, 0)], progress=False)


def test_token_projection_is_the_coordinate(organism: Any, direction: Any, prompts: Any) -> None:
    from refusal_plugin.inference.activations import collect_activations

    found = project_tokens(organism, direction, prompts)
    stream = collect_activations(organism, prompts, progress=False).values[:, 0]
    expected = (stream[:, direction.layer] - direction.benign[direction.layer]) @ direction.unit
    expected = expected / direction.vector.norm()
    torch.testing.assert_close(torch.stack([v[-1] for v in found.values]), expected, rtol=1e-3, atol=1e-4)


def test_the_answer_is_read_as_it_was_said(organism: Any, direction: Any, prompts: Any) -> None:
    from refusal_plugin.inference.answers import generate

    for modality in ("text", "image", "audio"):
        prompt = prompts.filter(modality=modality)[0]
        words, along = project_answer(organism, direction, prompt)
        said = generate(organism, [prompt], max_new_tokens=24, progress=False)[0]
        assert len(words) == len(along) == len(said.ids)
        first = project_tokens(organism, direction, [prompt]).values[0][-1]
        assert float(along[0]) == pytest.approx(float(first), abs=1e-3)
