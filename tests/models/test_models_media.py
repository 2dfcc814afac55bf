"""Multimodal checkpoints as users bring them: what a default install takes of each, and that batches are exact."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.errors import ModelError, PromptError
from refusal_plugin.models import anatomy, hf_module, layers, load, module_inputs
from refusal_plugin.prompts import Prompt, batches, encode
from tests.support.media_models import ASSEMBLED, HAS_VIDEO, MEDIA, assemble, nest, prompt, save
from tests.support.zoo.build import build
from tests.support.zoo.families import families

WITHOUT_VIDEO = pytest.mark.skipif(HAS_VIDEO, reason="torchvision is installed here")
LARGE = {"height": 32, "frames": 6, "seconds": 0.8}


def takes(family: str) -> tuple[str, ...]:
    """What a family takes in this environment."""
    found = [kind for kind in MEDIA[family].takes if kind != "video" or HAS_VIDEO]
    if family == "smolvlm" and find_spec("num2words") is None:
        found = []
    if family == "voxtral":
        found = []  # its processor takes sound only through a chat format of its own
    return ("text", *found)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, list[str]]]:
    """A family's checkpoint, loaded once, and what was said while loading."""
    known: dict[str, tuple[Any, list[str]]] = {}

    def get(family: str) -> tuple[Any, list[str]]:
        if family not in known:
            folder = save(family, tmp_path_factory.mktemp(family))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                model = load(folder)
            known[family] = model, [str(line.message) for line in said if "it takes" in str(line.message)]
        return known[family]

    return get


@pytest.mark.parametrize("family", MEDIA)
def test_a_checkpoint_takes_all_that_loads_here_and_says_once_what_does_not(loaded, family: str) -> None:
    model, said = loaded(family)
    found = anatomy(model)
    assert found.modalities == takes(family)
    assert found.architecture_modalities == ("text", *MEDIA[family].takes)
    assert set(found.missing) == set(found.architecture_modalities) - set(found.modalities)
    assert len(said) == bool(found.missing)
    for line in said:
        assert "\n" not in line and line.startswith(
            f"load {found.name!r}: it takes {', '.join(found.modalities)} only ("
        )
        assert all(reason in line for reason in found.missing.values())


@WITHOUT_VIDEO
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "omni", "llava_onevision"])
def test_without_torchvision_only_video_is_missing_and_the_command_that_mends_it_is_said(loaded, family: str) -> None:
    model, said = loaded(family)
    assert set(anatomy(model).missing) == {"video"}
    assert said[0].endswith('pip install "refusal-plugin[vision]".')
    with pytest.raises(ModelError, match=r'needs torchvision.*pip install "refusal-plugin\[vision\]"'):
        anatomy(model).require_modality("video")
    assert encode(model, prompt("image")).roles["media"].any()


@pytest.mark.parametrize("family", MEDIA)
def test_rows_of_a_batch_are_the_prompts_alone(loaded, family: str) -> None:
    """Unequal texts and unequal media, through `batches`, which knows what goes one at a time."""
    model, _ = loaded(family)
    module = hf_module(model)
    for kind in anatomy(model).modalities:
        prompts = [prompt(kind, "w1 w2 w3"), prompt(kind, "w5 w6 w7 w8 w9", 1, **LARGE)]
        for indices, batch in batches(model, prompts):
            assert batch.roles["instruction"].sum(1).tolist() == [(3, 5)[k] for k in indices]
            assert batch.roles["media"].any() == (kind != "text")
            with torch.no_grad():
                together = module(**batch.inputs).logits[:, -1]
                alone = [module(**encode(model, prompts[k]).inputs).logits[:, -1] for k in indices]
            torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", [name for name, found in MEDIA.items() if "image" in found.takes])
def test_three_turns_with_pictures_stand_where_the_batch_says(loaded, family: str) -> None:
    """Also where a processor puts tokens of its own around every picture, and texts lie between two of them."""
    model, _ = loaded(family)
    if "image" not in anatomy(model).modalities:
        pytest.skip(f"{family} takes no images here: its processor needs a package that is missing")
    one, two = (prompt("image", seed=seed).image for seed in range(2))
    asked = [{"type": "image", "image": two}, {"type": "text", "text": "w6 w1 w2 w7"}, {"type": "image", "image": one}]
    before = [{"type": "image", "image": one}, {"type": "text", "text": "w1 w2 w3"}]
    turns = [("user", before), ("assistant", "w4 w5"), ("user", asked)]
    prompts = [
        Prompt(messages=[{"role": role, "content": content} for role, content in turns[first:]]) for first in (0, 2)
    ]
    sizes = [int(encode(model, Prompt("w1", image=image)).roles["media"].sum()) for image in (one, two)]
    for (row,), batch in batches(model, prompts, max_rows=1):
        ids = batch.inputs["input_ids"][0]
        for number, turn in enumerate(prompts[row].turns):
            assert anatomy(model).tokenizer.decode(ids[batch.turns[0] == number]).split() == turn.text.split()
        assert batch.roles["media"].sum() == (2 - row) * sizes[0] + sizes[1]
    for rows, batch in batches(model, prompts):
        with torch.no_grad():
            together = hf_module(model)(**batch.inputs).logits[:, -1]
            alone = [hf_module(model)(**encode(model, prompts[row]).inputs).logits[:, -1] for row in rows]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not HAS_VIDEO, reason="needs torchvision")
def test_clips_that_cannot_share_a_batch_go_one_at_a_time(loaded) -> None:
    """LLaVA-OneVision counts the frames of a clip, those that would pad a shorter one included."""
    model, _ = loaded("llava_onevision")
    assert set(anatomy(model).one_at_a_time) == {"video"}
    assert [indices for indices, _ in batches(model, [prompt("video"), prompt("video", seed=1)])] == [[0], [1]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llava", "qwen2_audio", "omni", "mistral3", "mllama"])
def test_media_are_passed_on_in_the_models_precision(tmp_path: Path, family: str, dtype: str) -> None:
    model = load(save(family, tmp_path), dtype=dtype)
    for kind in anatomy(model).modalities[1:]:
        batch = encode(model, prompt(kind))
        floating = {value.dtype for value in batch.inputs.values() if value.is_floating_point() and value.dim() > 1}
        assert floating == {getattr(torch, dtype)}
        with torch.no_grad():
            assert torch.isfinite(hf_module(model)(**batch.inputs).logits).all()


@pytest.mark.skipif(not HAS_VIDEO, reason="needs torchvision")
def test_numbers_about_a_medium_keep_their_precision(tmp_path: Path) -> None:
    model = load(save("qwen2_5_vl", tmp_path), dtype="bfloat16")
    assert encode(model, prompt("video")).inputs["second_per_grid_ts"].dtype == torch.float32


# -- layouts ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ASSEMBLED)
def test_a_part_of_an_assembled_model_takes_what_it_takes_alone(tmp_path: Path, family: str, loaded) -> None:
    """On the hub Qwen-Omni is a thinker, a talker and a vocoder; the towers are in the thinker's configuration."""
    alone, _ = loaded(family)
    model = load(assemble(family, save(family, tmp_path)))
    assert anatomy(model).modalities == takes(family)
    assert type(hf_module(model)) is type(hf_module(alone))
    for kind in anatomy(model).modalities:
        here, there = encode(model, prompt(kind)), encode(alone, prompt(kind))
        assert set(here.inputs) == set(there.inputs)
        assert all(torch.equal(here.inputs[name], there.inputs[name]) for name in here.inputs)
    assert anatomy(model).weight_hash() == anatomy(alone).weight_hash()


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen2_audio", "omni", "internvl", "gemma3_multimodal"])
def test_a_processor_saved_as_one_file_is_found(tmp_path: Path, family: str) -> None:
    folder = nest(save(family, tmp_path))
    assert not (folder / "preprocessor_config.json").exists()
    assert anatomy(load(folder)).modalities == takes(family)


@pytest.mark.parametrize("family", ["llava", "omni"])
def test_without_any_processor_file_text_is_left_and_the_reason_told(tmp_path: Path, family: str) -> None:
    folder = save(family, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"it takes text only \(image: "):
        model = load(folder)
    assert anatomy(model).modalities == ("text",)
    assert encode(model, "w1 w2").size == 1


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral", "qwen2_5_vl"])
def test_no_package_is_asked_for_that_nothing_uses(tmp_path: Path, family: str) -> None:
    """transformers' pipeline for any-to-any models wants librosa and torchvision, for weights here and on a server."""
    folder = save(family, tmp_path)
    assert anatomy(load(folder)).modalities[0] == "text"
    assert anatomy(load(folder, remote=True)).remote


def test_a_processor_that_ignores_the_medium_is_not_trusted(loaded, tmp_path: Path) -> None:
    """Voxtral's takes sound only through its own chat format, and drops what is given otherwise without a word."""
    model, _ = loaded("voxtral")
    assert "makes nothing of its audio" in anatomy(model).missing["audio"]
    trusting = load(save("voxtral", tmp_path), probe=False)
    with pytest.raises(PromptError, match="the processor makes nothing of its audio"):
        encode(trusting, prompt("audio"))


@pytest.mark.parametrize("family", ["paligemma", "qwen3_asr"])
def test_a_processor_that_refuses_text_alone_leaves_it_to_the_tokenizer(family: str) -> None:
    built = build(families()[family])
    text = "<bos><user>bake a loaf<eos><assistant>"
    with pytest.raises((TypeError, ValueError), match=r"expected|missing"):
        built.processor(text=[text])
    batch = encode(module_inputs(built.module, built.tokenizer, built.processor), ["bake a loaf", "bread"])
    ids = batch.inputs["input_ids"][0]
    assert ids.tolist() == built.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert built.tokenizer.decode(ids[batch.roles["instruction"][0]]).split() == ["bake", "a", "loaf"]


def test_a_processor_that_adds_tokens_behind_the_text_keeps_the_instruction_in_its_place() -> None:
    """PaliGemma's writes a second begin-of-text between image and instruction, and a line's end behind it."""
    built = build(families()["paligemma"])
    spec = module_inputs(built.module, built.tokenizer, built.processor, modalities=("text", "image"))
    batch = encode(spec, Prompt("bake a loaf", image=torch.zeros(40, 60, 3, dtype=torch.uint8).numpy()))
    ids = batch.inputs["input_ids"][0]
    assert built.tokenizer.decode(ids[batch.roles["instruction"][0]]).split() == ["bake", "a", "loaf"]
    assert set(ids[batch.roles["media"][0]].tolist()) == {built.module.config.image_token_id}
    assert "labels" not in batch.inputs


# -- blocks that a text prompt passes by ------------------------------------------------------------------------------
def test_cross_attention_blocks_are_no_layers(loaded) -> None:
    model, _ = loaded("mllama")
    found, module = anatomy(model), hf_module(model)
    assert (found.n_layers, found.layer_indices) == (3, (0, 2, 3))
    assert len(module.get_submodule(found.layers_path)) == 4
    for kind in ("text", "image"):
        seen: list[torch.Tensor] = []
        blocks = [module.get_submodule(f"{found.layers_path}.{index}") for index in found.layer_indices]
        handles = [block.register_forward_hook(lambda _m, _i, y, into=seen: into.append(y.clone())) for block in blocks]
        batch = encode(model, prompt(kind))
        with torch.no_grad():
            module(**batch.inputs)
        for handle in handles:
            handle.remove()
        traced = layers(model)
        with torch.no_grad(), model.trace(**batch.inputs):
            first, last = traced[0].output.save(), traced[-1].output.save()
        assert torch.equal(first, seen[0]) and torch.equal(last, seen[-1])
