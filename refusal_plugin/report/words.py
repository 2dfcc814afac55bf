"""Numbers as words: reading `{"value", "low", "high", "n"}` and formatting it. Nothing is computed here.

The same function writes a number into a figure's mark and into the table behind it, so the two cannot differ.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_MEASURED = "not measured"
MINUS = "\u2212"


@dataclass(frozen=True)
class Rate:
    """A value with its 95 % interval and sample size; None where it could not be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, found: Any) -> "Rate":
        """Read a rate from JSON; anything missing, null or not finite becomes None."""
        if not isinstance(found, Mapping):
            return cls(finite(found))
        count = finite(found.get("n"))
        low, high = finite(found.get("low")), finite(found.get("high"))
        both = low is not None and high is not None
        return cls(
            finite(found.get("value")),
            low if both else None,
            high if both else None,
            None if count is None else int(count),
        )


def finite(found: Any) -> float | None:
    """The number, or None when it is missing, not a number or not finite."""
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        return None
    return float(found)


def mapping(found: Any) -> Mapping[str, Any]:
    """The mapping, or an empty one when the section is missing or null."""
    return found if isinstance(found, Mapping) else {}


def sequence(found: Any) -> list[Any]:
    """The list, or an empty one when the section is missing or null."""
    return list(found) if isinstance(found, (list, tuple)) else []


def signed(text: str) -> str:
    """The same number with a real minus sign, and without the sign of a rounded zero."""
    if text.startswith("-"):
        return text[1:] if not text[1:].strip("0.%") else MINUS + text[1:]
    return text


def percent(value: float | None, digits: int = 0) -> str:
    """0.437 -> "44%"."""
    return "\u2013" if value is None else signed(f"{100 * value:.{digits}f}%")


def decimal(value: float | None, digits: int = 2) -> str:
    """0.4371 -> "0.44"."""
    return "\u2013" if value is None else signed(f"{value:.{digits}f}")


def significant(value: float | None) -> str:
    """Three significant digits without an exponent where that stays short."""
    if value is None:
        return "\u2013"
    plain = value == 0 or 1e-3 <= abs(value) < 1e6
    return signed(f"{value:.3g}" if abs(value) < 1000 or not plain else f"{value:.0f}")


def share(rate: Rate) -> str:
    """A rate with its interval and sample size: "43.7% [32.1, 55.3], n = 71"."""
    if rate.value is None:
        return NOT_MEASURED
    interval = "" if rate.low is None else f" [{decimal(100 * rate.low, 1)}, {decimal(100 * (rate.high or 0), 1)}]"
    return percent(rate.value, 1) + interval + ("" if rate.n is None else f", n = {rate.n}")


def short_share(rate: Rate) -> str:
    """The same without the sample size, for tables whose caption names it: "43.7% [32.1, 55.3]"."""
    return share(rate).partition(", n =")[0]


def scalar(rate: Rate, digits: int = 2) -> str:
    """A strength with its interval: "0.98 [0.96, 0.99]"."""
    if rate.value is None:
        return NOT_MEASURED
    interval = "" if rate.low is None else f" [{decimal(rate.low, digits)}, {decimal(rate.high, digits)}]"
    return decimal(rate.value, digits) + interval


def points(rate: Rate) -> str:
    """A difference of rates in percentage points: "+43.6 points [32.0, 56.1]"."""
    if rate.value is None:
        return NOT_MEASURED
    plus = "+" if round(100 * rate.value, 1) > 0 else ""
    interval = "" if rate.low is None else f" [{decimal(100 * rate.low, 1)}, {decimal(100 * (rate.high or 0), 1)}]"
    return f"{plus}{decimal(100 * rate.value, 1)} points{interval}"
