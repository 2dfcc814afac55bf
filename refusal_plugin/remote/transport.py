"""HTTP with patience: attempts with growing pauses, and the difference between "never arrived" and "may have run".

never arrived     no connection, 429, 503 (NDIF says so before it looks at a request)      sent again silently
may have arrived  connection lost while sending or waiting for the reply, 500, 502, 504    sent again, saying so
refused           400, 401, 403, 404, 413, 422                                             raised
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

from .errors import RemoteError, api_key, scrub, translate
from .options import Settings

CONNECT, READ = 10.0, 600.0
LONGEST_PAUSE = 20.0
_NOT_TAKEN = {429, 503}
_UNCLEAR = {500, 502, 504}


class MayRunTwice(UserWarning):
    """A request was sent again although its first copy may have reached the server."""


def host(settings: Settings) -> str:
    """Address of the server.

    Raises:
        RemoteError: it is no http address.
    """
    from nnsight import CONFIG  # type: ignore[import-untyped]

    found = str(settings.host or CONFIG.API.HOST).rstrip("/")
    if not found.startswith(("http://", "https://")):
        raise RemoteError(f"reach the server {found!r}", "it does not begin with http:// or https://", "set NDIF_HOST")
    return found


def headers() -> dict[str, str]:
    """What every exchange carries: versions, so that a server can refuse old clients, and the key."""
    import sys
    from importlib.metadata import version

    found = {
        "ndif-timestamp": repr(time.time()),
        "nnsight-version": version("nnsight"),
        "python-version": sys.version,
    }
    key = api_key()
    return {**found, "ndif-api-key": key} if key else found


def exchange(
    what: str,
    send: Callable[[Any], Any],
    settings: Settings,
    *,
    repeatable: bool,
    patience: float | None = None,
) -> Any:
    """One HTTP exchange with attempts; returns the response (200 to 299, or 404 where `repeatable`).

    Args:
        what: for messages.
        send: makes the exchange with a client of httpx.
        settings: number of attempts and pauses.
        repeatable: it only reads; otherwise a second copy is announced by `MayRunTwice`.
        patience: seconds to go on trying, instead of a number of attempts.
    """
    import httpx

    until = None if patience is None else time.monotonic() + patience
    pause, attempt, why = settings.backoff, 0, ""
    while True:
        attempt += 1
        unclear = False
        try:
            with httpx.Client(timeout=httpx.Timeout(CONNECT, read=READ, write=READ)) as client:
                response = send(client)
            if response.status_code in _NOT_TAKEN | _UNCLEAR:
                why = f"the server answered {response.status_code} ({detail(response)})"
                unclear = response.status_code in _UNCLEAR
            elif response.is_success or (repeatable and response.status_code == 404):
                return response
            else:
                raise translate(what, detail(response))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            why = f"no connection ({error or type(error).__name__})"
        except httpx.TransportError as error:
            why, unclear = f"the connection was lost ({error or type(error).__name__})", True
        over = attempt >= settings.attempts if until is None else time.monotonic() + pause > until
        if over:
            raise RemoteError(what, f"{why}, {attempt} attempts", "check NDIF_HOST and the network, then run it again")
        if unclear and not repeatable:
            warnings.warn(
                f"{what}: {scrub(why)}. It is sent again; the first copy may be running on the server too.",
                MayRunTwice,
                stacklevel=2,
            )
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def detail(response: Any) -> str:
    """What a refusing server says."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    found = body.get("detail", body) if isinstance(body, dict) else body
    return scrub(str(found))[:2000] or f"HTTP {response.status_code}"
