"""Errors of remote runs: what the server said, in one line, with the line of the recipe and what to do.

The texts are those of NDIF 0.1.2 and nnsight 0.8; a text that is not known is passed on, shortened.
"""

import re
from pathlib import Path

from ..errors import RefusalPluginError

_KEY = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_LINE = re.compile(r'File "(?:\[[^\]]*\] )?(?P<file>[^"]+)", line (?P<line>\d+)')
_LONGEST = 400

NO_KEY = "set NDIF_API_KEY, or run `nnsight login` once (keys: https://login.ndif.us)"
SPLIT = "send fewer prompts per request: remote.settings(max_tokens=...), or a smaller --limit"

# What the server says -> (what to do, the class of error).
_ADVICE: tuple[tuple[str, str], ...] = (
    (r"exceeded the execution timeout", SPLIT),
    (r"out of memory|OutOfMemoryError", "use smaller batches (token_budget=, max_rows=) and save less"),
    (
        r"ModuleNotFoundError|No module named|ImportError|not whitelisted|not in the whitelist|import .* not allowed",
        "use torch and math only inside the block; your own functions travel after nnsight.register('your_module')",
    ),
    (r"has no module at|doesn't match the one your code was traced", "align versions: refusal-plugin remote compare"),
    (
        r"Client (nnsight|python) version|client nnsight|below the minimum",
        "align versions: refusal-plugin remote compare",
    ),
    (r"Missing or invalid API key", NO_KEY),
    (r"Invalid API key", f"the server does not know this key: {NO_KEY}"),
    (
        r"Repository ?Not ?Found|is not a valid model identifier|does not appear to have|Not Found for url",
        "check the spelling of the model: refusal-plugin remote status lists what is up",
    ),
    (r"CANT_ACCOMMODATE|Could not deploy", "ask for a model that is up: refusal-plugin remote status"),
    (
        r"Cannot copy out of meta tensor",
        "weights cannot be read in the sandbox: send them with the request, or compute it from activations",
    ),
    (
        r"backward|autograd|does not require grad",
        "gradients need a trusted key: run this part locally, or use the forward-only parts",
    ),
    (r"OutOfOrder", "read modules in the order in which they run; gradients do not work in the sandbox"),
    (r"cancelled or preempted|evicted|ActorDied|ActorUnavailable|worker", "the worker was lost: run the command again"),
    (r"error parsing the body", f"this server takes small requests only (about 1 MB): {SPLIT}"),
    (r"waiting for the runner socket", "the server is overloaded: run the command again in a few minutes"),
    (r"payload could not be read", "run it again; if it stays, align versions: refusal-plugin remote compare"),
    (r"reconnecting|temporarily unavailable", "wait a few minutes and run the command again"),
)


class RemoteError(RefusalPluginError):
    """A remote run cannot be started, or failed on the server."""

    def __init__(self, asked: str, found: str, do: str, *, job: str | None = None) -> None:
        self.job = job
        super().__init__(asked, scrub(found), do)


class RemoteTimeout(RemoteError):
    """The request ran longer than the server allows: it has ended there, and less of it may be sent again."""


class Detached(Exception):
    """Not an error: the request was sent and is left to run, as asked for.

    Attributes:
        job: id of the job.
    """

    def __init__(self, job: str) -> None:
        self.job = job
        super().__init__(f"job {job} was sent; refusal-plugin jobs resume {job} continues")


def api_key() -> str:
    """The key of nnsight's configuration or environment; "" without one. Sent in a header and kept nowhere."""
    from nnsight import CONFIG  # type: ignore[import-untyped]

    return str(CONFIG.API.APIKEY or "")


def scrub(text: str) -> str:
    """Take whatever looks like an API key out of a text: servers repeat a malformed key in their answer."""
    key = api_key()
    if key:
        text = text.replace(key, "<key>")
    return _KEY.sub("<key>", text)


def location(text: str, filename: str | None) -> str:
    """Where in the caller's file a server-side traceback points: "recipe.py line 74", or nothing."""
    if filename is None:
        return ""
    lines = [int(m["line"]) for m in _LINE.finditer(text) if m["file"] == filename]
    return f"{Path(filename).name} line {lines[-1]}: " if lines else ""


def last_line(text: str) -> str:
    """The line that says what happened: the last of a traceback, the first of a sentence."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return "no reason given"
    line = lines[-1] if "Traceback" in text or 'File "' in text else lines[0]
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def translate(asked: str, text: str, *, filename: str | None = None, job: str | None = None) -> RemoteError:
    """A server's message as an error with advice.

    Args:
        asked: what was asked for.
        text: what the server said.
        filename: the caller's file, to find its line in a traceback.
        job: id of the job.
    """
    found = location(text, filename) + last_line(text).rstrip(".")
    for pattern, do in _ADVICE:
        if re.search(pattern, text, re.IGNORECASE):
            if pattern.startswith("exceeded"):
                return RemoteTimeout(asked, found, do, job=job)
            return RemoteError(asked, found, do, job=job)
    return RemoteError(asked, found, "run the same block locally to see the whole traceback", job=job)
