"""The registry: a name for every method and for its variants, and the one call that fits them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from ..errors import DirectionError
from ..models import anatomy
from .base import Defence
from .data import DefenceData

Sees: TypeAlias = Literal["text", "neutral media", "media", "nothing"]


@dataclass(frozen=True)
class Method:
    """An entry of `REGISTRY`: call it to fit.

    Attributes:
        name: of the method.
        fit: `fit(model, data, *, seed, **switches) -> Defence`.
        sees: the data it looks at: "text" only; text and "neutral media"; real "media"; "nothing".
        switches: fixed switches of a variant.
        summary: one line for tables.
    """

    name: str
    fit: Callable[..., Defence]
    sees: Sees
    summary: str = ""
    switches: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False

    def __call__(self, model: Any, data: DefenceData, *, seed: int = 0, **switches: Any) -> Defence:
        """Fit; a switch given here wins over the variant's."""
        found = self.fit(model, data, seed=seed, **{**self.switches, **switches})
        return replace(found, name=self.name)


REGISTRY: dict[str, Method] = {}
"""Name of a method or of a variant of one (an ablation) to what fits it."""


def method(
    name: str,
    *,
    sees: Sees,
    summary: str = "",
    control: bool = False,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Defence]], Callable[..., Defence]]:
    """Register a fit function under a name, and its variants (name to switches) beside it.

    Args:
        name: of the method; an existing entry of that name is replaced.
        sees: which data it looks at, for tables and docs.
        summary: one line for tables.
        control: whether it is a control that should do nothing (random, shuffled).
        variants: ablations, each the same fit with other switches.
    """

    def register(fit: Callable[..., Defence]) -> Callable[..., Defence]:
        REGISTRY[name] = Method(name, fit, sees, summary, {}, control)
        for variant, switches in (variants or {}).items():
            REGISTRY[variant] = Method(variant, fit, sees, summary, dict(switches), control)
        return fit

    return register


def switches_of(name: str) -> tuple[str, ...]:
    """Names of the switches of a registered method, in alphabetical order."""
    parameters = inspect.signature(REGISTRY[name].fit).parameters.values()
    return tuple(sorted({p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"seed"}))


def fit_defence(name: str, model: Any, data: DefenceData, *, seed: int | None = None, **switches: Any) -> Defence:
    """Fit a registered method.

    Args:
        name: a key of `REGISTRY`.
        model: a loaded model, the one `data` was made on.
        data: see `DefenceData.of`.
        seed: of whatever is random in the fit; the data's seed by default.
        switches: of the method; see its file.

    Raises:
        DirectionError: no such method or switch, or data of another model.
        PromptError, DataError: what the method needs is missing from the data.
    """
    if name not in REGISTRY:
        raise DirectionError(f"fit defence {name!r}", "no such method", f"use one of {', '.join(sorted(REGISTRY))}")
    if data.model is not model:
        raise DirectionError(
            f"fit defence '{name}' on '{anatomy(model).name}'",
            f"its data were made on another loaded model, '{anatomy(data.model).name}'",
            "use DefenceData.of(model, prompts) with this one",
        )
    entry = REGISTRY[name]
    wanted = switches_of(name)
    unknown = sorted(set(switches) - set(wanted))
    if unknown:
        raise DirectionError(
            f"fit defence '{name}' with {unknown[0]}=",
            "no such switch",
            f"it has {', '.join(wanted) or 'none'}",
        )
    return entry(model, data, seed=data.seed if seed is None else seed, **switches)
