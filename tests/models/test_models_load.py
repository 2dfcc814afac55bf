"""Loading by name: what is accepted, and the one line that says what is wrong with everything else."""

import gc
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnsight
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from refusal_plugin.errors import ModelError
from refusal_plugin.models import anatomy, hf_module, layers, load
from refusal_plugin.models.checkpoints import class_for, task_for
from refusal_plugin.prompts.input_spec import input_spec_of
from tests.support.tiny import tiny_model, tiny_tokenizer
from tests.support.zoo.build import build
from tests.support.zoo.families import families

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen 2 and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    module, tokenizer = tiny_model("qwen2")
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def _tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_loads_frozen_in_evaluation_mode_and_float32(checkpoint: Path) -> None:
    model = load(checkpoint)
    module = hf_module(model)
    # The class path is part of the remote model key and of every request: to a server it is nnsight's own class.
    assert isinstance(model, nnsight.TransformersModel)
    assert model._remoteable_class() is nnsight.TransformersModel
    assert model.__reduce_ex__(4)[1] == (nnsight.TransformersModel,)
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert anatomy(model).name == str(checkpoint)
    assert anatomy(model).revision is None


def test_dtype_and_attention_can_be_chosen(checkpoint: Path) -> None:
    model = load(str(checkpoint), dtype="bfloat16", attn_implementation="eager")
    assert {parameter.dtype for parameter in hf_module(model).parameters()} == {torch.bfloat16}
    assert model.attn_implementation == "eager"
    assert load(checkpoint).attn_implementation == "sdpa"


def test_a_tokenizer_that_is_given_is_copied(checkpoint: Path) -> None:
    tokenizer = tiny_tokenizer(template="mine")
    tokenizer.padding_side = "right"
    found = anatomy(load(checkpoint, tokenizer=tokenizer))
    assert found.chat_template == "mine"
    assert found.tokenizer is not tokenizer
    assert (found.tokenizer.padding_side, tokenizer.padding_side) == ("left", "right")


def test_gradients_reach_an_activation_of_a_frozen_model(checkpoint: Path) -> None:
    model = load(checkpoint)
    blocks = layers(model)
    ids = torch.tensor([[1, 7, 8, 9]])
    with model.trace(input_ids=ids):
        residual = blocks[0].output
        residual.requires_grad_()
        gradient = torch.autograd.grad(model.output.logits[0, -1, 5], residual)[0].save()
    assert gradient.abs().sum() > 0


# -- names that lead nowhere


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/no/such/folder", r"no such folder, and it is not a hub id.*organism, organism-hard, organism-control"),
        ("organism-x", r"load 'organism-x': no folder and no embedded model of that name.*organism"),
        ("no-such-owner/no-such-model", r"no configuration under that id on the hub or in its cache"),
        ("", "an empty name"),
    ],
)
def test_a_name_that_leads_nowhere(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thing", [3, None, [1], {"model": 1}])
def test_an_unsupported_object(thing: object) -> None:
    with pytest.raises(ModelError, match=f"an object of type {type(thing).__name__}"):
        inspect.unwrap(load)(thing)


def test_a_module_that_is_no_language_model() -> None:
    module, tokenizer = tiny_model("qwen2")
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    ).eval()
    with pytest.raises(ModelError, match="it is not a Hugging Face model"):
        load(nn.Linear(2, 2), tokenizer=tokenizer)
    with pytest.raises(ModelError, match="it is an encoder-decoder"):
        load(t5, tokenizer=tokenizer)
    with pytest.raises(ModelError, match="does not generate text"):
        load(module.model, tokenizer=tokenizer)


def test_a_module_needs_a_tokenizer_and_takes_no_loading_options() -> None:
    module, tokenizer = tiny_model("qwen2")
    with pytest.raises(ModelError, match=r"carries no tokenizer.*pass tokenizer= or processor="):
        load(module)
    with pytest.raises(ModelError, match="dtype, revision cannot apply to a module"):
        load(module, tokenizer=tokenizer, dtype=torch.float16, revision="main")


# -- folders that are damaged


def _corrupt(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not safetensors" * 10)


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "frobnicator"}')


def _vision_only(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit"}')


def _encoder_decoder(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "t5"}')


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _missing_tensor(folder: Path) -> None:
    _tensors(folder, lambda tensors: tensors.pop("model.norm.weight"))


def _wrong_shape(folder: Path) -> None:
    _tensors(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}))


def _nan(folder: Path) -> None:
    _tensors(folder, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"][3].fill_(float("nan")))


def _infinite(folder: Path) -> None:
    _tensors(folder, lambda tensors: tensors["model.norm.weight"][:1].fill_(float("inf")))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_corrupt, "a weight file is damaged"),
        (_truncate, "a weight file is damaged"),
        (_no_weights, "no readable weights"),
        (_no_config, "has no config.json"),
        (_bad_config, "no readable configuration"),
        (_unknown_type, "does not know this architecture.*frobnicator.*update transformers"),
        (_vision_only, "no decoder class for 'vit'"),
        (_encoder_decoder, "t5 is an encoder-decoder"),
        (_no_tokenizer, "no tokenizer files.*pass tokenizer="),
        (_missing_tensor, r"lack 1 tensors of Qwen2ForCausalLM \(first: model.norm.weight\)"),
        (_wrong_shape, "weights and config.json disagree"),
        (_nan, r"model.layers.1.mlp.up_proj.weight are not finite"),
        (_infinite, r"model.norm.weight are not finite"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(copy: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(copy)
    with pytest.raises(ModelError, match=says) as caught:
        load(copy)
    assert str(caught.value).startswith(f"load '{copy}': ")
    assert "\n" not in str(caught.value)


def test_a_file_is_not_a_folder(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="it is a file, not a checkpoint folder"):
        load(checkpoint / "config.json")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "cuda:97"}, "device cuda:97 cannot be used here"),
        ({"device": "abacus"}, "device abacus cannot be used here"),
        ({"dtype": "float7"}, "dtype float7 is no floating point type"),
        ({"dtype": torch.int8}, "dtype torch.int8 is no floating point type"),
        ({"attn_implementation": "telepathy"}, "no such attention implementation"),
    ],
)
def test_options_that_cannot_be_had(checkpoint: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load(checkpoint, **options)


# -- remote models, without weights


REMOTE = ["qwen2", "gemma2", "gemma3", "gpt2", "falcon", "mixtral", "deepseek_v3", "opt", "qwen3_next", "omni", "llava"]


@pytest.mark.parametrize("family", REMOTE)
def test_a_remote_model_has_the_anatomy_of_the_local_one(family: str, tmp_path: Path) -> None:
    module, tokenizer = tiny_model(family)
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    here, there = load(tmp_path), load(tmp_path, remote=True)
    assert not there.dispatched
    assert all(parameter.is_meta for parameter in there._module.parameters())
    assert input_spec_of(there).dtype is None, "the server may have loaded other precision than the checkpoint has"
    local, remote = vars(anatomy(here)), vars(anatomy(there))
    differ = {name for name in local if local[name] != remote[name]}
    assert differ <= {"remote", "conservation", "tokenizer", "processor", "_hash_weights"}
    with pytest.raises(ModelError, match="unchecked, the model is remote"):
        anatomy(there).require_heads()
    with pytest.raises(ModelError, match="is remote"):
        hf_module(there)
    with pytest.raises(ModelError, match="use its revision"):
        anatomy(there).weight_hash()


# Routes and masks that ask for values, a constructor that does, one that is right in evaluation mode only.
@pytest.mark.parametrize("family", ["jetmoe", "glm5_next", "qianfan_ocr", "molmo2"])
def test_a_model_that_asks_for_values_is_examined_without_weights(family: str, tmp_path: Path) -> None:
    build(families()[family]).save(tmp_path)
    local, remote = vars(anatomy(load(tmp_path))), vars(anatomy(load(tmp_path, remote=True)))
    differ = {name for name in local if local[name] != remote[name]}
    assert differ <= {"remote", "conservation", "tokenizer", "processor", "_hash_weights", "parts"}
    for here, there in zip(local["parts"], remote["parts"], strict=True):
        assert replace(here, writers=there.writers) == there  # factors are solved from values


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_a_model_whose_whole_runs_no_forward_pass_is_refused_remotely_in_one_line(family: str, tmp_path: Path) -> None:
    built = build(families()[family])
    built.save(tmp_path)
    assert type(built.module).forward.__name__ == "_forward_unimplemented"
    with pytest.raises(ModelError, match=r"has no forward pass.*Thinker") as refused:
        load(tmp_path, remote=True)
    assert "\n" not in str(refused.value)


def test_the_task_is_part_of_the_remote_key(tmp_path: Path) -> None:
    module, tokenizer = tiny_model("omni")
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    from nnsight.modeling import huggingface

    huggingface._ID_CACHE[str(tmp_path)] = str(tmp_path)  # or nnsight would ask the hub for the name's spelling
    kind, _, key = load(tmp_path, remote=True).to_model_key().partition(":")
    assert kind == "nnsight.modeling.transformers.TransformersModel"
    assert json.loads(key) == {"repo_id": str(tmp_path), "revision": None, "task": "image-text-to-text"}


def test_the_class_is_the_one_the_checkpoint_was_saved_from() -> None:
    omni = transformers.Qwen2_5OmniThinkerConfig()
    assert class_for(omni, "load").__name__ == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert (task_for(omni, True), task_for(omni, False)) == ("image-text-to-text", "text-generation")
    whole = transformers.Qwen2_5OmniConfig(architectures=["Qwen2_5OmniModel"])
    assert class_for(whole, "load").__name__ == "Qwen2_5OmniThinkerForConditionalGeneration"
    text = transformers.Qwen2Config(architectures=["Qwen2ForSequenceClassification"])
    assert class_for(text, "load").__name__ == "Qwen2ForCausalLM"
    assert task_for(text, True) == "text-generation"


# -- what identifies a model


def test_one_checkpoint_has_one_fingerprint_however_it_is_loaded(checkpoint: Path, copy: Path) -> None:
    _tensors(copy, lambda t: t.update({name: value.bfloat16() for name, value in t.items()}))
    module, tokenizer = tiny_model("qwen2")
    models = [
        load(copy),
        load(copy, dtype="bfloat16", attn_implementation="eager"),
        load(module, tokenizer=tokenizer),
        load(checkpoint),
    ]
    wide, narrow, built, saved = (anatomy(model) for model in models)
    assert wide.weight_hash() == narrow.weight_hash() != built.weight_hash()
    assert built.weight_hash() == saved.weight_hash()
    assert wide.config_hash == narrow.config_hash == built.config_hash
    assert wide.template_hash == built.template_hash


def test_fingerprints_see_changes(copy: Path, checkpoint: Path) -> None:
    model = load(checkpoint)
    first = anatomy(model)
    _tensors(copy, lambda tensors: tensors["model.norm.weight"][:1].add_(1e-3))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    changed = load(copy, tokenizer=tiny_tokenizer(template="other"))
    second = anatomy(changed)
    assert first.weight_hash() != second.weight_hash()
    assert first.config_hash != second.config_hash
    assert first.template_hash != second.template_hash
    assert all(len(value) == 64 for value in (first.weight_hash(), first.config_hash, first.template_hash or ""))


def test_the_weights_of_a_deleted_model_cannot_be_hashed(checkpoint: Path) -> None:
    model = load(checkpoint)
    found = anatomy(model)
    del model
    gc.collect()
    with pytest.raises(ModelError, match="the model has been deleted"):
        found.weight_hash()


# -- nnsight beside anyio


@pytest.mark.parametrize("before", ["", "import nnsight; "])
def test_anyio_works_after_nnsight(before: str) -> None:
    """nnsight's `save` on every object breaks anyio's classes when they are made later; see `models/wrapper.py`."""
    code = (
        f"{before}import refusal_plugin.models, anyio, anyio.abc\n"
        "async def main(): return await anyio.to_thread.run_sync(lambda: 7)\n"
        "assert anyio.run(main) == 7 and anyio.abc.SocketAttribute and hasattr(object(), 'save')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
