"""What a rate was measured under, as one record: rates under two contracts are two quantities.

    token budget, decoding, judge, system text, which prompts of which data

A longer answer has more room to refuse late, another judge hears other refusals, another revision of a set holds other
prompts. The record stands with every rate, in `results.json` and in `compare.json`; whatever puts two rates side by
side asks `warn_of_differences`.
"""

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..prompts import Prompt

GREEDY = "greedy"
"""How every answer of this package is decoded."""


@dataclass(frozen=True)
class Contract:
    """The terms of a measurement; None where they were not stated.

    Attributes:
        judge: who labelled, with the model that was asked.
        prompts: hash of which prompts were measured, over their ids, pairs, splits and roles, in order.
        n: how many.
        data: the public sets they come from, "name@revision".
        max_new_tokens: longest answer, in tokens.
        decoding: how the next token is chosen.
        system: system text before every prompt; "" for none.
    """

    judge: str | None = None
    prompts: str | None = None
    n: int | None = None
    data: tuple[str, ...] | None = None
    max_new_tokens: int | None = None
    decoding: str | None = GREEDY
    system: str | None = None

    @classmethod
    def of(
        cls, prompts: Iterable[Prompt], judge: str, *, max_new_tokens: int | None = None, system: str | None = None
    ) -> "Contract":
        """The contract of a measurement on these prompts."""
        prompts = list(prompts)
        total = hashlib.sha256()
        for prompt in prompts:
            total.update(repr((prompt.id, prompt.pair, prompt.split, prompt.role)).encode())
        named = {f"{p.meta['dataset']}@{p.meta.get('revision')}" for p in prompts if p.meta.get("dataset")}
        return cls(judge, total.hexdigest()[:16], len(prompts), tuple(sorted(named)), max_new_tokens, GREEDY, system)

    @classmethod
    def read(cls, results: Mapping[str, Any]) -> "Contract":
        """The contract of a `results.json` or `compare.json`; nothing stated where there is none."""
        found = results.get("contract") or {}
        known = {name: found[name] for name in cls.__dataclass_fields__ if name in found}
        if isinstance(known.get("data"), list):
            known["data"] = tuple(known["data"])
        return cls(**{"decoding": None, **known})

    def to_json(self) -> dict[str, Any]:
        """The form in results.json, which knows lists and no tuples."""
        return asdict(self) | {"data": None if self.data is None else list(self.data)}

    def differences(self, other: "Contract") -> list[str]:
        """Terms that both state and that differ, in words; `n` is told by the prompts."""
        mine, theirs = asdict(self), asdict(other)
        both = (name for name in mine if name != "n" and mine[name] is not None and theirs[name] is not None)
        return [
            f"{name.replace('_', ' ')} {_words(mine[name])} and {_words(theirs[name])}"
            for name in both
            if mine[name] != theirs[name]
        ]

    def __str__(self) -> str:
        """What is stated, in one line."""
        stated = {name: value for name, value in asdict(self).items() if value is not None and value != ()}
        return ", ".join(f"{name.replace('_', ' ')} {_words(value)}" for name, value in stated.items())


def warn_of_differences(one: Contract | None, other: Contract | None, asked: str) -> list[str]:
    """Say what differs between the contracts of two rates that are put side by side.

    Args:
        one, other: their contracts; None, where nothing is known, differs from nothing.
        asked: what is being compared, the first words of the warning.

    Returns:
        the differences; a warning names them if there are any.
    """
    found = one.differences(other) if one is not None and other is not None else []
    if found:
        warnings.warn(f"{asked}: they were measured under different contracts: {'; '.join(found)}.", stacklevel=3)
    return found


def compare_contracts(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between the contracts of two results, read from `results.json` or `compare.json`; warns of it."""
    names = " and ".join(str(results.get("model") or "a result") for results in (one, other))
    return warn_of_differences(Contract.read(one), Contract.read(other), f"compare results of {names}")


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(value) or "none of a public set"
    text = str(value)
    return "none" if text == "" else repr(text[:60]) if " " in text else text
