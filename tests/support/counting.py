"""Counts what a piece of work makes a model do; clocks lie on busy machines, counters do not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from refusal_plugin.models import anatomy, hf_layers, hf_module
from refusal_plugin.prompts import Batch, Prompt, PromptSet, batches
from refusal_plugin.recipe_files import recipe

FLOAT, DOUBLE, LONG = 4, 8, 8  # bytes


@dataclass
class Counts:
    """Of one piece of work.

    Attributes:
        passes: calls of the whole model.
        traces: traces opened.
        tokens: input positions of those calls, padding included.
        block_tokens: positions times blocks that really ran (a block that is left out runs no attention).
        head_tokens: positions at which the output head ran.
        bytes_out: memory that left the traces, as a server would send it or a device hand it to the host: the storages
            behind what a trace outside of all others saved, whole even where only a view of them was saved.
    """

    passes: int = 0
    traces: int = 0
    tokens: int = 0
    block_tokens: int = 0
    head_tokens: int = 0
    bytes_out: int = 0

    @property
    def depth(self) -> float:
        """Blocks run per position."""
        return self.block_tokens / max(1, self.tokens)


def stored(value: Any) -> int:
    """Bytes of the storages of all tensors in nested lists, tuples and dicts, each storage once."""
    sizes: dict[int, int] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            storage = one.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return sum(sizes.values())


@contextmanager
def counted(model: Any) -> Iterator[Counts]:
    """Counts in the block, by hooks on the Hugging Face module."""
    from nnsight.intervention import tracer as inner
    from nnsight.intervention.tracer import InterleavingTracer
    from nnsight.tracing import tracer as outer

    found, facts, module = Counts(), anatomy(model), hf_module(model)
    handles = []

    def whole(_module: nn.Module, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        found.passes += 1
        found.tokens += ids.numel()

    def block(_module: nn.Module, args: Any, kwargs: Any) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        found.block_tokens += hidden.shape[:-1].numel()

    def head(_module: nn.Module, args: Any) -> None:
        found.head_tokens += args[0].shape[:-1].numel()

    plain = InterleavingTracer.execute

    def execute(self: Any, code: Any) -> None:
        found.traces += 1
        plain(self, code)

    push = outer.push_result

    def pushed(frame: Any, variables: dict[str, Any]) -> None:
        if getattr(outer._local, "depth", 0) == 1:
            saves = outer._saves()
            found.bytes_out += stored([value for value in variables.values() if id(value) in saves])
        push(frame, variables)

    handles.append(module.register_forward_pre_hook(whole, with_kwargs=True))
    for layer, parts in zip(hf_layers(model), facts.parts, strict=True):
        handles.append(layer.get_submodule(parts.attention).register_forward_pre_hook(block, with_kwargs=True))
    assert facts.unembed_path is not None
    handles.append(module.get_submodule(facts.unembed_path).register_forward_pre_hook(head))
    InterleavingTracer.execute, outer.push_result, inner.push_result = execute, pushed, pushed
    try:
        yield found
    finally:
        InterleavingTracer.execute, outer.push_result, inner.push_result = plain, push, push
        for handle in handles:
            handle.remove()


def run(name: str, model: Any, prompts: PromptSet, **options: Any) -> Counts:
    """What a recipe costs."""
    module = recipe(name)
    with counted(model) as found:
        module.run(model, prompts, **options)
    return found


def made(model: Any, prompts: Sequence[Prompt], **limits: int) -> list[Batch]:
    """The batches of prompts."""
    return [batch for _, batch in batches(model, prompts, **limits)]


def area(work: Sequence[Batch]) -> int:
    """Positions, padding included."""
    return sum(batch.inputs["input_ids"].numel() for batch in work)
