"""What a layer adds to the stream: mixers without attention, further parts, factors and a stream that is scaled."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin import anatomy, attribute_heads, load
from refusal_plugin.models.writers import Writers
from tests.support.zoo.build import build
from tests.support.zoo.families import families

PROMPTS = ("Name a colour.", "Which of these is a fruit: an apple, a stone?")
MIXED = {
    "qwen3_next": ("linear_attn", "self_attn"),
    "granitemoehybrid": ("mamba", "self_attn"),
    "lfm2_moe": ("conv", "self_attn"),
    "bamba": ("mamba", "self_attn"),
    "nemotron_h": ("mixer",),
    "mamba2": ("mixer",),
}


def direction() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(3))


@cache
def tiny(family: str) -> Any:
    built = build(families()[family])
    scalars = [buffer for name, buffer in built.module.named_buffers() if name.endswith("layer_scalar")]
    for place, scalar in enumerate(scalars):  # of Gemma 4: 1 until it is trained
        scalar.fill_(0.5 + 0.1 * place)
    return load(built.module, tokenizer=built.tokenizer)


def layers(family: str) -> list[Writers]:
    return [parts.writers for parts in anatomy(tiny(family)).parts]


@pytest.mark.parametrize("family", [*MIXED, "falcon_h1", "gemma4_text", "minicpm3"])
def test_what_all_parts_write_adds_up_to_the_stream_behind_every_layer(family: str) -> None:
    model = tiny(family)
    assert anatomy(model).conservation.ok, anatomy(model).conservation
    targets = {f"behind {layer}": (direction(), layer) for layer in range(anatomy(model).n_layers)}
    found = attribute_heads(model, targets, PROMPTS, progress=False)
    assert float((found.remainder / found.total.abs().clamp_min(0.1)).abs().max()) < 1e-4
    assert float(found.heads.abs().max()) > 1e-4


@pytest.mark.parametrize(("family", "mixers"), MIXED.items())
def test_what_mixes_positions_in_place_of_attention_has_heads(family: str, mixers: tuple[str, ...]) -> None:
    found = {layer.mixer: layer for layer in layers(family) if layer.mixer is not None}
    assert set(found) == set(mixers)
    assert all(layer.n_heads > 0 and layer.d_head > 0 for layer in found.values())


@pytest.mark.parametrize("family", ["qwen3_next", "bamba", "mamba2"])
def test_a_planted_mixer_head_ranks_first(family: str) -> None:
    built = build(families()[family])
    r = direction() / direction().norm()
    before = anatomy(load(built.module, tokenizer=built.tokenizer))
    place, layer = next((i, p.writers) for i, p in enumerate(before.parts) if p.writers.mixer != "self_attn")
    blocks = built.module.get_submodule(before.layers_path)
    with torch.no_grad():
        weight = blocks.get_submodule(f"{place}.{layer.projection}").weight
        weight[:, layer.d_head : 2 * layer.d_head] += (
            40 * r[:, None]
        )  # the second head writes along r, whatever it reads
    model = load(built.module, tokenizer=built.tokenizer)
    found = attribute_heads(model, (r, before.n_layers - 1), PROMPTS, progress=False)
    share = found.heads[..., 0].abs().mean(0)
    assert divmod(int(share.argmax()), share.shape[1]) == (place, 1)


def test_factors_and_further_parts_are_found_by_the_equation() -> None:
    assert all(layer.early == (("mamba", 1.0),) for layer in layers("falcon_h1"))
    scale = [(layer.factor, layer.late[0][1]) for layer in layers("minicpm3")]
    config = tiny("minicpm3")._module.config
    assert scale == [pytest.approx((config.scale_depth / len(scale) ** 0.5,) * 2, rel=1e-5)] * len(scale)
    assert ("shared_mlp", 1.0) in layers("granitemoehybrid")[0].late


def test_a_stream_that_is_scaled_keeps_its_parts() -> None:
    found = layers("gemma4_text")
    assert all(0 < layer.keep < 1 and layer.factor == pytest.approx(layer.keep) for layer in found)
    assert all(layer.late[-1][0] == "post_per_layer_input_norm" for layer in found)


def test_heads_whose_write_goes_through_something_else_are_refused() -> None:
    """Inkling puts a short convolution behind the attention: what a head writes is not what is added."""
    assert not anatomy(tiny("inkling_text")).conservation.ok
