"""Markup that is safe by construction: a child is escaped unless it is already `Markup`.

Prompts, answers, model names and warnings come from elsewhere and may hold `</script>`, `<img onerror=...>` or
`<s>`. They
are shown literally: `tag` escapes every plain string, as text and as attribute value, and only `tag` and `escape` make
`Markup`. Tag and attribute names are written in this package and never come from data.
"""

import html
import math
import re
from collections.abc import Iterable

VOID = frozenset({"br", "col", "hr", "img", "link", "meta"})
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Markup(str):
    """HTML or SVG text in which everything from elsewhere is already escaped."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """The value as literal text; control characters, which HTML forbids, become U+FFFD."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_CONTROL.sub("�", str(value)), quote=True))


def join(children: Iterable[object], separator: str = "") -> Markup:
    """Children one after another: None is left out, iterables are flattened, plain strings are escaped."""
    return Markup(str(escape(separator)).join(_flatten(children)))


def _flatten(children: Iterable[object]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)):
            yield from _flatten(child)
        else:
            yield escape(child)


def number(value: float) -> str:
    """A coordinate with at most two decimals; a position that is not finite is a bug in the figure and raises."""
    if not math.isfinite(value):
        raise ValueError(f"a coordinate must be finite, found {value!r}")
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-0", "-0" if abs(value) >= 0.005 else "0", 1)


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: the tag's name.
        children: see `join`.
        attributes: `class_="a"` writes `class="a"`, `stroke_width=2` writes `stroke-width="2"`. None and False leave
        the
            attribute out, True writes it without a value, a float is written with at most two decimals.
    """
    opening = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            opening.append(attribute)
            continue
        opening.append(f'{attribute}="{number(value) if isinstance(value, float) else escape(value)}"')
    start = f"<{' '.join(opening)}>"
    return Markup(start) if name in VOID else Markup(f"{start}{join(children)}</{name}>")
