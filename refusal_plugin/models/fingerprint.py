"""Fingerprints that tell whether two models are the same: of the configuration, the chat template and the weights.

All are SHA-256 in hexadecimal. A result computed on one model names them, and using it on another is an error.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError

_NOT_ARCHITECTURE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "_commit_hash",
        "_attn_implementation",
        "_attn_implementation_internal",
        "attn_implementation",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "use_cache",
    }
)


def config_hash(config: Any) -> str:
    """Hash of a Hugging Face configuration as sorted JSON.

    Where it was loaded from, in which dtype and with which attention kernel is left out, sub-configurations included,
    so that one checkpoint has one hash; also the class it was saved from, which a model not yet saved does not have.
    """
    return _digest(json.dumps(_stable(config.to_dict()), sort_keys=True, default=str))


def template_hash(template: str | None) -> str | None:
    """Hash of a chat template; None for a model without one."""
    return None if template is None else _digest(template)


def weight_hash(module: nn.Module) -> str:
    """Hash of all parameters and saved buffers: names, shapes and values.

    Values are hashed as float32, so that a bfloat16 checkpoint has the same hash loaded in bfloat16 or float32, on CPU
    or GPU. Each tensor is hashed on its own in a few threads, tied ones once, and the list of these hashes, sorted by
    name, is hashed again.

    Raises:
        ModelError: the weights are not here (a remote model).
    """
    state: dict[str, Tensor] = dict(module.named_parameters())
    saved = set(module.state_dict(keep_vars=True))
    state |= {name: buffer for name, buffer in module.named_buffers() if name in saved}
    if any(tensor.is_meta for tensor in state.values()):
        raise ModelError("hash the weights", "the model is remote and its weights are not here", "use its revision")
    names = sorted(state)
    with ThreadPoolExecutor(max_workers=4) as pool:
        hashes = list(pool.map(lambda name: _tensor_digest(state[name]), names))
    lines = [f"{name} {tuple(state[name].shape)} {value}" for name, value in zip(names, hashes, strict=True)]
    return _digest("\n".join(lines))


def plain_parts(tensor: Tensor) -> list[Tensor]:
    """What of a parameter lies here: itself, the values and scales of a quantised one, this process's share of it."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    inner = (getattr(tensor, name) for name in names)  # a spread one also names its mesh of devices
    return [part for one in inner if isinstance(one, Tensor) for part in plain_parts(one)]


@torch.no_grad()
def _tensor_digest(tensor: Tensor) -> str:
    hasher = hashlib.sha256()
    step = 1 << 22  # in pieces, so that a large embedding is never held twice in float32
    for part in plain_parts(tensor):
        flat = part.detach().reshape(-1)
        for start in range(0, flat.numel(), step):
            piece = flat[start : start + step].float().cpu().contiguous()
            hasher.update(piece.numpy().data)
    return hasher.hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _stable(item) for key, item in value.items() if key not in _NOT_ARCHITECTURE}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
