"""One run of a model at a time, and only where its weights are."""

import contextlib
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import ModelError
from .anatomy import anatomy
from .encoders import kept_features

_LOCKS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_NEW = threading.Lock()


@contextmanager
def running(model: Any, asked: str, remote: bool | str = False) -> Iterator[None]:
    """Hold a model for one run; a second thread waits: hooks, traces and edits belong to the model, not to a thread.

    Args:
        model: a loaded model.
        asked: what the user asked for, for the error message.
        remote: where it runs.

    Raises:
        ModelError: the weights are on a server and the run is to be here.
    """
    if anatomy(model).remote and not remote:
        raise ModelError(
            asked, f"the weights of '{anatomy(model).name}' are not here", "pass remote=True, or load it here"
        )
    with _NEW:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock, contextlib.nullcontext() if remote else kept_features(model):
        yield
