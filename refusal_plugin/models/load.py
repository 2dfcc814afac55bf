"""`load`: from a name or a module to a traced model with its verified anatomy."""

import copy
import logging
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import ModelError
from ..prompts.input_spec import InputSpec, file_input_spec
from ..prompts.prompt import MEDIA
from . import structure as structures
from .anatomy import Anatomy, anatomy, file
from .capabilities import (
    architecture_modalities,
    chat_template,
    context_length,
    head_count,
    injected_between_layers,
    usable_modalities,
)
from .checkpoints import Checkpoint, find_checkpoint, part_of_larger, task_for
from .conservation import Conservation, check
from .fingerprint import config_hash, plain_parts, template_hash, weight_hash
from .inputs import module_inputs
from .probe import one_line, record
from .processors import LoadedProcessor, installing
from .trial import try_batches
from .wrapper import TransformersModel

UNCHECKED = Conservation(False, float("nan"), None, "conservation is unchecked, the model is remote")


def load(
    name_or_path_or_module: str | PathLike[str] | nn.Module = "organism",
    *,
    processor: Any = None,
    tokenizer: Any = None,
    remote: bool = False,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    quantization_config: Any = None,
    gguf_file: str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    probe: bool = True,
) -> TransformersModel:
    """Load a model for tracing and examine it once; ask `anatomy(model)` for what was found.

    Args:
        name_or_path_or_module: "organism", "organism-hard" or "organism-control" (they come with the package), a
            checkpoint folder, a hub id, or a Hugging Face module that is already built; "spoken" is a real aligned
            model with ears, put together once from two public checkpoints (docs/real_model.md).
        processor: turns media into tensors; loaded from the checkpoint if not given.
        tokenizer: taken from the processor, else loaded from the checkpoint. What you give is copied, never changed.
        remote: do not load weights; runs go to NDIF with `remote=True` on the trace or session. Head work is then
            unchecked.
        dtype: of the weights; default float32 on CPU and the checkpoint's own dtype elsewhere.
        device: default "cuda" if there is one, else "cpu". A module stays where it is.
        device_map: spread the layers over several devices instead: "auto", "balanced", or a mapping from modules to
            devices, as in transformers. Every layer has to stay on its device: one that is offloaded to memory or disk
            is refused.
        max_memory: what a device may take, for `device_map`.
        quantization_config: a quantisation of transformers (bitsandbytes, torchao and so on); the weights then load on
            the device.
        gguf_file: name of a GGUF file in the folder or repository; its weights are expanded to `dtype`.
        attn_implementation: "sdpa", "eager" (which also yields attention patterns) and so on; default what transformers
            picks for the model, which is "sdpa" where the model can.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code found in the repository.
        probe: try whether a batch of two prompts computes what each computes alone, in every modality. Where it does
            not, `batches` gives one prompt at a time, and `anatomy` says by how much it differed; a modality whose
            medium does not go through is left out, with the reason. Three short passes a modality: milliseconds on a
            small model. The embedded models are tested and not tried again; a remote model cannot be tried.

    Returns:
        A plain `nnsight.TransformersModel`, weights loaded, in evaluation mode and without parameter gradients. For
        gradients with respect to activations, call `requires_grad_()` on the activation inside the trace.

        A module that you pass may lie on several devices, and of a compiled one (`torch.compile(module)`) the module
        inside is taken, because compiled code runs no hooks. It is not changed: neither moved, cast, frozen nor
        switched to evaluation mode. It must be in evaluation mode already, because dropout would make every measurement
        noise. (nnsight does hang its own controllers on the forward functions of whatever it wraps.)

    Raises:
        ModelError: nothing is there under that name, it has no tokenizer, its weights are damaged or not finite, or
            it is not a decoder. The message says which and what to do.
    """
    if isinstance(name_or_path_or_module, nn.Module):
        options = {
            "remote": remote,
            "dtype": dtype,
            "device": device,
            "device_map": device_map,
            "max_memory": max_memory,
            "quantization_config": quantization_config,
            "gguf_file": gguf_file,
            "attn_implementation": attn_implementation,
            "revision": revision,
            "trust_remote_code": trust_remote_code,
        }
        given = [option for option, value in options.items() if value not in (None, False)]
        return _from_module(name_or_path_or_module, processor, tokenizer, given, probe)
    if not isinstance(name_or_path_or_module, str | PathLike):
        kind = type(name_or_path_or_module).__name__
        found = f"an object of type {kind}"
        raise ModelError("load a model", found, "pass a name, a folder, a hub id or a Hugging Face module")
    where = find_checkpoint(str(name_or_path_or_module), revision, trust_remote_code, gguf_file)
    spread = {"device_map": device_map, "max_memory": max_memory, "quantization_config": quantization_config}
    weights = {option: value for option, value in spread.items() if value is not None}
    _require_fitting(where, weights, device, remote)
    config = where.config()
    tokenizer, media = _preprocessors(where, config, tokenizer, processor)
    if remote:
        return _remotely(where, config, tokenizer, media, attn_implementation)
    target = _device(where.asked, device)
    precision = _dtype(where.asked, dtype, target)
    if weights and device_map is None:
        weights["device_map"] = {"": target}  # what is quantised cannot be moved
    module = where.module(config, precision, attn_implementation, weights)
    if not weights:
        module = module.to(target)
    module = module.eval().requires_grad_(False)
    commit = getattr(module.config, "_commit_hash", None) or where.revision
    model = _wrap(module, where.name, commit, tokenizer, media, probe and not where.embedded)
    _tell_missing(anatomy(model))
    return model


def _from_module(module: nn.Module, processor: Any, tokenizer: Any, given: list[str], probe: bool) -> TransformersModel:
    module = getattr(module, "_orig_mod", module)
    kind = type(module).__name__
    asked = f"load a {kind}"
    if given:
        found = f"{', '.join(given)} cannot apply to a module that is already built"
        raise ModelError(asked, found, "set it when building the module, or load by name")
    if getattr(module, "config", None) is None or not hasattr(module, "get_input_embeddings"):
        raise ModelError(asked, "it is not a Hugging Face model", "pass a transformers PreTrainedModel")
    if getattr(module.config, "is_encoder_decoder", False):
        raise ModelError(asked, "it is an encoder-decoder", "use a decoder-only language or multimodal model")
    if not getattr(module, "can_generate", lambda: False)():
        raise ModelError(asked, "it does not generate text", "use the class with a language head (…ForCausalLM)")
    if any(getattr(part, "_compiled_call_impl", None) is not None for part in module.modules()):
        found = "it was compiled in place, and compiled code runs no hooks"
        raise ModelError(asked, found, "load it without module.compile(), or pass torch.compile(module)")
    if any(part.training for part in module.modules()):
        found = "it is in training mode, so dropout would blur what is measured"
        raise ModelError(asked, found, "call .eval() on it first")
    if tokenizer is None:
        tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise ModelError(asked, "a module carries no tokenizer", "pass tokenizer= or processor=")
    # nnsight sets the padding side and token of a tokenizer it adopts, and the one given belongs to the caller.
    processor = copy.deepcopy(processor)
    own = getattr(processor, "tokenizer", None)
    tokenizer = own if own is not None else copy.deepcopy(tokenizer)
    return _wrap(module, kind, None, tokenizer, _given(processor), probe)


def _require_fitting(where: Checkpoint, weights: Mapping[str, Any], device: Any, remote: bool) -> None:
    """Raises ModelError for options of the weights that cannot be had together."""
    given = [*weights, *(["gguf_file"] if where.gguf_file is not None else [])]
    if remote and given:
        found = f"{', '.join(given)} cannot apply where the weights are on a server"
        raise ModelError(f"{where.asked} with remote=True", found, "leave it out")
    if device is not None and "device_map" in weights:
        raise ModelError(where.asked, "device and device_map both say where the weights go", "give one of them")
    if "max_memory" in weights and "device_map" not in weights:
        raise ModelError(where.asked, "max_memory is about a device_map, and there is none", 'give device_map="auto"')


def _require_resident(module: nn.Module, name: str) -> None:
    """Raises ModelError if weights come from memory or disk only while they are used: nothing can be read off them."""
    if any(parameter.is_meta for parameter in module.parameters()):
        places = getattr(module, "hf_device_map", {})
        away = sorted({path for path, place in places.items() if str(place) in ("cpu", "disk")})
        found = f"weights are offloaded ({', '.join(away[:3])}{' and more' if len(away) > 3 else ''})"
        do = "give the device more room (max_memory), use more devices or quantise, so that every layer stays on one"
        raise ModelError(f"load {name!r}", found, do)


def _device(asked: str, device: str | torch.device | None) -> torch.device:
    """The device asked for, if it exists here; else the best there is."""
    try:
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        found = f"device {device!s} cannot be used here ({one_line(error)})"
        raise ModelError(asked, found, 'use device="cpu", or leave it out') from error
    return target


def _dtype(asked: str, dtype: torch.dtype | str | None, target: torch.device) -> torch.dtype | str:
    """float32 on CPU and the checkpoint's own elsewhere, unless asked otherwise."""
    if dtype is None:
        return torch.float32 if target.type == "cpu" else "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ModelError(asked, f"dtype {dtype!s} is no floating point type of torch", 'use "float32" or "bfloat16"')
    return found


def _given(processor: Any) -> LoadedProcessor:
    """What a user gave, or did not."""
    return LoadedProcessor(processor, {} if processor is not None else dict.fromkeys(MEDIA, "none was given"))


def _preprocessors(where: Checkpoint, config: Any, tokenizer: Any, processor: Any) -> tuple[Any, LoadedProcessor]:
    media = _given(copy.deepcopy(processor))
    if processor is None and len(architecture_modalities(config)) > 1:
        media = where.processor(config)
    if tokenizer is not None:
        return copy.deepcopy(tokenizer), media
    own = getattr(media.processor, "tokenizer", None)
    return (own if own is not None else where.tokenizer()), media


def _tell_missing(found: Anatomy) -> None:
    """One line, once, about what a checkpoint could take and does not take here."""
    if found.missing:
        reasons = "; ".join(f"{modality}: {reason}" for modality, reason in found.missing.items())
        mends = dict.fromkeys(filter(None, map(installing, found.missing.values())))
        lacks = f"load {found.name!r}: it takes {', '.join(found.modalities)} only ({reasons})."
        warnings.warn(" ".join([lacks, *(f"{mend}." for mend in mends)]), stacklevel=3)


def _remotely(
    where: Checkpoint, config: Any, tokenizer: Any, media: LoadedProcessor, attention: str | None
) -> TransformersModel:
    """A model on the meta device: its shape from the configuration, its weights on the server."""
    if part_of_larger(config) is not None:
        why = f"{config.architectures[0]} as a whole has no forward pass, so that a server cannot trace it"
        do = f"load it without remote=True, or have its {part_of_larger(config)} served as a checkpoint of its own"
        raise ModelError(f"{where.asked} with remote=True", why, do)
    options: dict[str, Any] = {"trust_remote_code": True} if where.trust_remote_code else {}
    task = task_for(config, has_processor=True)
    if attention is not None:
        options["attn_implementation"] = attention
    try:
        with _quiet(), _RealSchedules():
            model = TransformersModel(
                where.location,
                task=task,
                tokenizer=tokenizer,
                # The task of a multimodal model wants one; the server has its own, and here the tokenizer stands in. A
                # text model on the server has none, and a request that names one is refused there.
                processor=None if task == "text-generation" else media.processor or tokenizer,
                revision=where.revision,
                **options,
            )
    except Exception as error:
        why = f"nnsight cannot build it without weights ({type(error).__name__}: {one_line(error)})"
        raise ModelError(f"{where.asked} with remote=True", why, "load it without remote=True") from error
    commit = getattr(config, "_commit_hash", None) or where.revision
    model._module.eval()
    found = _examine(model._module, where.name, commit, tokenizer, media, remote=True)
    _file(model, found, _input_spec(model._module, found))
    _tell_missing(found)
    return model


def _wrap(
    module: nn.Module, name: str, revision: str | None, tokenizer: Any, media: LoadedProcessor, probe: bool
) -> TransformersModel:
    _require_resident(module, name)
    _require_finite(module, name)
    found = _examine(module, name, revision, tokenizer, media, remote=False)
    spec = _input_spec(module, found)
    if probe:
        trial = try_batches(module, spec)
        usable = tuple(modality for modality in found.modalities if modality not in trial.refused)
        missing = {**found.missing, **trial.refused}
        found = replace(found, modalities=usable, missing=missing, one_at_a_time=trial.differences)
        spec = replace(spec, modalities=usable, joins=trial.joins, several=trial.several)
    options: dict[str, Any] = {}
    if getattr(module, "hf_device_map", None) is None:
        options["device"] = next(module.parameters()).device  # a pipeline would move the module to the first GPU
    with _quiet():
        model = TransformersModel(
            module,
            task=task_for(module.config, media.processor is not None),
            tokenizer=tokenizer,
            processor=media.processor,
            **options,
        )
    _file(model, found, spec)
    return model


def _input_spec(module: nn.Module, found: Anatomy) -> InputSpec:
    return module_inputs(
        module,
        found.tokenizer,
        found.processor,
        modalities=found.modalities,
        context_length=found.context_length,
    )


def _file(model: TransformersModel, found: Anatomy, spec: InputSpec) -> None:
    """Keep what was found as long as the model lives."""
    file(model, found)
    file_input_spec(model, spec)


def _examine(
    module: nn.Module,
    name: str,
    revision: str | None,
    tokenizer: Any,
    media: LoadedProcessor,
    *,
    remote: bool,
) -> Anatomy:
    config: Any = module.config
    recording = record(module, name)
    found = structures.find(module, recording, name)
    heads = head_count(config)
    usual = next((parts for parts in found.parts if parts.attention_out), found.parts[0])
    skipped = len(module.get_submodule(found.layers_path)) - found.n_layers  # type: ignore[arg-type]
    injected = injected_between_layers(config, skipped)
    template = chat_template(media.processor, tokenizer)
    towers, usable = architecture_modalities(config), usable_modalities(config, media.processor)
    return Anatomy(
        name=name,
        revision=revision,
        architecture=type(module).__name__,
        layers_path=found.layers_path,
        layer_indices=found.layer_indices,
        n_layers=found.n_layers,
        d_model=found.d_model,
        n_heads=heads,
        d_head=usual.d_attention // heads if heads else 0,
        attention=usual.attention or "",
        attention_out=usual.attention_out or "",
        mlp=usual.mlp or "",
        post_attention_norm=usual.post_attention_norm,
        post_mlp_norm=usual.post_mlp_norm,
        parallel=usual.parallel,
        residual_multiplier=usual.residual_multiplier,
        copies=found.copies(recording),
        parts=found.parts,
        embed_path=found.embed_path,
        final_norm_path=found.final_norm_path,
        unembed_path=found.unembed_path,
        modalities=usable,
        architecture_modalities=towers,
        context_length=context_length(config, tokenizer),
        chat_template=template,
        config_hash=config_hash(config),
        template_hash=template_hash(template),
        conservation=UNCHECKED if remote else check(found, recording, injected),
        tokenizer=tokenizer,
        processor=media.processor,
        one_at_a_time={},
        missing={m: media.missing.get(m, "the processor has no part for it") for m in towers if m not in usable},
        remote=remote,
        _hash_weights=cache(partial(_hash_weights, name, weakref.ref(module))),
    )


def _hash_weights(name: str, module: "weakref.ref[nn.Module]") -> str:
    alive = module()  # an anatomy outlives its model, and must not keep the weights in memory
    if alive is None:
        raise ModelError(f"hash the weights of {name!r}", "the model has been deleted", "keep it while you need it")
    return weight_hash(alive)


@torch.no_grad()
def _require_finite(module: nn.Module, name: str) -> None:
    for path, parameter in ((path, part) for path, whole in module.named_parameters() for part in plain_parts(whole)):
        if parameter.is_floating_point() and parameter.numel() and parameter.dtype.itemsize > 1:
            low, high = torch.aminmax(parameter)  # both carry NaN, and no copy of the weights is made
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                found = f"the weights of {path} are not finite (NaN or infinity)"
                raise ModelError(f"load {name!r}", found, "download or save the checkpoint again, or use a wider dtype")


class _RealSchedules(TorchFunctionMode):
    """Keeps ramps of numbers off the meta device, where nnsight puts all that a constructor makes.

    They are schedules whose values decide what is built (a drop path per layer), and meta tensors have no values.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if function is torch.linspace:
            options["device"] = "cpu"
        return function(*args, **options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' pipelines from talking and from asking for packages that nothing here uses.

    They complain, in 4 kB, that a multimodal class is none of those for "text-generation"; and the one for "any-to-any"
    wants torchvision and librosa, with which it would read media from files. Here media come as ready tensors.
    """
    from transformers.pipelines import any_to_any

    pipelines: Any = any_to_any
    speaker = logging.getLogger("transformers.pipelines.base")
    level, required = speaker.level, pipelines.requires_backends
    speaker.setLevel(logging.CRITICAL)
    pipelines.requires_backends = lambda *_: None
    try:
        yield
    finally:
        speaker.setLevel(level)
        pipelines.requires_backends = required
