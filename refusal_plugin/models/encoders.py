"""What encoders made of media is kept: a medium goes through its tower once, whatever is asked of it afterwards.

    features of a medium = get_image_features | get_video_features | get_audio_features   (transformers' own names)
    key                  = bytes of its processed tensors, the other arguments, the state of the weights

The bytes hold the medium's content and the processor's settings. Inside `running` these methods look a batch up item by
item and run the tower for what is new. Nothing is assumed of a family: where items come again among others, all are
computed once more and compared; a method for which they differ, or whose output does not fall into items, is looked up
for a batch as a whole. Features lie on the host, and those that were not asked for longest make room.
"""

import functools
import hashlib
import inspect
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..traced.measure import agrees
from .anatomy import Anatomy, anatomy, hf_module

LIMIT = 2**30
"""Bytes of features that are kept for one model."""
METHODS = ("get_image_features", "get_video_features", "get_audio_features")

Piece: TypeAlias = dict[str, list[Tensor]]
"""Features of one item: by field of the output a tensor, or one for each of several layers."""


@dataclass
class Kept:
    """Features of a model's media.

    Attributes:
        limit: most bytes; 0 keeps nothing.
        used: bytes of what is there.
        held: by key the features of an item, how they are put together, and the batch in which they were computed.
        separable: per method, whether items may be taken one by one; missing until some have come again among others.
    """

    limit: int = LIMIT
    used: int = 0
    held: OrderedDict[bytes, tuple[Piece, "_Mould", bytes]] = field(default_factory=OrderedDict)
    separable: dict[str, bool] = field(default_factory=dict)

    def put(self, key: bytes, piece: Piece, mould: "_Mould", batch: bytes) -> None:
        """Keep a copy, if there is room for it at all."""
        if _size(piece) <= self.limit:
            copies = {name: [part.detach().to("cpu", copy=True) for part in parts] for name, parts in piece.items()}
            self.held[key] = copies, mould, batch
            self.used += _size(piece)
        while self.used > self.limit:
            self.used -= _size(self.held.popitem(last=False)[1][0])

    def taken_whole(self, method: str) -> None:
        """From now on batches are kept as a whole; items that were found in others are forgotten."""
        self.separable[method] = False
        self.forget()

    def forget(self) -> None:
        """Everything that is kept, but not what is known of the methods."""
        self.held.clear()
        self.used = 0


_KEPT: weakref.WeakKeyDictionary[Any, Kept] = weakref.WeakKeyDictionary()


def kept_of(model: Any) -> Kept:
    """What is kept of a loaded model's media."""
    return _KEPT.setdefault(model, Kept())


@contextmanager
def kept_features(model: Any) -> Iterator[None]:
    """Inside the block a loaded model on this machine looks the features of its media up first."""
    module = hf_module(model)
    having = [(part, name) for part in module.modules() for name in METHODS if hasattr(type(part), name)]
    owners = [  # an outer class hands on to the inner one, whose forward pass calls the method
        (part, name)
        for part, name in having
        if name not in vars(part)  # the outermost block does it
        and not any(hasattr(type(inner), name) for inner in part.modules() if inner is not part)
    ]
    if not owners or module.training or _watched(module, anatomy(model)):
        yield
        return
    weights = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in module.parameters()]
    for part, name in owners:
        setattr(part, name, _looking_up(getattr(part, name), name, kept_of(model), repr(weights)))
    try:
        yield
    finally:
        for part, name in owners:
            delattr(part, name)


def _watched(module: nn.Module, facts: Anatomy) -> bool:
    """Whether somebody's hook hangs inside a tower, where it would not be called; transformers has its own there."""
    decoder = [
        path for path in (facts.layers_path, facts.embed_path, facts.final_norm_path, facts.unembed_path) if path
    ]
    return any(
        not str(getattr(hook, "__module__", "")).startswith("transformers.")
        for path, part in module.named_modules()
        if path and not any(f"{path}.".startswith(one) or one.startswith(f"{path}.") for one in decoder)
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    )


def _looking_up(method: Callable[..., Any], name: str, kept: Kept, weights: str) -> Callable[..., Any]:
    """A method of a model with a memory."""
    signature = inspect.signature(method)

    @functools.wraps(method)  # `generate` looks at its arguments
    def features(*args: Any, **kwargs: Any) -> Any:
        given: dict[str, Any] = {}  # by name: forward passes and `generate` call it differently
        for argument, value in signature.bind(*args, **kwargs).arguments.items():
            rest = signature.parameters[argument].kind is inspect.Parameter.VAR_KEYWORD
            given |= value if rest else {argument: value}
        leaves, shape = tree_flatten({key: value for key, value in sorted(given.items()) if value is not None})
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        plain = all(isinstance(leaf, bool | int | float | str) for leaf in others)
        if not (tensors and plain and kept.limit) or torch.is_grad_enabled():
            return method(*args, **kwargs)
        parts = _items(tensors) if kept.separable.get(name, True) else [[t] for t in tensors]
        keys = [_digest(f"{name} {others} {shape} {weights}", item) for item in zip(*parts, strict=True)]
        batch = b"".join(keys)
        known = {key: kept.held[key] for key in keys if key in kept.held}
        for key in known:
            kept.held.move_to_end(key)
        found = {key: piece for key, (piece, _, _) in known.items()}
        mould = next((mould for _, mould, _ in known.values()), None)
        new = [place for place, key in enumerate(keys) if key not in known and key not in keys[:place]]
        among = len(set(keys)) < len(keys) or any(where != batch for _, _, where in known.values())
        if among and name not in kept.separable:
            new = list(range(len(keys)))
        if new:
            some = iter([torch.cat([part[place] for place in new]) for part in parts])
            output = method(**tree_unflatten([next(some) if isinstance(x, Tensor) else x for x in leaves], shape))
            made = _taken_apart(output, len(new))
            if made is None:
                kept.taken_whole(name)
                return output if len(new) == len(keys) else method(*args, **kwargs)
            mould, pieces = made
            for place, piece in zip(new, pieces, strict=True):
                if keys[place] not in found:
                    found[keys[place]] = piece
                    kept.put(keys[place], piece, mould, batch)
                elif _same(found[keys[place]], piece):
                    kept.separable.setdefault(name, True)
                else:
                    kept.taken_whole(name)
                    return output
            if len(new) == len(keys):
                return output
        assert mould is not None
        try:
            return mould.filled([found[key] for key in keys])
        except RuntimeError:  # items of one batch that do not fit together: padded to other lengths
            return method(*args, **kwargs)

    return features


def _items(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Of each tensor what belongs to every item; all of it as one item where that is not to be seen.

    Either each tensor has a row per item, or there are grids (time, height, width) and as many rows as they have cells.
    """
    whole = [[tensor] for tensor in tensors]
    if any(tensor.ndim == 0 for tensor in tensors):
        return whole
    cells = [t.prod(1) for t in tensors if t.ndim == 2 and t.shape[1] == 3 and not t.is_floating_point()]
    rows = [len(t) for t in tensors]
    n = next((c.tolist() for c in cells if int(c.sum()) in rows), [1] * rows[0])
    found = [torch.split(t, n if len(t) == sum(n) else 1) for t in tensors]
    return [list(one) for one in found] if all(len(one) == len(n) for one in found) else whole


def _digest(told: str, item: Sequence[Tensor]) -> bytes:
    total = hashlib.blake2b(told.encode(), digest_size=16)
    for part in item:
        total.update(f"{part.dtype} {tuple(part.shape)}".encode())
        total.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.digest()


@dataclass(frozen=True)
class _Mould:
    """The form of an output.

    Attributes:
        kind: its class; None for a bare value.
        fields: name to "each" (one tensor an item, in a tuple), "rows" (one behind the other), or several of those:
            "layers of each", "layers of rows".
        device: where it lies.
    """

    kind: Callable[..., Any] | None
    fields: Mapping[str, str]
    device: torch.device

    def filled(self, pieces: Sequence[Piece]) -> Any:
        """The output of some items."""
        found: dict[str, Any] = {}
        for name, how in self.fields.items():
            columns = zip(*(piece[name] for piece in pieces), strict=True)
            copy = how.endswith("each")  # those that are joined are copied by it
            apart = [tuple(part.to(self.device, copy=copy) for part in column) for column in columns]
            layers = apart if copy else [torch.cat(parts) for parts in apart]
            found[name] = layers if how.startswith("layers") else layers[0]
        return found[""] if self.kind is None else self.kind(**found)


def _taken_apart(output: Any, n: int) -> tuple[_Mould, list[Piece]] | None:
    """The form of an output and the features of its `n` items; None where it does not fall into them."""
    fields = dict(output.items()) if isinstance(output, Mapping) else {"": output}
    features: Any = fields.get("pooler_output", fields.get(""))
    # What the tower's layers said is not asked for again, and would be many times the features.
    idle = ("hidden_states", "attentions")
    each = isinstance(features, list | tuple)
    lengths = [len(part) for part in features] if each else [1] * n
    pieces: list[Piece] = [{} for _ in range(n)]
    form: dict[str, str] = {}
    device = None
    for name, value in fields.items():
        if value is None or name in idle:
            continue
        if not isinstance(value, Tensor | list | tuple):
            return None
        several = not isinstance(value, Tensor) and not (value is features and len(value) == n)
        layers = value if several else [value]
        rows = all(isinstance(layer, Tensor) for layer in layers)
        form[name] = ("layers of " if several else "") + ("rows" if rows else "each")
        for layer in layers:
            parts = _rows_of(layer, n, lengths) if isinstance(layer, Tensor) else layer
            if len(parts) != n or not all(isinstance(part, Tensor) for part in parts):
                return None
            for piece, part in zip(pieces, parts, strict=True):
                piece.setdefault(name, []).append(part)
                device = part.device
    if device is None:
        return None
    return _Mould(type(output) if "" not in fields else None, form, device), pieces


def _rows_of(tensor: Tensor, n: int, lengths: Sequence[int]) -> Sequence[Tensor]:
    """The rows of each item: one, or in proportion to the lengths of its features, of which a projector merges some."""
    if n == 1:
        return [tensor]
    cells, odd = divmod(len(tensor), sum(lengths))
    return torch.split(tensor, 1 if len(tensor) == n or odd else [cells * length for length in lengths])


def _same(one: Piece, other: Piece) -> bool:
    """Whether the features of an item are those it had, to rounding."""
    pairs = [(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)]
    return all(a.shape == b.shape and bool(agrees(a, b, b.dtype).all()) for a, b in pairs)


def _size(piece: Piece) -> int:
    return sum(part.nbytes for parts in piece.values() for part in parts)
