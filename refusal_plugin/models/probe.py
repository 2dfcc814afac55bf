"""One forward pass, watched: which module ran, what it was given, what it returned.

Everything this package knows about an architecture is read from such a recording rather than from names:
`post_attention_layernorm` is a pre-MLP norm in Llama and a norm of the attention output in Gemma 2, and only the flow
of tensors tells them apart. The pass runs on a short prompt of ordinary text tokens, in torch alone, before nnsight
wraps the module; the hooks are gone when it returns, whatever happens.
"""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from ..errors import ModelError

PROBE_LENGTH = 9
"""Tokens of the probe prompt: enough for attention to mix positions, short enough to cost nothing."""


@dataclass(frozen=True)
class Call:
    """One call of one module during the probe.

    Attributes:
        path: dotted name of the module in the Hugging Face model ("model.layers.0.self_attn").
        module: the module.
        started, ended: ticks of one counter, so that a child lies inside its parent and siblings are ordered.
        input, output: first tensor given and first tensor returned, as the very objects that flowed (identity matters);
            None where there was none.
        input_value, output_value: copies made at that moment, because some models add in place afterwards (Falcon).
    """

    path: str
    module: nn.Module
    started: int
    ended: int
    input: Tensor | None
    output: Tensor | None
    input_value: Tensor | None
    output_value: Tensor | None


@dataclass(frozen=True)
class Recording:
    """All calls of a probe, in the order in which they ended, and the prompt's logits where the model returns any."""

    calls: tuple[Call, ...]
    logits: Tensor | None

    def of(self, path: str) -> list[Call]:
        """The calls of the module at `path`, oldest first."""
        return [call for call in self.calls if call.path == path]

    def one(self, path: str) -> Call | None:
        """The only call of the module at `path`; None if it ran never or more than once."""
        found = self.of(path)
        return found[0] if len(found) == 1 else None

    def inside(self, parent: Call) -> list[Call]:
        """The calls made while `parent` was running, in the order in which they ended."""
        return [call for call in self.calls if parent.started < call.started and call.ended < parent.ended]

    def children(self, parent: Call) -> list[Call]:
        """Those of `inside(parent)` made of direct children of its module."""
        depth = parent.path.count(".") + 1
        prefix = parent.path + "."
        return [call for call in self.inside(parent) if call.path.startswith(prefix) and call.path.count(".") == depth]


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor of a module's arguments or result; None if it holds none."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            found = first_tensor(item)
            if found is not None:
                return found
    return None


def same(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two tensors are one value that flowed on: the same object, or a view of the same whole storage.

    Dropout in evaluation mode and reshapes hand on an alias rather than the object. The recording keeps every tensor
    alive, so that no address is used twice.
    """
    if left is None or right is None:
        return False
    if left is right:
        return True
    return left.numel() == right.numel() and left.data_ptr() == right.data_ptr() and left.data_ptr() != 0


class _Recorder:
    """Keeps the calls of a pass; its two methods are the hooks of every module."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._clock = 0
        self._open: list[tuple[int, Tensor | None, Tensor | None]] = []

    def before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._clock += 1
        given = first_tensor(args)
        if given is None:
            given = first_tensor(kwargs.get("hidden_states", kwargs))
        self._open.append((self._clock, given, _copy(given)))

    def after(self, path: str, module: nn.Module, _args: Any, _kwargs: Any, result: Any) -> None:
        self._clock += 1
        started, given, value = self._open.pop()
        returned = first_tensor(result)
        self.calls.append(Call(path, module, started, self._clock, given, returned, value, _copy(returned)))


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


@contextmanager
def watched(root: nn.Module) -> Iterator[list[Call]]:
    """Record every module call under `root` while the context is open; yields the growing list."""
    recorder = _Recorder()
    handles = []
    try:
        for path, module in root.named_modules():
            handles.append(module.register_forward_pre_hook(recorder.before, with_kwargs=True))
            handles.append(module.register_forward_hook(partial(recorder.after, path), with_kwargs=True))
        yield recorder.calls
    finally:
        for handle in handles:
            handle.remove()


def probe_ids(config: Any, vocabulary: int, device: torch.device | str) -> Tensor:
    """A fixed prompt `(1, PROBE_LENGTH)` of ordinary tokens: never a placeholder for media, never a special token.

    Args:
        config: the model's configuration; ids named in it (`*_token_id`, `*_token_index`, sub-configurations included)
            are avoided, because a placeholder without its media is an error in most multimodal models.
        vocabulary: number of rows of the embedding.
        device: where the ids are put.
    """
    taken = _named_ids(config.to_dict() if hasattr(config, "to_dict") else {})
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(vocabulary, generator=generator).tolist()
    chosen = [token for token in order if token not in taken][:PROBE_LENGTH]
    while len(chosen) < PROBE_LENGTH:
        chosen.append(chosen[-1] if chosen else 0)
    return torch.tensor([chosen], device=device)


def _named_ids(config: Mapping[Any, Any]) -> set[int]:
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _named_ids(value)
        elif isinstance(name, str) and name.endswith(("token_id", "token_index", "token_ids", "token_idx")):
            values = value if isinstance(value, list | tuple) else [value]
            found |= {item for item in values if isinstance(item, int)}
    return found


def record(module: nn.Module, name: str) -> Recording:
    """Run the probe prompt through `module` and return what happened.

    Works on real weights, and on the meta device with stand-ins (then only which tensor goes where means anything).

    Raises:
        ModelError: the model cannot run a plain text prompt, so nothing can be found out about it.
    """
    weight = _input_embedding(module, name).weight
    device = torch.device("cpu") if weight.is_meta else weight.device
    ids = probe_ids(getattr(module, "config", None), int(weight.shape[0]), device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    failure: Exception | None = None
    for run in (_run_by_shape, _run_stand_ins) if weight.is_meta else (_run,):
        try:
            with watched(module) as calls, torch.no_grad():
                result = run(module, inputs)
        except Exception as error:
            failure = failure or error
            continue
        logits = getattr(result, "logits", None)
        return Recording(tuple(calls), logits if isinstance(logits, Tensor) else None)
    assert failure is not None
    found = f"{type(module).__name__} cannot run a text prompt ({type(failure).__name__}: {one_line(failure)})"
    raise ModelError(f"examine {name!r}", found, "use a decoder-only language or multimodal model") from failure


def _run(module: nn.Module, inputs: dict[str, Any]) -> Any:
    return module(**inputs)


def _run_stand_ins(module: nn.Module, inputs: dict[str, Any]) -> Any:
    """A pass without weights: zeros that take no memory stand in for them, and values exist (masks, routes)."""
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    zeros = {path: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for path, tensor in tensors}
    with _NoProducts():
        return functional_call(module, zeros, (), inputs)


class _NoProducts(TorchFunctionMode):
    """What a linear layer makes of its input, without a look at its matrix: zeros."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is nn.functional.linear:
            return _zeros_behind(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _zeros_behind(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return input.new_zeros(*input.shape[:-1], weight.shape[0])


def _run_by_shape(module: nn.Module, inputs: dict[str, Any]) -> Any:
    """Stand-ins, and mixtures of experts hand their input on: hundreds of matrices a layer need not be walked."""
    experts = [part for part in module.modules() if is_expert_stack(part)]
    before = [vars(part).get("forward") for part in experts]
    try:
        for part in experts:
            part.forward = _hand_on
        return _run_stand_ins(module, inputs)
    finally:
        for part, forward in zip(experts, before, strict=True):
            if forward is None:
                vars(part).pop("forward", None)
            else:
                part.forward = forward


def _hand_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return torch.empty_like(hidden_states)


def is_expert_stack(module: nn.Module) -> bool:
    """Whether a module holds the matrices of several experts as one tensor `(expert, in, out)`."""
    return any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))


def one_line(error: BaseException, limit: int = 160) -> str:
    """The message of an exception as one short line."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _input_embedding(module: nn.Module, name: str) -> Any:
    find = getattr(module, "get_input_embeddings", None)
    try:
        embedding = find() if callable(find) else None
    except NotImplementedError:
        embedding = None
    if embedding is None or not isinstance(getattr(embedding, "weight", None), Tensor):
        raise ModelError(
            f"examine {name!r}",
            f"{type(module).__name__} has no token embedding",
            "pass a decoder-only language model of transformers, with its head (…ForCausalLM)",
        )
    return embedding
