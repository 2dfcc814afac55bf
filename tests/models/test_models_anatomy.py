"""What `load` finds out about a model, family by family, against what is known of each architecture."""

import gc
import weakref
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from refusal_plugin.errors import ModelError
from refusal_plugin.models import (
    Anatomy,
    anatomy,
    embed,
    final_norm,
    hf_layers,
    hf_module,
    layers,
    load,
    unembed,
)
from tests.support.tiny import FAMILIES, LAYERS, MULTIMODAL, tiny_model, tiny_tokenizer

POST_NORM = {
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_multimodal": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3n": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "exaone4": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
}
PARALLEL = {"gpt_neox", "phi", "gptj", "cohere", "falcon", "stablelm_parallel"}
D_HEAD = {
    "qwen3": 12,
    "mistral": 12,
    "gemma": 12,
    "gemma2": 12,
    "gemma3": 12,
    "gemma3_multimodal": 12,
    "deepseek_v3": 12,
}
NO_HEADS = {"gemma3n", "qwen3_vl", "opt_post_norm", "mllama", "qwen3_omni"}
LAYERS_PATH = {
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "falcon": "transformer.h",
    "bloom": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
    "opt_post_norm": "model.decoder.layers",
    "smolvlm": "model.text_model.layers",
}
OUTPUT = {
    "phi": "self_attn.dense",
    "gpt2": "attn.c_proj",
    "gptj": "attn.out_proj",
    "gpt_neox": "attention.dense",
    "falcon": "self_attention.dense",
    "bloom": "self_attention.dense",
    "opt": "self_attn.out_proj",
    "opt_post_norm": "self_attn.out_proj",
    "qwen3_next": "self_attn.o_proj",
}
MLP = {"opt": "fc2", "opt_post_norm": "fc2", "bloom": "mlp.dense_4h_to_h"}


@cache
def examined(family: str) -> Anatomy:
    """The anatomy of a family; two tests look at it."""
    module, tokenizer = tiny_model(family)
    return anatomy(load(module, tokenizer=tokenizer))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_are_what_the_architecture_has(family: str) -> None:
    found = examined(family)
    path = "model.language_model.layers" if family in MULTIMODAL else "model.layers"
    assert found.layers_path == LAYERS_PATH.get(family, path)
    assert (found.n_layers, found.d_model, found.n_heads) == (LAYERS, 32, 4)
    assert found.d_head == D_HEAD.get(family, 8)
    assert found.mlp == MLP.get(family, "mlp")
    assert (found.post_attention_norm, found.post_mlp_norm) == POST_NORM.get(family, (None, None))
    assert found.parallel == (family in PARALLEL)
    assert found.residual_multiplier == (0.22 if family == "granite" else 1.0)
    if family != "qwen3_next":
        assert found.attention_out == OUTPUT.get(family, "self_attn.o_proj")


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NO_HEADS])
def test_contributions_add_up_to_the_stream(family: str) -> None:
    found = examined(family)
    assert found.conservation.ok, found.conservation
    assert found.conservation.error <= 1e-5
    assert found.conservation.leftover == ""
    found.require_heads()


@pytest.mark.parametrize(
    ("family", "leftover"),
    [
        ("gemma3n", r"shape \(4, 1, 9, 32\).*altup, laurel"),
        ("qwen3_vl", "DeepStack adds vision features"),
        ("mllama", "1 blocks of cross-attention write between the layers"),
        ("opt_post_norm", "not written by the heads, attention bias or MLP of layer 0"),
    ],
)
def test_head_work_is_refused_with_what_is_left_over_and_the_rest_works(family: str, leftover: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    found = anatomy(model)
    assert not found.conservation.ok
    with pytest.raises(ModelError, match=leftover):
        found.require_heads()
    ids = torch.tensor([[1, 7, 8, 9]])
    blocks = layers(model)
    with torch.no_grad(), model.trace(input_ids=ids):
        last = blocks[-1].output.save()
    assert torch.isfinite(last).all()


@pytest.mark.parametrize("family", ["omni", "gemma2", "gpt2"])
def test_envoys_and_modules_name_the_same_layers(family: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    found = anatomy(model)
    blocks = layers(model)
    assert hf_module(model) is module
    assert [block._module for block in blocks] == hf_layers(model) == hf_layers(module, found)
    assert len(blocks) == found.n_layers
    assert embed(model)._module is module.get_input_embeddings()
    assert unembed(model)._module is module.get_output_embeddings()


@pytest.mark.parametrize("family", ["omni", "qwen2", "olmo2", "gpt2", "opt", "cohere"])
def test_final_norm_then_unembed_gives_the_logits(family: str) -> None:
    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    blocks, norm, head = layers(model), final_norm(model), unembed(model)
    assert norm is not None
    ids = torch.tensor([[1, 7, 8, 9]])
    with torch.no_grad(), model.trace(input_ids=ids):
        residual = blocks[-1].output.save()
        logits = model.output.logits.save()
    with torch.no_grad():
        again = head._module(norm._module(residual)) * getattr(module, "logit_scale", 1.0)
    torch.testing.assert_close(again, logits)


def test_traced_residuals_are_those_of_plain_hooks() -> None:
    module, tokenizer = tiny_model("omni")
    ids = torch.tensor([[0, 0, 1, 10, 11], [1, 12, 13, 14, 15]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, output: seen.append(output.detach().clone()))
        for block in module.get_submodule("model.language_model.layers")
    ]
    with torch.no_grad():
        module(**inputs)
    for handle in handles:
        handle.remove()
    model = load(module, tokenizer=tokenizer)
    blocks = layers(model)
    with torch.no_grad(), model.trace(**inputs):
        first, last = blocks[0].output.save(), blocks[-1].output.save()
    assert torch.equal(first, seen[0])
    assert torch.equal(last, seen[-1])


def test_loading_a_module_does_not_change_it() -> None:
    module, tokenizer = tiny_model("omni")
    tokenizer.padding_side = "right"
    before = {name: value.clone() for name, value in module.state_dict().items()}
    config = module.config.to_dict()
    load(module, tokenizer=tokenizer)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())
    assert module.config.to_dict() == config
    assert tokenizer.padding_side == "right"
    # The probe's hooks are gone. (What nnsight itself keeps on a module it wraps is not ours to test.)
    assert not any("_Recorder" in repr(hook) for part in module.modules() for hook in part._forward_hooks.values())


def test_the_probe_leaves_the_random_state_alone() -> None:
    module, tokenizer = tiny_model("qwen2")
    state = torch.random.get_rng_state()
    load(module, tokenizer=tokenizer)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_model_in_training_mode_is_refused() -> None:
    module, tokenizer = tiny_model("qwen2")
    module.get_submodule("model.layers.1").train()
    with pytest.raises(ModelError, match=r"training mode.*call \.eval\(\)"):
        load(module, tokenizer=tokenizer)
    assert module.get_submodule("model.layers.1").training


def test_the_anatomy_lives_as_long_as_the_model() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    found, gone = anatomy(model), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert found.n_layers == LAYERS


@pytest.mark.parametrize("impostor", [object(), nn.Linear(2, 2), "organism", None])
def test_a_model_that_load_did_not_make_has_no_anatomy(impostor: object) -> None:
    with pytest.raises(ModelError, match=r"load it with refusal_plugin\.load"):
        anatomy(impostor)


def test_modalities_need_a_tower_and_a_processor() -> None:
    module, tokenizer = tiny_model("omni")

    class Processor:
        def __init__(self, modalities: tuple[str, ...] | None) -> None:
            self.tokenizer = tokenizer
            if modalities is not None:
                self.modalities = modalities

    without = anatomy(load(module, tokenizer=tokenizer))
    assert without.modalities == ("text",)
    assert without.architecture_modalities == ("text", "image", "video", "audio")
    with pytest.raises(ModelError, match=r"part of its processor is missing \(none was given\).*pass processor="):
        without.require_modality("image")
    assert anatomy(load(module, processor=Processor(None), probe=False)).modalities == (
        "text",
        "image",
        "video",
        "audio",
    )
    some = anatomy(load(module, processor=Processor(("audio",)), probe=False))
    assert some.modalities == ("text", "audio")
    some.require_modality("audio")
    text = anatomy(load(tiny_model("qwen2")[0], tokenizer=tokenizer))
    with pytest.raises(ModelError, match="takes text"):
        text.require_modality("image")


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen2", ("text",)),
        ("llava", ("text", "image")),
        ("qwen2_audio", ("text", "audio")),
        ("qwen2_5_vl", ("text", "image", "video")),
        ("gemma3_multimodal", ("text", "image")),
        ("omni", ("text", "image", "video", "audio")),
        ("internvl", ("text", "image", "video")),
        ("smolvlm", ("text", "image", "video")),
        ("mllama", ("text", "image")),
        ("voxtral", ("text", "audio")),
    ],
)
def test_towers_are_read_from_the_configuration(family: str, expected: tuple[str, ...]) -> None:
    module, tokenizer = tiny_model(family)
    assert anatomy(load(module, tokenizer=tokenizer)).architecture_modalities == expected


def test_chat_template_and_context() -> None:
    module, tokenizer = tiny_model("qwen2")
    chat = anatomy(load(module, tokenizer=tokenizer))
    assert chat.chat_template == tokenizer.chat_template
    assert chat.template_hash is not None
    assert chat.context_length == 128
    base = anatomy(load(module, tokenizer=tiny_tokenizer(template=None)))
    assert base.chat_template is None
    assert base.template_hash is None


def test_generation_through_the_loaded_model_is_that_of_the_module() -> None:
    module, tokenizer = tiny_model("omni")
    ids = torch.tensor([[0, 0, 1, 10, 11, 12], [1, 61, 57, 62, 13, 14]])
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values": torch.randn(4, 96),
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
        "max_new_tokens": 4,
        "min_new_tokens": 4,
        "do_sample": False,
    }
    expected = module.generate(**inputs)
    model = load(module, tokenizer=tokenizer)
    with torch.no_grad(), model.generate(**inputs) as tracer:
        answer = tracer.result.save()
    assert torch.equal(answer, expected)
