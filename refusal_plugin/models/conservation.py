"""What each attention head adds to the stream along a direction, and the check that nothing was forgotten.

The stream after layer `l` is the embedding plus everything written since. Along a direction `r`:

    <embed, r> + sum over layers up to l of (sum over heads c[h] + bias + <mlp, r>)  =  <resid_post[l], r>

    c[p, h] = s * g(p) * <z[p, h], W_O[h] w>

with `z` the input of the attention output projection split into heads, `s` the residual multiplier (Granite; else 1)
and, where a norm stands behind the attention (Gemma 2 and 3, OLMo 2, GLM 4), `g` its scale at that position and `w` the
direction pulled back through its gain; without one `g = 1, w = r`. Sign: positive adds to the stream along `r`. Unit:
that of the stream. The projection's own bias and the norm's bias are one component of the layer, not spread over heads;
a value bias stays in its head. It is exact: no linearisation. It does NOT say what a head does to later layers, and the
sum comes out right for any number of heads, so it does not prove that number.

`check` compares both sides on the probe prompt for every layer and position with a random unit `r`. A model that fails
serves everything but head work, and the result says what is left over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..traced.heads import project_heads
from .norms import Norm, measure
from .probe import Call, Recording, one_line
from .structure import Structure
from .writers import Writers

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest accepted error relative to the summed size of the components, by the dtype the model runs in."""


@dataclass(frozen=True)
class Conservation:
    """Outcome of the conservation check.

    Attributes:
        ok: the identity holds, so heads can be attributed; False also when it could not be checked.
        error: largest absolute difference over layers and positions, relative to the largest sum of the sizes of the
            components at that layer; NaN if unchecked.
        layer: the layer that adds most to what is left over; None if nothing is.
        leftover: what is left over, in words; empty if nothing is.
    """

    ok: bool
    error: float
    layer: int | None
    leftover: str


@dataclass(frozen=True)
class HeadReader:
    """The fixed part of a layer's head contributions along one direction.

    Attributes:
        read: `(n_heads, d_head)`, float32: `s * W_O[h] w`, what `z[h]` is multiplied with.
        constant: the part of the bias component that no norm scales.
        scaled_constant: the part of the bias component that is multiplied with the norm's scale.
        norm: the norm behind the attention, or None; then every scale is 1.
    """

    read: Tensor
    constant: float
    scaled_constant: float
    norm: Norm | None

    def heads(self, z: Tensor, attention_output: Tensor) -> Tensor:
        """Contribution of every head.

        Args:
            z: input of the output projection, `(..., n_heads * d_head)`.
            attention_output: what the attention returned, before any norm, `(..., d_model)`.

        Returns:
            `(..., n_heads)`, float32.
        """
        written: Tensor = project_heads(z, self.read[..., None])[..., 0]
        return written * self.scale(attention_output)[..., None]

    def bias(self, attention_output: Tensor) -> Tensor:
        """Contribution of the biases behind the heads, `(...)`, float32."""
        return self.scaled_constant * self.scale(attention_output) + self.constant

    def scale(self, attention_output: Tensor) -> Tensor:
        """`g`: the norm's scale at every position, `(...)`; ones without a norm."""
        if self.norm is None:
            return torch.ones(attention_output.shape[:-1], device=attention_output.device)
        return self.norm.scale(attention_output)


def head_reader(
    projection: nn.Module, norm: Norm | None, direction: Tensor, n_heads: int, multiplier: float
) -> HeadReader:
    """Prepare a layer's head contributions along `direction` `(d_model,)`.

    Args:
        projection: the attention output projection; LoRA and quantised ones are taken as they act, not by their weight.
        norm: the measured norm behind the attention, or None.
        direction: in the space of the stream.
        n_heads: query heads; `d_head` follows from the width of the projection.
        multiplier: the residual multiplier.
    """
    direction = direction.float()
    back = norm.pull_back(direction) if norm is not None else direction
    read, bias = through(projection, back)
    behind = float(norm.bias @ direction) if norm is not None else 0.0
    return HeadReader(
        read=multiplier * read.view(n_heads, -1),
        constant=multiplier * behind,
        scaled_constant=multiplier * bias,
        norm=norm,
    )


def through(projection: nn.Module, direction: Tensor) -> tuple[Tensor, float]:
    """`(W^T direction, <bias, direction>)` of a linear module `x -> W x + bias`.

    Plain matrices are read; anything else (LoRA, quantised weights) is differentiated, which is exact for a linear map.
    """
    weight = getattr(projection, "weight", None)
    bias = getattr(projection, "bias", None)
    offset = float(bias.detach().float() @ direction) if isinstance(bias, Tensor) else 0.0
    if isinstance(weight, Tensor) and type(projection) is nn.Linear:
        return weight.float().mT @ direction, offset
    if isinstance(weight, Tensor) and type(projection).__name__ == "Conv1D":
        return weight.float() @ direction, offset
    return through_gradient(projection, direction)


def through_gradient(projection: nn.Module, direction: Tensor) -> tuple[Tensor, float]:
    width = int(projection.in_features)  # type: ignore[arg-type]
    parameter = next(projection.parameters())
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    with torch.enable_grad():
        zero = torch.zeros(1, 1, width, device=parameter.device, dtype=dtype, requires_grad=True)
        value = (projection(zero).float() * direction).sum()
        (gradient,) = torch.autograd.grad(value, zero)
    return gradient.view(width).float(), float(value.detach())


def check(structure: Structure, recording: Recording, injected: str | None = None, seed: int = 0) -> Conservation:
    """Compare both sides of the identity on the probe prompt, at every layer and position.

    It never raises: what cannot be compared (a shape or a module that nothing here foresees) is what is left over.

    Args:
        structure: the model's parts.
        recording: the probe on real weights.
        injected: what is known to write between the layers when media are given, which a probe of text cannot show.
        seed: of the random direction.
    """
    try:
        return _check(structure, recording, injected, seed)
    except Exception as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        leftover = f"the contributions of {structure.layer_class} cannot be computed ({why})"
        return Conservation(False, float("nan"), None, leftover)


@torch.no_grad()
def _check(structure: Structure, recording: Recording, injected: str | None, seed: int) -> Conservation:
    ran = [call for call in structure.calls(recording) if call is not None]
    blocked = _cannot(structure, ran) or _spread(ran)
    if blocked is not None:
        return blocked
    first = _value(ran[0].input_value)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(structure.d_model, generator=generator)
    direction = (direction / direction.norm()).to(first.device)

    total, size = first.float() @ direction, (first.float() @ direction).abs()
    worst, own = 0.0, [0.0] * structure.n_layers
    between, previous = [0.0] * structure.n_layers, first
    for index, (call, parts) in enumerate(zip(ran, structure.parts, strict=True)):
        device = _value(call.output_value).device
        r = direction.to(device)
        keep, written = parts.writers.keep, _written(call, parts.writers, recording, r)
        before, after = _value(call.input_value).float() @ r, _value(call.output_value).float() @ r
        total = keep * total.to(device) + written.sum(0)
        size = abs(keep) * size.to(device) + written.abs().sum(0)
        scale = float(size.max()) or 1.0
        # NaN must fail the check, and `max` would drop it.
        difference = float((total - after).abs().max()) / scale
        worst = difference if difference != difference or difference > worst else worst
        own[index] = float((keep * before + written.sum(0) - after).abs().max()) / scale
        between[index] = float((_value(previous).to(device).float() @ r - before).abs().max()) / scale
        previous = _value(call.output_value)
    if injected is not None:
        return Conservation(False, worst, None, injected)
    ok = worst <= TOLERANCE.get(first.dtype, 1e-5)
    return Conservation(ok, worst, *((None, "") if ok else _name_leftover(structure, own, between)))


def _spread(calls: Sequence[Call]) -> Conservation | None:
    """Tensor parallel: every process holds some of the heads only."""
    parameters = (p for call in calls for p in call.module.parameters())
    if any(type(p.data).__name__ == "DTensor" or hasattr(p, "placements") for p in parameters):
        why = "the weights of a layer are spread over several processes (tensor parallel), each holds some heads only"
        return Conservation(False, float("nan"), None, why)
    return None


def _written(call: Call, layer: Writers, recording: Recording, direction: Tensor) -> Tensor:
    """All that a layer is known to write along the direction: `(part, 1, pos)`: heads, bias, MLP and the like."""
    shape = _value(call.output_value).shape[:2]
    rows: list[Tensor] = []
    if layer.projection is not None:
        mixed, projection = _call(recording, call, layer.mixer), _call(recording, call, layer.projection)
        output, z = _value(mixed.output_value), _value(projection.input_value)
        norm = None
        if layer.norm is not None:
            norm = measure(_call(recording, call, layer.norm).module, output.shape[-1], output)
        reader = head_reader(projection.module, norm, direction, layer.n_heads, layer.factor)
        output = output.reshape(*shape, -1)
        rows = [*reader.heads(z.reshape(*shape, -1), output).unbind(-1), reader.bias(output)]
    for path, factor in layer.parts:
        value = _value(_call(recording, call, path).output_value).reshape(*shape, -1)
        rows.append(factor * (value.float() @ direction))
    return torch.stack(rows)


def _cannot(structure: Structure, ran: Sequence[Call]) -> Conservation | None:
    """Reasons not even to compare: no heads to speak of, or a stream that is not one vector per position."""

    def refuse(index: int, leftover: str) -> Conservation:
        return Conservation(False, float("nan"), index, leftover)

    for index, (call, parts) in enumerate(zip(ran, structure.parts, strict=True)):
        if any(value is None or value.dim() != 3 for value in (call.input_value, call.output_value)):
            shape = tuple(call.output_value.shape) if call.output_value is not None else ()
            suspects = ", ".join(parts.others) or "none of the known parts"
            return refuse(
                index,
                f"the stream of {structure.layer_class} has shape {shape}, not (batch, position, d_model); "
                f"it is also written by {suspects}",
            )
        layer, kind = parts.writers, type(call.module).__name__
        if layer.projection is None and not layer.parts:
            return refuse(index, f"nothing is known to write to the stream in layer {index} ({kind})")
        if layer.projection is not None and layer.n_heads <= 0:
            return refuse(index, f"the heads of {layer.mixer} in layer {index} ({kind}) cannot be told apart")
    if not any(parts.writers.n_heads for parts in structure.parts):
        return refuse(0, f"no layer of {structure.layer_class} has an output projection behind heads")
    return None


def _name_leftover(structure: Structure, own: list[float], between: list[float]) -> tuple[int, str]:
    inside = max(range(len(own)), key=lambda index: _rank(own[index]))
    outside = max(range(len(between)), key=lambda index: _rank(between[index]))
    if _rank(between[outside]) > _rank(own[inside]):
        share = f"{between[outside]:.2g} of the stream"
        return outside, f"{share} changes between layers {outside - 1} and {outside}, outside the decoder layers"
    others = ", ".join(structure.parts[inside].others)
    suspects = f" (it also runs {others})" if others else ""
    share = f"{own[inside]:.2g} of the stream"
    return inside, f"{share} is not written by the heads, attention bias or MLP of layer {inside}{suspects}"


def _rank(share: float) -> float:
    return float("inf") if share != share else share


def _call(recording: Recording, layer: Call, below: str | None) -> Call:
    found = recording.one(f"{layer.path}.{below}")
    assert found is not None, below
    return found


def _value(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
