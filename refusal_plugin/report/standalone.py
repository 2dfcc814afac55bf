"""A circuit outside a page: one SVG or PNG for a paper, and one page that holds everything.

An SVG by itself has no stylesheet and few programs know CSS variables: colours are written out as the light theme has
them, and text sizes stand in `templates/standalone.svg`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ..errors import OptionalDependencyError
from .circuitsvis import attention_view, library, starter
from .figures.heads_circuit import circuit_panels
from .filling import fill
from .markup import Markup, join
from .page import document
from .palette import COLOURS

COLUMNS = 2
PNG_ZOOM = 3
"""Pixels per user unit: 300 to the inch where a panel is 9 cm wide."""


def circuit_svg(record: Mapping[str, Any]) -> str:
    """The graph of every modality side by side, as a document of its own."""
    panels, x, y, deepest = [], 0, 0, 0
    for place, panel in enumerate(circuit_panels(record)):
        x = place % COLUMNS * 450
        y, deepest = (y + deepest, 0) if place and not x else (y, deepest)
        height = float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', panel.drawing)[0])
        deepest = max(deepest, round(height) + 40)
        panels.append((panel, x, y, height))
    width = 420 + 450 * (min(COLUMNS, len(panels)) - 1)
    drawn = str(fill("standalone.svg", panels=panels, width=width, height=y + deepest))
    return re.sub(r"var\(--rp-([\w-]+)\)", lambda m: _light(m[1]), drawn)


def _light(name: str) -> str:
    return COLOURS.get(name, COLOURS.get(name.replace("-", "_"), COLOURS["ink"]))[0]


def circuit_png(record: Mapping[str, Any]) -> bytes:
    """The same as pixels, by resvg.

    Raises:
        OptionalDependencyError: `resvg_py` is not installed.
    """
    if find_spec("resvg_py") is None:
        raise OptionalDependencyError("draw a PNG", "resvg_py is not installed", "pip install resvg_py, or save .svg")
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=circuit_svg(record), zoom=PNG_ZOOM))


def circuit_page(title: str, results: Iterable[Any], views: Sequence[tuple[str, Any, Any, Any]]) -> str:
    """A page of results as a notebook shows them, and of attention by CircuitsVis where it is installed.

    Args:
        title: of the page.
        results: with `_repr_html_`.
        views: (summary, tokens, attention, names of heads) of every prompt.
    """
    shown, source = [Markup(result._repr_html_()) for result in results], library() if views else None
    for place, (said, tokens, attention, names) in enumerate(views if source else ()):
        shown.append(attention_view(f"attention-{place}", tokens, attention, names, summary=said, opened=not place))
    return document("attention_page.html", title, [source, starter()] if source else [], view=join(shown))
