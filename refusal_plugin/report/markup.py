"""Markup that is safe by construction: a child is escaped unless it is already `Markup`.

Prompts, answers, model names and warnings come from elsewhere and may hold `</script>`, `<img onerror=...>` or `<s>`.
They are shown literally: the templates escape every value that they print, `tag` every string it is given, and nothing
but these two makes `Markup`. Tag and attribute names are written in this package and never come from data.
"""

import math
import re
from collections.abc import Iterable

from markupsafe import Markup
from markupsafe import escape as _escape

__all__ = ["Markup", "escape", "join", "number", "printable", "tag"]
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def printable(value: object) -> object:
    """The value as a template prints it: None as nothing, control characters, which HTML forbids, as U+FFFD."""
    if value is None:
        return ""
    return _CONTROL.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value


def escape(value: object) -> Markup:
    """The value as literal text."""
    return _escape(printable(value if isinstance(value, str) else str(value)))


def join(children: Iterable[object]) -> Markup:
    """Children one after another: None is left out, lists are flattened, plain strings are escaped."""
    return Markup("".join(_flatten(children)))


def _flatten(children: Iterable[object]) -> Iterable[str]:
    for child in children:
        if isinstance(child, (list, tuple)):
            yield from _flatten(child)
        elif child is not None:
            yield escape(child)


def number(value: float) -> str:
    """A coordinate with at most two decimals; a position that is not finite is a bug in the figure and raises."""
    if not math.isfinite(value):
        raise ValueError(f"a coordinate must be finite, found {value!r}")
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-0", "-0" if abs(value) >= 0.005 else "0", 1)


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element of SVG.

    Args:
        name: the tag's name.
        children: see `join`.
        attributes: `class_="a"` writes `class="a"`, `stroke_width=2` writes `stroke-width="2"`. None leaves the
            attribute out; a float is written with at most two decimals.
    """
    opening = [name]
    for key, value in attributes.items():
        if value is not None:
            said = number(value) if isinstance(value, float) else escape(value)
            opening.append(f'{key.rstrip("_").replace("_", "-")}="{said}"')
    return Markup(f"<{' '.join(opening)}>{join(children)}</{name}>")
