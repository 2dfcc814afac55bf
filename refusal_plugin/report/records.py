"""Reading results as JSON: what is missing, null or of another kind reads as nothing, never as an error.

Every reader takes the keys that lead to its value: `finite(results, "direction", "layer")`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def at(found: Any, *keys: str) -> Any:
    """What stands under these keys, or None."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def finite(found: Any, *keys: str) -> float | None:
    """The number, or None when it is missing, not a number or not finite."""
    value = at(found, *keys)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def mapping(found: Any, *keys: str) -> Mapping[str, Any]:
    """The mapping, or an empty one."""
    value = at(found, *keys)
    return value if isinstance(value, Mapping) else {}


def sequence(found: Any, *keys: str) -> list[Any]:
    """The list, or an empty one."""
    value = at(found, *keys)
    return list(value) if isinstance(value, (list, tuple)) else []


def records(found: Any, *keys: str) -> list[Mapping[str, Any]]:
    """A list of mappings; what is no mapping in it counts as an empty one."""
    return [mapping(row) for row in sequence(found, *keys)]


@dataclass(frozen=True)
class Rate:
    """A value with its 95 % interval and sample size; None where it could not be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, found: Any, *keys: str) -> "Rate":
        """Read `{"value", "low", "high", "n"}` or a bare number; half an interval is none."""
        record = at(found, *keys)
        if not isinstance(record, Mapping):
            return cls(finite(record))
        low, high, count = finite(record, "low"), finite(record, "high"), finite(record, "n")
        low, high = (None, None) if low is None or high is None else (low, high)
        return cls(finite(record, "value"), low, high, None if count is None else int(count))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def ends(self) -> list[float]:
        """Everything that a picture has to hold: the value and its interval, as far as they are known."""
        return [v for v in (self.value, self.low, self.high) if v is not None]

    def over(self, unit: float) -> "Rate":
        """The same in multiples of `unit`."""
        value, low, high = (None if v is None else v / unit for v in (self.value, self.low, self.high))
        return Rate(value, low, high, self.n)


def by_layer(found: Any, *keys: str, index: str = "layer") -> list[tuple[int, Rate]]:
    """Read `[{"layer": 0, "value": ...}, ...]`, sorted; without a layer the position counts."""
    rows = [(finite(row, index), place, Rate.of(row)) for place, row in enumerate(sequence(found, *keys))]
    return sorted(((place if layer is None else int(layer), rate) for layer, place, rate in rows), key=lambda p: p[0])


def at_layer(rates: list[tuple[int, Rate]], layer: float | None) -> Rate:
    """The rate of one layer; nothing measured when the layer is not among them."""
    return next((rate for number, rate in rates if number == layer), Rate(None))
