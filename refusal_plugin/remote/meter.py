"""What remote runs cost: requests, bytes as they travel, seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Meter:
    """What remote runs cost, added up.

    Attributes:
        requests: sent to the server.
        bytes_up, bytes_down: as they travel, compressed.
        seconds: from packing to unpacked result.
    """

    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    ids: list[str] = field(default_factory=list)


_METERS: ContextVar[tuple[Meter, ...]] = ContextVar("refusal_plugin_remote_meters", default=())


@contextmanager
def metered() -> Iterator[Meter]:
    """Count requests, bytes and seconds inside a `with` block."""
    meter = Meter()
    token = _METERS.set((*_METERS.get(), meter))
    try:
        yield meter
    finally:
        _METERS.reset(token)


def note(cost: Meter, job: str) -> None:
    """Add the cost of one request, or of reading its kept result, to every `metered` block around it."""
    for one in _METERS.get():
        one.requests += cost.requests
        one.bytes_up += cost.bytes_up
        one.bytes_down += cost.bytes_down
        one.seconds += cost.seconds
        one.ids.append(job)
