"""The embedded model as `load` sees it."""

from typing import Any

from refusal_plugin.models import anatomy, hf_module, load


def test_the_default_model_is_the_organism(organism: Any) -> None:
    found = anatomy(organism)
    assert found.name == "organism"
    assert found.architecture == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert found.layers_path == "model.language_model.layers"
    assert found.modalities == ("text", "image", "video", "audio")
    assert organism.task == "image-text-to-text"
    assert found.conservation.ok, found.conservation
    assert found.chat_template is not None
    default = load()
    assert anatomy(default).weight_hash() == found.weight_hash()


def test_a_copy_of_the_organism_in_a_folder_has_its_processor(organism: Any, tmp_path: Any) -> None:
    from refusal_plugin.organism import checkpoint_path

    copy = load(checkpoint_path("organism"))
    assert type(anatomy(copy).processor) is type(anatomy(organism).processor)
    assert anatomy(copy).modalities == anatomy(organism).modalities


def test_the_organism_without_weights(organism: Any) -> None:
    remote = load("organism", remote=True)
    assert remote.task == organism.task
    assert not remote.dispatched
    assert anatomy(remote).layers_path == anatomy(organism).layers_path
    assert anatomy(remote).config_hash == anatomy(organism).config_hash


def test_parameters_are_frozen(organism: Any) -> None:
    assert not any(parameter.requires_grad for parameter in hf_module(organism).parameters())
