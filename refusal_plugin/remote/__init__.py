"""Run on NDIF: the same recipes on a model that is hosted elsewhere, where this package is not installed.

    model = load("org/name", remote=True)                      # no weights
    found = collect(model, prompts, remote=True)               # one request, or several where one would be too large
    refusal-plugin run direction_extraction -m org/name --remote --detach
    refusal-plugin jobs                                        # ids survive the process

Every session of a loaded model goes through `backend.Remote`: it refuses what cannot work before anything is sent,
sends, waits by asking (a lost connection loses nothing), and turns each failure into one line of advice.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:
    from .cutting import parts, portions, workload
    from .errors import Detached, RemoteError, RemoteTimeout
    from .options import Settings, current, settings, task
    from .server import compare, status, whoami

# Loaded when first used: the command line names its commands without waiting for torch.
_WHERE = {
    "errors": ("Detached", "RemoteError", "RemoteTimeout"),
    "server": ("compare", "status", "whoami"),
    "options": ("Settings", "current", "settings", "task"),
    "cutting": ("parts", "portions", "workload"),
}
__getattr__ = lazy(__name__, _WHERE)

__all__ = [
    "Detached",
    "RemoteError",
    "RemoteTimeout",
    "Settings",
    "compare",
    "current",
    "parts",
    "portions",
    "settings",
    "workload",
    "status",
    "task",
    "whoami",
]
