"""What one decoder layer adds to the stream, part by part, each with its factor:

    after  =  keep * before  +  factor * <heads, W_O> (+ norm)  +  sum over further parts f[i] * output[i]

In most models `keep` and every factor are 1, or one number that the configuration names (Granite), and the further part
is the MLP. Others add more: a second MLP beside the experts (Granite 4), what is read from per-layer embeddings, with
the whole stream scaled behind it (Gemma 4), a state-space mixer beside the attention (Falcon-H1), or a factor under a
name of their own (MiniCPM 3). The candidates are found by dataflow: a part that holds matrices, whose output has the
stream's width and is given to no other part, so that it can only be added. The factors are then the solution of the
equation on the probe prompt, over all positions and features at once: a few unknowns, hundreds of equations, accepted
only if they hold. Nothing is known by name, and the check of conservation is made on the result.

Layers without attention mix positions with something else that ends in an output projection (state space, linear
attention, short convolution). Its heads are attributed like attention heads, "mixer heads": as many as the mixer itself
says it has, one if it says none.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .flow import below, holds_projection, input_width, is_projection, last_projection, leaf, norm_of
from .probe import Call, Recording, same

FITS = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Largest difference between both sides of the equation, relative to the stream, by the dtype the model runs in."""

_FORWARD = re.compile(r"mlp|ffn|feed_?forward|moe|experts", re.IGNORECASE)
_FORWARD_CLASS = re.compile(r"(mlp|ffn|feed_?forward|moe|moeblock|experts)$", re.IGNORECASE)
_COUNTS = ("num_v_heads", "num_heads", "n_heads")


@dataclass(frozen=True)
class Writers:
    """What one layer adds to the stream; paths are relative to the layer.

    Attributes:
        mixer: what mixes positions: attention, or what stands in its place; None in a layer without.
        projection: its output projection, whose input `z` is the concatenated heads.
        norm: behind the mixer, before its output is added; None without one.
        n_heads, d_head: heads of the mixer, and features of each in `z`; 0 in a layer without.
        factor: on what the mixer adds.
        early, late: further parts that run before the mixer, and after it, each with its factor.
        keep: factor on the stream that the layer was given.
    """

    mixer: str | None
    projection: str | None
    norm: str | None
    n_heads: int
    d_head: int
    factor: float = 1.0
    early: tuple[tuple[str, float], ...] = ()
    late: tuple[tuple[str, float], ...] = ()
    keep: float = 1.0

    @property
    def parts(self) -> tuple[tuple[str, float], ...]:
        """The further parts, in the order in which they run."""
        return self.early + self.late


@dataclass(frozen=True)
class _Found:
    """A layer's parts before their factors are known: the calls whose outputs are added.

    The mixer's is its norm, or its output projection: some attentions add the stream themselves (Bloom).
    """

    mixer: Call | None
    mlp: Call | None
    others: tuple[Call, ...]


def writers(
    layer: Call,
    recording: Recording,
    *,
    attention: Call | None,
    norm: Call | None,
    mlp: Call | None,
    multiplier: float,
    n_heads: int,
) -> Writers:
    """What a layer adds to the stream.

    Args:
        layer: its call during the probe.
        recording: the probe.
        attention: the call that mixes positions, if it is an attention.
        norm: the norm behind it.
        mlp: the call whose output the MLP adds, its norm included.
        multiplier: the factor that the layer names, on both.
        n_heads: query heads of an attention.
    """
    mixer = attention or _mixer(layer, recording)
    if attention is None and mixer is not None:
        norm = norm_of(mixer, recording.children(layer), None)
        mlp = None if mlp is not None and mlp.path == mixer.path else mlp  # the only part of its layer (Nemotron-H)
    projection = last_projection(mixer, recording) if mixer is not None else None
    found = _Found(norm or projection, mlp, _others(layer, recording, mixer, norm, mlp))
    width = input_width(projection)
    heads = 0 if mixer is None or projection is None else _heads(mixer.module, width, attention is not None, n_heads)
    keep, factors = _factors(layer, found, multiplier)
    begun = mixer.started if mixer is not None else layer.started
    further = [(call, factors[call.path]) for call in (mlp, *found.others) if call is not None and factors[call.path]]
    further.sort(key=lambda item: item[0].started)
    return Writers(
        mixer=below(layer, mixer),
        projection=below(layer, projection),
        norm=below(layer, norm),
        n_heads=heads,
        d_head=width // heads if heads else 0,
        factor=factors[found.mixer.path] if found.mixer is not None else 1.0,
        early=tuple((str(below(layer, call)), factor) for call, factor in further if call.started < begun),
        late=tuple((str(below(layer, call)), factor) for call, factor in further if call.started >= begun),
        keep=keep,
    )


def _mixer(layer: Call, recording: Recording) -> Call | None:
    """What mixes positions in a layer without attention: the first part of several matrices that is no MLP."""
    for call in sorted(recording.children(layer), key=lambda call: call.started):
        several = sum(is_projection(part) for part in call.module.modules()) >= 2
        if several and not is_projection(call.module) and not _feeds_forward(call):
            return call
    return None


def _feeds_forward(call: Call) -> bool:
    """Named for an MLP, or of a class that ends so: "MoeHybridMambaLayer" is a mixer in a family of mixtures."""
    return bool(_FORWARD.search(leaf(call)) or _FORWARD_CLASS.search(type(call.module).__name__))


def _heads(mixer: nn.Module, width: int, is_attention: bool, n_heads: int) -> int:
    """Heads in `z`: what the mixer itself counts, else the attention's number, else one."""
    if width <= 0:
        return 0
    own = next((n for name in _COUNTS if isinstance(n := getattr(mixer, name, None), int) and n > 0), 0)
    count = own or (n_heads if is_attention and n_heads > 0 else 1)
    return count if count > 0 and width % count == 0 else 0


def _others(
    layer: Call, recording: Recording, mixer: Call | None, norm: Call | None, mlp: Call | None
) -> tuple[Call, ...]:
    """Further parts whose output can only be added to the stream."""
    stream, found = layer.output_value, []
    if stream is None:
        return ()
    children = recording.children(layer)
    known = {call.path for call in (mixer, norm, mlp) if call is not None}
    for call in children:
        value = call.output_value
        if call.path in known or recording.one(call.path) is None or value is None or value.numel() != stream.numel():
            continue
        if any(path.startswith(call.path + ".") for path in known):
            continue
        holds = holds_projection(call.module) or any(
            same(other.output, call.input) and holds_projection(other.module) for other in children
        )
        given_on = any(same(call.output, other.input) for other in children if other is not call)
        if holds and not given_on and not same(call.output, layer.output):
            found.append(call)
    return tuple(found)


@torch.no_grad()
def _factors(layer: Call, found: _Found, multiplier: float) -> tuple[float, dict[str, float]]:
    """The factor on the stream and on every part; what the layer names where that holds, else the solution."""
    main = [call for call in (found.mixer, found.mlp) if call is not None]
    named = {call.path: multiplier for call in main}
    without = {call.path: 0.0 for call in found.others}
    before, after = layer.input_value, layer.output_value
    if before is None or after is None or before.shape != after.shape:
        return 1.0, named | without
    tolerance = FITS.get(after.dtype, 1e-5)
    for calls in (main, [*main, *found.others]):
        columns = [before, *(call.output_value for call in calls)]
        if any(column is None or column.numel() != after.numel() for column in columns):
            break
        matrix = torch.stack([column.reshape(-1).double() for column in columns if column is not None], dim=1)
        target = after.reshape(-1).double()
        scale = float(target.abs().max().clamp_min(1e-30))
        if not bool(torch.isfinite(matrix).all() and torch.isfinite(target).all()):
            break
        plain = torch.tensor([1.0, *([multiplier] * len(calls))], dtype=torch.double, device=matrix.device)
        solved = torch.linalg.lstsq(matrix.cpu(), target.cpu()[:, None]).solution[:, 0].to(matrix.device)
        for guess in (plain, _tidy(solved)):
            if float((matrix @ guess - target).abs().max()) <= tolerance * scale:
                keep, *each = guess.tolist()
                if found.mixer is not None and each[0] == 0:
                    break  # what it writes goes through something else first (Inkling's short convolution)
                return keep, named | without | dict(zip([call.path for call in calls], each, strict=True))
    return 1.0, named | without


def _tidy(solved: Tensor) -> Tensor:
    """What rounding has left of ones and zeros."""
    for whole in (0.0, 1.0):
        solved = torch.where((solved - whole).abs() < 1e-5, torch.full_like(solved, whole), solved)
    return solved
