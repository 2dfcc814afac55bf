"""What works on a model, tried: one row for each thing that a study needs, with what to do where it does not work."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError, RefusalPluginError
from ..prompts.encoding import encode
from .anatomy import Anatomy, anatomy, hf_layers, hf_module
from .load import load
from .probe import one_line
from .processors import installing


@dataclass(frozen=True)
class Checked:
    """One thing that was tried.

    Attributes:
        what: "load", "chat template", a modality, "residual stream", "steering", "answers" or "heads".
        works: whether it does.
        found: what was found, in a few words.
        do: what to do where it does not work; empty where there is nothing to do.
    """

    what: str
    works: bool
    found: str
    do: str = ""


def check_model(model: Any, **options: Any) -> list[Checked]:
    """Load a model and try what a study needs of it, on a few short prompts; nothing is written.

    Args:
        model: as for `load`.
        options: of `load`.

    Returns:
        what was tried, in the order in which it is needed. A model that does not load is one row; that raises no error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what it would say is in the rows
            loaded = load(model, **options)
    except ModelError as error:
        return [Checked("load", False, error.found, error.do)]
    found = anatomy(loaded)
    shape = f"{found.architecture}, {found.n_layers} layers of width {found.d_model}"
    rows = [Checked("load", True, shape), _template(found), *_modalities(found), _stream(found)]
    if not found.remote:
        rows += [_steering(loaded, found), _answers(loaded, found)]
    return [*rows, _heads(found)]


def _template(found: Anatomy) -> Checked:
    if found.chat_template is not None:
        return Checked("chat template", True, "the checkpoint's own")
    do = "use an instruction-tuned checkpoint; raw=True encodes bare text"
    return Checked("chat template", False, "none: a base model?", do)


def _modalities(found: Anatomy) -> Iterator[Checked]:
    for modality in found.architecture_modalities:
        if modality in found.missing:
            reason = found.missing[modality]
            yield Checked(modality, False, reason, installing(reason) or "pass processor= to load()")
        elif modality in found.one_at_a_time:
            difference = found.one_at_a_time[modality]
            how = f"logits of a batch are off by {difference:.1%}" if difference < float("inf") else "no batch runs"
            yield Checked(modality, True, f"one prompt at a time ({how})")
        else:
            yield Checked(modality, True, "in batches" if not found.remote else "not tried: the model is remote")


def _stream(found: Anatomy) -> Checked:
    try:
        found.require_stream("read the stream")
    except ModelError as error:
        return Checked("residual stream", False, error.found, error.do)
    left_out = "" if found.layer_indices == tuple(range(found.n_layers)) else ", cross-attention blocks left out"
    return Checked("residual stream", True, f"one vector per token at {found.layers_path}{left_out}")


@torch.no_grad()
def _steering(model: Any, found: Anatomy) -> Checked:
    """Whether a change of the stream behind the first layer reaches the logits."""
    try:
        module, blocks = hf_module(model), hf_layers(model)
        inputs = encode(model, "hello", raw=found.chat_template is None).to(module.device).inputs  # type: ignore[arg-type]
        plain = module(**inputs).logits

        def push(_module: Any, _args: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple | list) else output
            stream += stream.abs().mean()

        handle = blocks[0].register_forward_hook(push)
        try:
            moved = module(**inputs).logits
        finally:
            handle.remove()
    except Exception as error:
        return _failed("steering", error)
    if torch.equal(plain, moved):
        return Checked("steering", False, "an addition behind the first layer leaves the logits as they are")
    return Checked("steering", True, "an addition behind the first layer reaches the logits")


@torch.no_grad()
def _answers(model: Any, found: Anatomy) -> Checked:
    try:
        module: Any = hf_module(model)
        inputs = encode(model, "hello", raw=found.chat_template is None).to(module.device).inputs
        ids = module.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    except Exception as error:
        return _failed("answers", error)
    return Checked("answers", True, f"{ids.shape[1] - inputs['input_ids'].shape[1]} tokens were generated")


def _heads(found: Anatomy) -> Checked:
    if found.conservation.ok:
        return Checked(
            "heads", True, f"{found.n_heads} a layer, contributions add up to {found.conservation.error:.0e}"
        )
    return Checked("heads", False, found.conservation.leftover, "everything but head work is available")


def _failed(what: str, error: Exception) -> Checked:
    if isinstance(error, RefusalPluginError):
        return Checked(what, False, error.found, error.do)
    return Checked(what, False, f"{type(error).__name__}: {one_line(error)}", "report this model")
