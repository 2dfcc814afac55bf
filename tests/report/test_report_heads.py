"""The chapter on heads in a real browser, under the page's own policy: pictures, clicks, keys, hostile tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.report import render
from refusal_plugin.report.circuitsvis import json_block, library

from .browser import browser, look
from .fixture import HOSTILE, fake_results, hostile_results

scripted = pytest.mark.skipif(library() is None, reason="circuitsvis is not installed: no interactive attention")

PROBE = """
  await wait(2300);
  const view = document.querySelector(".cv");
  const titles = () => view ? [...view.querySelectorAll("h3")].map(h => h.textContent) : [];
  const zoomed = () => titles().find(t => /Zoomed/.test(t)) || null;
  const thumbs = view ? [...view.querySelectorAll("[role=button]")] : [];
  const before = zoomed();
  const fire = (e, type, extra) => e.dispatchEvent(new (type.startsWith("key") ? KeyboardEvent : MouseEvent)(
    type, {bubbles: true, ...extra}));
  let clicked = null, keyed = null;
  if (thumbs.length > 2) {
    fire(thumbs[1], "mouseover"); fire(thumbs[1], "click"); await wait(600); clicked = zoomed();
    fire(thumbs[1], "click"); await wait(300);
    thumbs[2].focus(); fire(thumbs[2], "keydown", {key: "Enter"}); await wait(600); keyed = zoomed();
  }
  const ink = view ? [...view.querySelectorAll("canvas")].map(c => {
    const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }) : [];
  const closed = [...document.querySelectorAll("details.attention")].slice(1);
  if (closed.length) { closed[0].querySelector("summary").click(); await wait(1500); }
  return {
    seen: window.seen, before, clicked, keyed, ink, focusable: thumbs.map(t => t.tabIndex),
    labels: thumbs.map(t => t.getAttribute("aria-label")),
    opened: closed.length ? closed[0].querySelectorAll("canvas").length : null,
    figures: [...document.querySelectorAll("[id^=heads-] svg[role=img]")].filter(e => !e.closest("details")).map(box),
    sheets: [...document.querySelectorAll("svg.sheet")].map(box),
    tokens: [...document.querySelectorAll(".tokens .tok")].map(t => t.textContent).slice(0, 6),
    foreign: document.querySelectorAll(".trace img, .trace s, .cv img, .cv s").length,
    wide: document.documentElement.scrollWidth - innerWidth,
    requests: fetched(),
  };"""


NOTEBOOK = """await wait(3000);
  return {seen: window.seen, requests: fetched(), canvases: document.querySelectorAll("canvas").length};"""


@browser
@scripted
@pytest.mark.parametrize("width", [1200, 500])
def test_attention_answers_to_clicks_and_keys(tmp_path: Path, width: int) -> None:
    seen = look(render(fake_results()), PROBE, tmp_path, width=width)
    assert seen["seen"] == [] and seen["requests"] == []
    assert seen["before"] and seen["clicked"] and seen["keyed"]
    assert len({seen["before"], seen["clicked"], seen["keyed"]}) == 3
    assert len(seen["focusable"]) == 3 and all(index == 0 for index in seen["focusable"])
    assert all("attention of head" in label for label in seen["labels"])
    assert seen["ink"] and all(seen["ink"]), "a canvas is blank"
    assert seen["opened"], "a closed view draws when it is opened"
    assert len(seen["figures"]) >= 10 and all(w > 100 and h > 40 for w, h in seen["figures"])
    assert seen["sheets"] and all(w > 40 and h > 10 for w, h in seen["sheets"])
    assert seen["wide"] <= 0, "something sticks out to the right"


@browser
def test_hostile_tokens_stay_text(tmp_path: Path) -> None:
    seen = look(render(hostile_results()), PROBE, tmp_path)
    assert seen["seen"] == [] and seen["requests"] == []
    assert seen["foreign"] == 0
    assert all("</script><img src=x onerror" in token for token in seen["tokens"])


def test_without_circuitsvis_the_figures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    import refusal_plugin.report.heads as chapter

    monkeypatch.setattr(chapter, "library", lambda: None)
    page = render(fake_results())
    assert 'details class="attention"' not in page and "CircuitsVis" not in page
    assert 'id="heads-map"' in page and 'id="heads-circuit"' in page


def test_a_study_without_heads_has_no_chapter() -> None:
    results = fake_results()
    del results["heads"]
    assert "Which heads write refusal" not in render(results)
    results["heads"] = {"missing": "no attention <here>"}
    assert "no attention &lt;here&gt;" in render(results)


def test_data_cannot_end_its_script() -> None:
    block = str(json_block({"tokens": [HOSTILE, "<!--", "\u2028"]}))
    inside = block.removeprefix('<script type="application/json">').removesuffix("</script>")
    assert "<" not in inside and ">" not in inside and "\u2028" not in inside
    assert json.loads(inside)["tokens"][0] == HOSTILE


@browser
@scripted
def test_the_notebook_view_is_a_page_of_its_own(tmp_path: Path, organism: Any) -> None:
    from refusal_plugin.heads import AttentionView, attribute_sources
    from refusal_plugin.models import anatomy
    from refusal_plugin.prompts import Prompt

    direction = (__import__("torch").ones(anatomy(organism).d_model), 1)
    found = attribute_sources(
        organism,
        direction,
        [Prompt("how do i bake the bread ?")],
        [(0, 0), (1, 1)],
        keep_attention=True,
        progress=False,
    )
    view = AttentionView(found)
    assert "connect-src" not in view.page and "default-src 'none'" in view.page
    assert view._repr_html_().startswith("<iframe") and "<script" not in view._repr_html_()
    path = view.save(tmp_path / "attention.html")
    seen = look(path.read_text(encoding="utf-8"), NOTEBOOK, tmp_path)
    assert seen["seen"] == [] and seen["requests"] == [] and seen["canvases"] >= 3
    plain = attribute_sources(organism, direction, [Prompt("how do i bake the bread ?")], [(0, 0)], progress=False)
    with pytest.raises(ValueError, match="keep_attention"):
        AttentionView(plain)
    with pytest.raises(ValueError, match="there are 1"):
        AttentionView(found, 3)
