"""The verified anatomy of a loaded model, and the way to its parts.

`load` examines the Hugging Face module once, before nnsight wraps it, and files the result here. Everything else asks
`anatomy(model)` and never a config or a class name.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import ModelError
from ..prompts.prompt import Modality
from .conservation import Conservation
from .processors import installing
from .structure import LayerParts
from .wrapper import Envoy, TransformersModel


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What a model is made of.

    Paths of layers, embedding, final norm and head start at the Hugging Face module; the others are relative to one
    decoder layer.

    Attributes:
        name: what it was loaded as ("organism", a hub id, a folder, or the class of a module).
        revision: commit of the hub repository, None for folders and modules.
        architecture: class of the model ("Qwen2_5OmniThinkerForConditionalGeneration").
        layers_path: the decoder layers ("model.language_model.layers").
        layer_indices: places of the layers in the list at `layers_path`. All of it, but for blocks that a text prompt
            passes by (cross-attention to images in Llama 3.2 Vision): those are no layers here, and write between them.
        n_layers, d_model: depth, and width of the residual stream.
        n_heads, d_head: query heads per layer, and width of one head's `z` (input width of the output projection over
            `n_heads`; right also where `config.head_dim` is not).
        attention, attention_out, mlp: modules inside a layer ("self_attn", "self_attn.o_proj", "mlp").
        post_attention_norm, post_mlp_norm: norms applied to the OUTPUT of attention and MLP before it joins the stream,
            found by dataflow; None where there are none (Llama's `post_attention_layernorm` is not one).
        parallel: attention and MLP read the same stream (GPT-J, Falcon, Cohere).
        residual_multiplier: factor on what attention and MLP add to the stream (Granite), else 1.
        copies: vectors per token in the stream between the layers: 1, or the number of copies that are stacked in front
            of the batch (Gemma 3n's AltUp) or behind the position (hyper-connections).
        parts: the same per layer, for models whose layers differ.
        embed_path, final_norm_path, unembed_path: token embedding, last norm, output head.
        modalities: what can be put in: towers of the model for which there is a processor.
        architecture_modalities: what the model has towers for.
        context_length: longest prompt in tokens, None if unlimited.
        chat_template: the template in force, None for a base model.
        config_hash, template_hash: see `fingerprint`.
        conservation: whether head contributions add up; see `conservation`.
        tokenizer: the tokenizer in force (copied when the user gave one).
        processor: the processor for media, None if there is none.
        one_at_a_time: modalities that run one prompt at a time here, with how far the logits of a batch of two were
            from those of the prompts alone, relative to the largest (infinite where the batch did not run); see
            `load(probe=)`.
        missing: why a modality that the model has a tower for cannot be put in, by modality.
        remote: the weights are not here; the model runs on a server.
    """

    name: str
    revision: str | None
    architecture: str
    layers_path: str
    layer_indices: tuple[int, ...] = field(repr=False)
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    attention: str
    attention_out: str
    mlp: str
    post_attention_norm: str | None
    post_mlp_norm: str | None
    parallel: bool
    residual_multiplier: float
    copies: int
    parts: tuple[LayerParts, ...] = field(repr=False)
    embed_path: str
    final_norm_path: str | None
    unembed_path: str | None
    modalities: tuple[Modality, ...]
    architecture_modalities: tuple[Modality, ...]
    context_length: int | None
    chat_template: str | None = field(repr=False)
    config_hash: str = field(repr=False)
    template_hash: str | None = field(repr=False)
    conservation: Conservation
    tokenizer: Any = field(repr=False)
    processor: Any = field(repr=False)
    one_at_a_time: Mapping[Modality, float]
    missing: Mapping[Modality, str] = field(repr=False)
    remote: bool
    _hash_weights: Callable[[], str] = field(repr=False)

    def weight_hash(self) -> str:
        """SHA-256 of the weights, computed at the first call and kept.

        Raises:
            ModelError: the model is remote, so use `revision`.
        """
        return self._hash_weights()

    def require_heads(self) -> None:
        """Raises ModelError, naming what is left over, if this model's heads cannot be attributed."""
        if not self.conservation.ok:
            raise ModelError(
                f"attribute the heads of {self.name!r}",
                self.conservation.leftover,
                "everything but head work is available on this model",
            )

    def require_stream(self, asked: str) -> None:
        """Raises ModelError unless the stream is one vector per token: only then is "the last token" one place.

        Args:
            asked: what was to be done, as the error says it.
        """
        if self.copies != 1:
            raise ModelError(
                f"{asked} of {self.name!r}",
                f"its layers hand on {self.copies} copies of every token (AltUp, hyper-connections)",
                "read or edit attn_out or mlp_out, which are one vector per token",
            )

    def takes(self, modality: Modality) -> bool:
        """Whether the model takes a modality: all of its media, for one of several kinds."""
        return set(modality.split("+")) <= set(self.modalities)

    def require_modality(self, modality: Modality) -> None:
        """Raises ModelError, saying why, if this model does not take `modality`."""
        if self.takes(modality):
            return
        found = f"{self.architecture} takes {', '.join(self.modalities)}"
        do = "use a model with that modality"
        if modality in self.missing:
            found = f"the model has the tower, but the part of its processor is missing ({self.missing[modality]})"
            do = installing(self.missing[modality]) or "pass processor= to load()"
        raise ModelError(f"put {modality} into {self.name!r}", found, do)


# Beside the models, not on them: an nnsight Envoy turns attributes into parts of its tree and ships them to the server.
_KNOWN: weakref.WeakKeyDictionary[Any, Anatomy] = weakref.WeakKeyDictionary()


def file(model: TransformersModel, found: Anatomy) -> None:
    """Keep the anatomy of a model as long as the model lives."""
    _KNOWN[model] = found


def anatomy(model: object) -> Anatomy:
    """The anatomy of a model that `load` returned.

    Raises:
        ModelError: the model was not made by `load`.
    """
    try:
        return _KNOWN[model]
    except (KeyError, TypeError):
        found = f"a {type(model).__name__} that load() did not return"
        raise ModelError("look up the anatomy", found, "load it with refusal_plugin.load(...)") from None


def layers(model: TransformersModel) -> list[Envoy]:
    """The decoder layers as nnsight Envoys, first to last; their `.output` is the residual stream after each."""
    blocks = _envoy(model, anatomy(model).layers_path)
    return [blocks[index] for index in anatomy(model).layer_indices]


def hf_module(model: TransformersModel) -> nn.Module:
    """The Hugging Face module behind a model.

    Raises:
        ModelError: the model is remote; its module has no weights here.
    """
    if anatomy(model).remote:
        raise ModelError("use the weights", f"{anatomy(model).name!r} is remote", "load it without remote=True")
    module: nn.Module = model._module
    return module


def hf_layers(module: TransformersModel | nn.Module, found: Anatomy | None = None) -> list[nn.Module]:
    """The decoder layers as torch modules, for plain hooks.

    Args:
        module: a loaded model; or a Hugging Face module, then with its anatomy.
        found: the anatomy, needed for a bare module.
    """
    if isinstance(module, nn.Module):
        if found is None:
            raise ModelError("find the layers", "a bare module without its anatomy", "pass anatomy(model) as well")
        blocks = list(module.get_submodule(found.layers_path).children())
        return [blocks[index] for index in found.layer_indices]
    return hf_layers(hf_module(module), anatomy(module))


def embed(model: TransformersModel) -> Envoy:
    """The token embedding as an Envoy."""
    return _envoy(model, anatomy(model).embed_path)


def final_norm(model: TransformersModel) -> Envoy | None:
    """The norm between the last layer and the output head as an Envoy; None where there is none."""
    path = anatomy(model).final_norm_path
    return None if path is None else _envoy(model, path)


def unembed(model: TransformersModel) -> Envoy:
    """The output head as an Envoy; `final_norm` then `unembed` turn a residual into logits (before any soft cap).

    Raises:
        ModelError: the model has no output head.
    """
    path = anatomy(model).unembed_path
    if path is None:
        found = f"{anatomy(model).architecture} has no output head"
        raise ModelError("read logits", found, "load a …ForCausalLM class")
    return _envoy(model, path)


def _envoy(model: TransformersModel, path: str) -> Any:
    envoy: Any = model
    for name in path.split("."):
        envoy = envoy[int(name)] if name.isdigit() else getattr(envoy, name)
    return envoy
