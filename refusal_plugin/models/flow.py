"""How tensors flow between the modules of one layer, as a recording shows it: projections, norms, who reads whom."""

from torch import Tensor, nn

from .probe import Call, Recording, is_expert_stack, same

PASSES_ON = (nn.Dropout, nn.Identity)
"""Modules that hand on what they are given."""


def is_projection(module: nn.Module) -> bool:
    """Whether a module is one matrix (torch Linear, its quantised kin, or the Conv1D of GPT-2)."""
    weight = getattr(module, "weight", None)
    has_matrix = isinstance(weight, Tensor) and weight.dim() == 2 and not isinstance(module, nn.Embedding)
    return has_matrix or isinstance(module, nn.Linear) or hasattr(module, "base_layer")


def input_width(projection: Call | None) -> int:
    """Number of inputs of a projection as they came, whatever its weight looks like (quantised, wrapped); 0 without."""
    return 0 if projection is None or projection.input is None else int(projection.input.shape[-1])


def last_projection(block: Call, recording: Recording) -> Call | None:
    """The last projection to finish inside a block: in an attention, all before it is upstream of the heads' `z`."""
    projections = [call for call in recording.inside(block) if is_projection(call.module)]
    # A LoRA or otherwise wrapped projection records its inner matrices too: take the outermost module of the last one.
    last = projections[-1] if projections else None
    for call in projections:
        if last is not None and call.started < last.started and call.ended > last.ended:
            last = call
    return last


def norm_of(source: Call | None, siblings: list[Call], following: Call | None) -> Call | None:
    """The sibling that is given exactly what `source` returned, dropouts and identities looked through.

    A norm whose result is what the `following` block reads is that block's pre-norm: in Bloom the attention adds the
    stream itself, so its output IS the stream.
    """
    if source is None:
        return None
    flowing = [source.output]
    for call in sorted(siblings, key=lambda call: call.started):
        if call.started < source.ended or not any(same(call.input, tensor) for tensor in flowing):
            continue
        if isinstance(call.module, PASSES_ON):
            flowing.append(call.output)
        elif not holds_projection(call.module):
            return None if following is not None and same(call.output, following.input) else call
    return None


def holds_projection(module: nn.Module) -> bool:
    return any(is_projection(part) or is_expert_stack(part) for part in module.modules())


def leaf(call: Call) -> str:
    return call.path.rsplit(".", 1)[-1]


def below(layer: Call, call: Call | None) -> str | None:
    return call.path[len(layer.path) + 1 :] if call is not None else None
