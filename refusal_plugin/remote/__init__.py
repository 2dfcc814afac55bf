"""Run on NDIF: the same recipes on a model that is hosted elsewhere, where this package is not installed.

    model = load("org/name", remote=True)                      # no weights
    found = collect(model, prompts, remote=True)               # one request, or several where one would be too large
    refusal-plugin run direction_extraction -m org/name --remote --detach
    refusal-plugin jobs                                        # ids survive the process

Every session of a loaded model goes through `backend.Remote`: it refuses what cannot work before anything is sent,
sends, waits by asking (a lost connection loses nothing), and turns each failure into one line of advice.
"""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
