"""CircuitsVis inside our own pages: its script once, nothing fetched, every token literal.

CircuitsVis' own `_repr_html_` asks the network on every display and prefers a CDN, and some of its views write tokens
as raw HTML. Here its script is read from the installed package and put into the page once; a view is an empty element
plus JSON, which a short starter of ours renders when its box is opened. `AttentionHeads` draws labels on a canvas, so
markup in a token stays text; the JSON is escaped so that no token can end it. The script is listed by its hash in the
page's policy like every other script. Without the package the page shows our own figures alone and says so.

CircuitsVis 1.43 is by Alan Cooney and others, MIT licence.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .filling import fill, script
from .markup import Markup, tag


def library() -> Markup | None:
    """CircuitsVis' script, ready to stand inside a page; None where the package is not installed."""
    spec = find_spec("circuitsvis")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "dist" / "cdn" / "iife.js"
        if path.is_file():
            source = path.read_text(encoding="utf-8")
            source = source.replace("</script", "<\\/script").replace("<!--", "<\\!--")
            source = source.replace("//# sourceMappingURL=iife.js.map", "")
            # One of its libraries compiles a little WebAssembly if it may, which the page's policy forbids and reports;
            # where there is none it falls back on plain numbers.
            shadowed = f"(function(WebAssembly){{{source}\nreturn CircuitsVis}})()"
            return Markup(f"/* CircuitsVis, MIT licence */var CircuitsVis={shadowed};")
    return None


def starter() -> Markup:
    """The script that opens the views of a page."""
    return script("attention.js")


def json_block(props: Any) -> Markup:
    """Data for a script, in an element that runs nothing and that no string inside can end."""
    text = json.dumps(props, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Markup(text), type="application/json")


def attention_view(
    key: str, tokens: Sequence[str], attention: Any, names: Sequence[str], *, summary: str, opened: bool = False
) -> Markup:
    """An interactive view of attention patterns that starts when it is opened.

    Args:
        key: id of the view, unique in the page.
        tokens: one label per position; shown literally.
        attention: nested lists (head, query, source).
        names: one label per head.
        summary: the line that opens the box.
        opened: whether it is open from the start.
    """
    data = json_block({"tokens": list(tokens), "attention": attention, "attentionHeadNames": list(names)})
    return fill("attention.html", key=key, summary=summary, opened=opened, data=data)
