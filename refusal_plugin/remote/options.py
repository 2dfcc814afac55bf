"""How requests are sent and awaited: limits, patience, and what is being run.

    with settings(timeout=600, detach=True):
        recipe.run(model, prompts, remote=True)

The API key is not here: nnsight reads it from its configuration or NDIF_API_KEY, and nothing of this package stores it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import RemoteError


@dataclass(frozen=True)
class Settings:
    """Limits and patience of remote runs.

    Attributes:
        host: address of the server; None for nnsight's configuration or NDIF_HOST.
        timeout: seconds a job may take from sending to result, queueing included.
        stalled: seconds without any change of a job's status before it is given up as lost.
        attempts: how often one HTTP exchange is tried.
        backoff: seconds before the second attempt; doubled each time, at most 20.
        max_upload: largest request in bytes.
        max_result: largest result in bytes.
        max_tokens: tokens that one request computes: prompt tokens with padding times passes, and generated tokens.
            Work above it is cut into several requests (`portions`): this is what keeps a request below a server's time
            limit.
        trusted: whether the server runs our blocks beside the weights (True) or sandboxed (False); None: not known, so
            what the sandbox cannot do is refused. Sent along, and ignored by servers that decide by key.
        detach: stop after sending; `refusal-plugin jobs resume ID` continues.
    """

    host: str | None = None
    timeout: float = 7200.0
    stalled: float = 1800.0
    attempts: int = 6
    backoff: float = 0.5
    max_upload: int = 512 * 2**20
    max_result: int = 2**30
    max_tokens: int = 1_000_000
    trusted: bool | None = None
    detach: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout", "stalled", "attempts", "backoff", "max_upload", "max_result", "max_tokens"):
            if not getattr(self, name) > 0:
                raise RemoteError(f"set {name} = {getattr(self, name)}", "it is not positive", "give a positive number")


@dataclass
class Task:
    """What is being run, so that a later process finds its requests again.

    Attributes:
        name: for people ("direction_extraction").
        key: hash of everything that decides what is sent.
        how: how to run it again (arguments of the command).
        sent: number of requests so far.
        heaviest: tokens of the largest request that could still be cut; 0 if none can.
    """

    name: str
    key: str
    how: Mapping[str, Any] = field(default_factory=dict)
    sent: int = 0
    heaviest: float = 0.0


_SETTINGS: ContextVar[Settings] = ContextVar("refusal_plugin_remote", default=Settings())  # noqa: B039  (frozen)
_TASK: ContextVar[Task | None] = ContextVar("refusal_plugin_remote_task", default=None)


def current() -> Settings:
    """The settings in force."""
    return _SETTINGS.get()


@contextmanager
def settings(**changes: Any) -> Iterator[Settings]:
    """Change settings inside a `with` block.

    Raises:
        RemoteError: no such setting, or a value that is not positive.
    """
    unknown = sorted(set(changes) - set(Settings.__dataclass_fields__))
    if unknown:
        known = ", ".join(Settings.__dataclass_fields__)
        raise RemoteError(f"set {', '.join(unknown)}", "no such setting", f"use {known}")
    token = _SETTINGS.set(replace(_SETTINGS.get(), **changes))
    try:
        yield _SETTINGS.get()
    finally:
        _SETTINGS.reset(token)


@contextmanager
def task(name: str, *facts: Any, how: Mapping[str, Any] | None = None) -> Iterator[Task]:
    """Name a run, so that it continues where it stopped.

    Requests that are done are read from disk, those still on the server are awaited, only the rest is sent. A request
    is found again only if it is the very same: its source and every value it reads are compared.

    Args:
        name: for people.
        facts: what tells this run from others of that name.
        how: how to run it again.
    """
    text = json.dumps([name, *map(str, facts)])
    token = _TASK.set(Task(name, hashlib.sha256(text.encode()).hexdigest()[:16], dict(how or {})))
    try:
        found = _TASK.get()
        assert found is not None
        yield found
    finally:
        _TASK.reset(token)


def current_task() -> Task | None:
    """The run that is going on, if it has a name."""
    return _TASK.get()
