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

from refusal_plugin.report.markup import Markup, tag

STARTER = Markup("""(function () {
  var words = "attention pattern of the head named above, from each token (row) to the tokens before it (column); " +
    "what the last token attends to stands in the table of numbers";
  function say(view) {
    view.querySelectorAll("canvas").forEach(function (drawn) {
      if (drawn.closest("[role=button]")) { drawn.setAttribute("aria-hidden", "true"); return; }
      drawn.setAttribute("role", "img");
      drawn.setAttribute("aria-label", words);
    });
  }
  function start(box) {
    var view = box.querySelector(".cv");
    if (!view || view.dataset.done || typeof CircuitsVis === "undefined") return;
    view.dataset.done = "1";
    var props = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    CircuitsVis.render(view.id, CircuitsVis.AttentionHeads, props);
    new MutationObserver(function () { say(view); }).observe(view, {childList: true, subtree: true});
    var tries = 0, timer = setInterval(function () {
      var names = view.querySelectorAll("h4");
      if (!names.length && ++tries < 50) return;
      clearInterval(timer);
      names.forEach(function (name) {
        var thumb = name.parentElement, whole = thumb.parentElement;
        if (!thumb.querySelector("canvas") || thumb.offsetWidth > 140) return;
        thumb.tabIndex = 0;
        thumb.querySelector("canvas").removeAttribute("role");
        thumb.setAttribute("role", "button");
        thumb.setAttribute("aria-label", "show the attention of head " + name.textContent);
        thumb.addEventListener("keydown", function (event) {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          (whole || thumb).dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
          thumb.dispatchEvent(new MouseEvent("click", {bubbles: true}));
        });
      });
      say(view);
    }, 60);
  }
  document.querySelectorAll("details.attention").forEach(function (box) {
    box.addEventListener("toggle", function () { if (box.open) start(box); });
    if (box.open) start(box);
  });
})();""")


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
    # The position goes into the label: on a canvas nothing else tells two equal words apart.
    props = {"tokens": list(tokens), "attention": attention, "attentionHeadNames": list(names)}
    note = "Point at a small map, or reach it with the tab key and press Enter; a click keeps it."
    return tag(
        "details",
        tag("summary", summary),
        tag("p", note, class_="note"),
        tag("div", id=key, class_="cv", role="group", aria_label=summary),
        json_block(props),
        class_="attention",
        open=opened,
    )
