"""Requests on disk: ids that survive the process, and results that are never fetched twice.

    <folder>/<job id>.json            what it is, where it runs, how to continue; never a key
    <folder>/<job id>.safetensors     the result, once it is there

The folder is REFUSAL_PLUGIN_JOBS, else `refusal-plugin/jobs` in the user's cache folder.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..storage import read_tensors, write_json, write_tensors
from .errors import RemoteError

FORMAT = "refusal_plugin.job.v1"


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        id: given by the server.
        host: address of the server.
        model: name of the model.
        name: of the run it belongs to ("" for a single session).
        run: hash of that run.
        index: which request of the run.
        block: hash of the request: source and values (`fingerprint`).
        how: how to run it again.
        status: last known.
        created: seconds since 1970.
        bytes_up, bytes_down: sizes, compressed.
        seconds: from sending to result.
    """

    id: str
    host: str
    model: str
    name: str = ""
    run: str = ""
    index: int = 0
    block: str = ""
    how: dict[str, Any] = field(default_factory=dict)
    status: str = "SENT"
    created: float = field(default_factory=time.time)
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


def folder() -> Path:
    """Where jobs are kept."""
    given = os.environ.get("REFUSAL_PLUGIN_JOBS")
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "refusal-plugin" / "jobs"


def write(job: Job, **changes: Any) -> Job:
    """Store a job, at once or not at all.

    Raises:
        RemoteError: the folder cannot be written.
    """
    changed = replace(job, **changes)
    path = _path(job.id, "json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(changed))
    except (OSError, DataError) as error:
        found = f"{path.parent}: {getattr(error, 'strerror', None) or getattr(error, 'found', error)}"
        raise RemoteError("keep a job", found, "set REFUSAL_PLUGIN_JOBS to a folder") from None
    return changed


def listed() -> list[Job]:
    """All jobs, newest first; unreadable files are passed over."""
    found = []
    for path in folder().glob("*.json"):
        try:
            found.append(Job(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError, RecursionError):
            continue
    return sorted(found, key=lambda job: -job.created)


def named(identity: str) -> Job:
    """A job by its id or the beginning of it.

    Raises:
        RemoteError: no such job here, or several.
    """
    found = [one for one in listed() if one.id.startswith(identity)] if identity else []
    if len(found) != 1:
        what = "no such job on this machine" if not found else f"{len(found)} jobs begin like that"
        raise RemoteError(f"find job {identity!r}", what, "refusal-plugin jobs lists them")
    return found[0]


def find(run: str, index: int, block: str) -> Job | None:
    """The living or finished job of a run's request, if it was sent before."""
    for one in listed():
        same = (one.run, one.index, one.block) == (run, index, block)
        if same and run and one.status not in ("ERROR", "LOST"):
            return one
    return None


def drop(one: Job) -> None:
    """Forget a job and its result."""
    for kind in ("json", "safetensors"):
        _path(one.id, kind).unlink(missing_ok=True)


def store(one: Job, result: dict[str, Any]) -> None:
    """Keep a result: tensors, numbers, strings, lists, tuples, dicts."""
    tensors: dict[str, Tensor] = {}
    tree = _flatten(result, tensors)
    write_tensors(_path(one.id, "safetensors"), tensors, {"format": FORMAT, "tree": tree})


def load(one: Job) -> dict[str, Any] | None:
    """A kept result, None if there is none or the file is spoiled."""
    path = _path(one.id, "safetensors")
    if not path.is_file():
        return None
    try:
        tensors, record = read_tensors(path)
        found: dict[str, Any] = _restore(record["tree"], tensors)
    except Exception:
        return None
    return found


def _path(identity: str, kind: str) -> Path:
    # Ids come from a server: nothing but letters and digits becomes part of a path.
    return folder() / f"{''.join(c for c in identity if c.isalnum() or c in '-_')[:80]}.{kind}"


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_flatten(part, tensors) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[_flatten(k, tensors), _flatten(v, tensors)] for k, v in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    found = f"the block saved a {type(value).__name__}"
    raise RemoteError("keep a result", found, "save tensors, numbers, strings, lists, tuples or dicts")


def _restore(tree: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return torch.as_tensor(tensors[value])
    if kind in ("list", "tuple"):
        parts = [_restore(part, tensors) for part in value]
        return parts if kind == "list" else tuple(parts)
    if kind == "dict":
        return {_restore(k, tensors): _restore(v, tensors) for k, v in value}
    return value
