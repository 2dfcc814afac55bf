"""Numbers as words: one function writes a number into a mark and into the table behind it, so they cannot differ.

Nothing is computed here. What could not be measured says so, or is a dash where there is no room.
"""

from collections.abc import Iterable

from .records import Rate

NOT_MEASURED = "not measured"
MINUS = "\u2212"
DASH = "\u2013"
FEW = 40
"""Sample size up to which a share is written as a count: 92 % of 12 items reads surer than 11 of 12 is."""


def signed(text: str) -> str:
    """The same number with a real minus sign, and without the sign of a rounded zero."""
    if text.startswith("-"):
        return text[1:] if not text[1:].strip("0.%") else MINUS + text[1:]
    return text


def percent(value: float | None, digits: int = 0, *, missing: str = DASH) -> str:
    """0.437 -> "44%"."""
    return missing if value is None else signed(f"{100 * value:.{digits}f}%")


def decimal(value: float | None, digits: int = 2) -> str:
    """0.4371 -> "0.44"."""
    return DASH if value is None else signed(f"{value:.{digits}f}")


def significant(value: float | None) -> str:
    """Three significant digits without an exponent where that stays short."""
    if value is None:
        return DASH
    plain = value == 0 or 1e-3 <= abs(value) < 1e6
    return signed(f"{value:.3g}" if abs(value) < 1000 or not plain else f"{value:.0f}")


def whole(value: float | None) -> str:
    """A count: 71.0 -> "71"; "?" when it is missing."""
    return "?" if value is None else f"{value:.0f}"


def counted(value: float | None, n: int | None, *, missing: str = DASH) -> str:
    """A share of few items as a count, "11 of 12"; of many, or of an unknown number, in percent."""
    hits = 0.0 if value is None or n is None else value * n
    if value is None or n is None or n > FEW or abs(hits - round(hits)) > 0.05:
        return percent(value, missing=missing)
    return f"{hits:.0f} of {n}"


def share(rate: Rate) -> str:
    """A rate with its interval and sample size: "43.7% [32.1, 55.3], n = 71"."""
    return short_share(rate) + ("" if rate.value is None or rate.n is None else f", n = {rate.n}")


def short_share(rate: Rate) -> str:
    """The same without the sample size, for tables whose caption names it: "43.7% [32.1, 55.3]"."""
    return NOT_MEASURED if rate.value is None else percent(rate.value, 1) + _interval(rate, 100, 1)


def sample(rates: Iterable[Rate]) -> str:
    """How many items stand behind some rates: "n = 71", "n = 60 to 71"; empty where nobody knows."""
    sizes = sorted({rate.n for rate in rates if rate.n is not None and rate.value is not None})
    return "" if not sizes else f"n = {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")


def scalar(rate: Rate, digits: int = 2) -> str:
    """A coefficient with its interval: "0.98 [0.96, 0.99]"."""
    return NOT_MEASURED if rate.value is None else decimal(rate.value, digits) + _interval(rate, 1, digits)


def points(rate: Rate) -> str:
    """A difference of rates in percentage points: "+43.6 points [32.0, 56.1]"."""
    return NOT_MEASURED if rate.value is None else change(rate.value, 1) + _interval(rate, 100, 1)


def change(value: float | None, digits: int = 0, *, missing: str = NOT_MEASURED) -> str:
    """The same without its interval, in whole points: "+44 points"."""
    if value is None:
        return missing
    plus = "+" if round(100 * value, digits) > 0 else ""
    return f"{plus}{decimal(100 * value, digits)} points"


def _interval(rate: Rate, factor: float, digits: int) -> str:
    found = rate.interval
    return "" if found is None else f" [{decimal(factor * found[0], digits)}, {decimal(factor * found[1], digits)}]"
