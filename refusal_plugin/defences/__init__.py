"""Defences: refusal directions at work, and their rivals, all behind one small protocol.

    data = DefenceData.of(model, prompts)              # prompts with splits; activations are computed once
    defence = fit_defence("sarsteer", model, data)     # a frozen `Defence`: plain tensors and switches
    edit = defence.edit(0.1, modality="audio")         # an `Edit`: runs in traces, in generate, in plain hooks

One file per method, each opening with its equations and its source; `REGISTRY` maps a name to its fit function.
"""

from .base import Defence
from .data import DefenceData
from .registry import REGISTRY, Method, fit_defence, method

__all__ = ["REGISTRY", "Defence", "DefenceData", "Method", "fit_defence", "method"]

from . import (  # noqa: F401  (each file registers its methods)
    ace,
    adasteer,
    addition,
    alphasteer,
    cast,
    false_refusal,
    mars,
    mdsteer,
    omnisteer,
    prompt,
    ras,
    sarsteer,
    shiftdc,
)
