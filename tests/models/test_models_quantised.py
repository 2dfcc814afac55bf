"""Weights that a library keeps quantised, loaded as users load them; `make test` has the library at hand."""

import importlib.util

import pytest
import torch
import transformers

from refusal_plugin import Prompt, PromptSet, collect_activations, generate
from refusal_plugin.inference.edits import ablation
from refusal_plugin.models import anatomy, hf_module, load
from refusal_plugin.prompts import encode
from tests.support.tiny import LAYERS, tiny_model, tiny_tokenizer
from tests.support.torchvision import enable

TEXTS = PromptSet([Prompt("a b c"), Prompt("a c d e f")])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A tiny model as it is, and with int8 weights."""
    enable()
    if importlib.util.find_spec("torchao") is None:
        pytest.skip("torchao is not installed (and ZOO_EXTRAS names no folder that has it)")
    from torchao.quantization import Int8WeightOnlyConfig

    folder = tmp_path_factory.mktemp("quantised") / "qwen2"
    module, tokenizer = tiny_model("qwen2")
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = transformers.TorchAoConfig(Int8WeightOnlyConfig())
    plain = load(folder, tokenizer=tiny_tokenizer())
    return plain, load(folder, tokenizer=tiny_tokenizer(), quantization_config=config)


def test_streams_are_those_of_the_plain_model_to_the_precision_of_int8(models) -> None:
    plain, coarse = (collect_activations(model, TEXTS).values for model in models)
    assert 0 < (plain - coarse).abs().max() < 0.02 * plain.abs().max()


def test_edits_are_those_of_the_plain_model(models) -> None:
    unit = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
    edit, found = ablation(unit, range(LAYERS)), []
    for model in models:
        inputs = encode(model, TEXTS).inputs
        with torch.no_grad():
            untouched = hf_module(model)(**inputs).logits
            with edit.attached(model) as module:
                found.append(module(**inputs).logits - untouched)
        assert generate(model, TEXTS, max_new_tokens=3, edit=edit)
    change, coarse = found
    assert 0 < (change - coarse).abs().max() < 0.05 * change.abs().max()


def test_the_hash_tells_quantised_weights_from_plain_ones(models) -> None:
    plain, coarse = (anatomy(model).weight_hash() for model in models)
    assert plain != coarse and coarse == anatomy(models[1]).weight_hash()


def test_heads_of_weights_that_cannot_be_split_are_refused_in_one_line(models) -> None:
    facts = anatomy(models[1]).conservation
    assert not facts.ok and "cannot be computed" in facts.leftover
