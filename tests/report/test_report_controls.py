"""Every control of the page in a real browser: it changes what it says it changes, and nothing asks the network."""

import re
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.report import render

from .browser import browser, look
from .fixture import CHOSEN, LAYERS, SHOWN, fake_results

pytestmark = browser

PROBE = """
  const all = (what, where) => [...(where || document).querySelectorAll(what)];
  const one = (what, where) => (where || document).querySelector(what);
  const shown = e => e.checkVisibility() && getComputedStyle(e).display !== "none";
  const fire = (e, type) => e.dispatchEvent(new Event(type, {bubbles: true}));
  const set = (input, value, type) => { input.value = value; fire(input, type || "input"); };
  const out = {};

  const layers = all("input[data-slides=layer]"), panel = one("#auroc .panel"), swarm = one("#projection .panel");
  const state = () => ({
    words: one(".readout", panel).textContent, line: one("line.cursor", panel).getAttribute("x1"),
    dots: all("circle[data-by]", swarm).map(c => c.getAttribute("cx")),
    row: one("#heads-map rect.cursor").getAttribute("y"),
    said: layers.map(l => l.getAttribute("aria-valuetext")), stops: layers.map(l => l.value),
  });
  out.layers = [state()];
  set(layers[1], "0"); out.layers.push(state());
  set(layers[0], layers[0].max); out.layers.push(state());

  const slider = one("input[data-slides=strength]"), curve = one("#by_strength .panel");
  const strength = () => [one(".readout", curve).textContent, one("line.cursor", curve).getAttribute("x1")];
  out.strength = [strength()]; set(slider, "0"); out.strength.push(strength());

  const audio = one("[data-toggles=audio]"), seen = name => all(`[data-modality=${name}]`).filter(shown).length;
  out.audio = [seen("audio")]; audio.click(); out.audio.push(seen("audio")); out.text = seen("text");
  audio.click(); out.audio.push(seen("audio"));

  const items = () => all(".item").filter(shown);
  const choose = (key, value) => {
    set(one(`[data-filter=${key}]`), value);
    return items().map(i => ({...i.dataset}));
  };
  out.every = items().length; out.counted = one(".filters .count").textContent;
  out.chosen = {};
  for (const value of ["changed", "refused", "answered"]) out.chosen[value] = choose("marks", value);
  choose("marks", "");
  out.role = choose("role", "near_miss"); out.both = choose("after", "refusal");
  choose("role", ""); choose("after", "");
  out.words = choose("words", "number 7").length;

  const point = all("#projection a[href]")[5], id = point.getAttribute("href").slice(1);
  point.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true})); await wait(300);
  const opened = document.getElementById(id);
  out.opened = [opened.open, shown(opened), document.activeElement === one("summary", opened),
    one("dd", opened).textContent, id];
  choose("words", "");
  const first = one(".item[data-modality=image]"); first.open = true;
  out.medium = [all("img", first).length, all("audio", first).length];

  const head = one("#rates table thead th:nth-child(2)"), key = one("button", head);
  one("#rates details").open = true;
  const column = () => all("#rates tbody tr").map(r => r.cells[1].textContent);
  key.focus(); out.focus = document.activeElement === key;
  key.click(); out.up = column(); out.sorted = [head.getAttribute("aria-sort")];
  key.click(); out.down = column(); out.sorted.push(head.getAttribute("aria-sort"));

  // Reading a blob back takes real time, which the browser's virtual clock does not wait for.
  const made = [], Real = Blob;
  window.Blob = function (parts, kind) { made.push(parts[0]); return new Real(parts, kind); };
  const stop = event => { if (event.target.download) event.preventDefault(); };
  addEventListener("click", stop);
  const links = all("#rates .tools a"); links[0].click(); links[1].click();
  out.files = made;
  out.names = [links[0].download, links[1].download];

  out.contents = all(".side ol a").map(a => [a.textContent, Boolean(document.getElementById(a.hash.slice(1)))]);
  out.current = all(".side [aria-current]").length;
  out.nameless = all("input, select, button").filter(e => shown(e) && !e.labels?.length && !e.getAttribute("aria-label")
    && !e.textContent.trim()).map(e => e.outerHTML.slice(0, 90));
  return {...out, seen: window.seen, requests: fetched().filter(n => !n.startsWith("blob:"))};"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = look(render(fake_results()), PROBE, tmp_path_factory.mktemp("controls"))
    return found


def test_nothing_goes_wrong_and_nothing_leaves_the_page(seen: dict[str, Any]) -> None:
    assert seen["seen"] == [] and seen["requests"] == [] and seen["nameless"] == []


def test_the_layer_slider_moves_auroc_projection_and_heads(seen: dict[str, Any]) -> None:
    start, low, high = seen["layers"]
    assert f"layer {CHOSEN}:" in start["words"] and "layer 0:" in low["words"]
    assert len({state["words"] for state in (start, low, high)}) == 3
    assert float(low["line"]) < float(start["line"]) < float(high["line"])
    assert len(start["dots"]) == 3 * SHOWN and low["dots"] != start["dots"]
    assert float(low["row"]) > float(start["row"]), "layers grow upwards"
    assert set(low["said"]) == {"layer 0"} and set(high["stops"]) == {str(LAYERS - 1)}, "all sliders move together"


def test_the_strength_slider_shows_the_gain_and_its_price(seen: dict[str, Any]) -> None:
    (start, at), (low, zero) = seen["strength"]
    assert "strength 0.5:" in start and "strength 0:" in low and float(zero) < float(at)
    assert all(re.search(r"harmful [\d.]+%.*n = 40, harmless [\d.]+%.*n = 80", words) for words in (start, low))


def test_a_modality_is_taken_away_and_comes_back(seen: dict[str, Any]) -> None:
    before, without, after = seen["audio"]
    assert before > 20 and without == 0 and after == before and seen["text"] > 20


def test_answers_are_filtered_by_what_was_asked(seen: dict[str, Any]) -> None:
    assert seen["every"] == 4 * 3 * SHOWN and seen["counted"] == f"{seen['every']} of {seen['every']} answers"
    chosen = seen["chosen"]
    assert chosen["changed"] and all(item["before"] != item["after"] for item in chosen["changed"])
    assert chosen["refused"] and all(i["role"] != "harmful" and i["after"] == "refusal" for i in chosen["refused"])
    assert chosen["answered"] and all(i["role"] == "harmful" and i["after"] == "compliance" for i in chosen["answered"])
    assert len(seen["role"]) == 4 * SHOWN and 0 < len(seen["both"]) < len(seen["role"])
    assert seen["words"] == 4 * 3


def test_a_point_opens_its_item_whatever_is_filtered(seen: dict[str, Any]) -> None:
    opened, visible, focused, said, _ = seen["opened"]
    assert opened and visible and focused and said.startswith("how do i do this number")
    assert seen["medium"] == [1, 0]


def test_tables_are_sorted_by_number_both_ways_and_by_keyboard(seen: dict[str, Any]) -> None:
    values = [float(said.split("%")[0]) for said in seen["up"] if said]
    assert seen["focus"] and values == sorted(values) and len(set(values)) > 2
    falling = [float(said.split("%")[0]) for said in seen["down"] if said]
    assert falling == sorted(values, reverse=True) and seen["sorted"] == ["ascending", "descending"]


def test_numbers_and_drawings_can_be_taken_away(seen: dict[str, Any]) -> None:
    numbers, drawing = seen["files"]
    assert seen["names"] == ["rates.csv", "rates-1.svg"]
    assert numbers.count("\r\n") >= 16 and '"100.0% [' in numbers and "−" not in numbers
    assert drawing.startswith("<svg") and "var(--" not in drawing and 'xmlns="http://www.w3.org/2000/svg"' in drawing


def test_the_contents_lead_to_chapters_that_are_there(seen: dict[str, Any]) -> None:
    assert len(seen["contents"]) >= 8 and all(there for _, there in seen["contents"]) and seen["current"] == 1


def test_without_the_script_the_page_is_whole(tmp_path: Path) -> None:
    page = render(fake_results())
    for control in ('class="slide"', 'class="toggle"', 'class="filters"'):
        assert all(" hidden" in tag for tag in re.findall(rf"<[^>]*{control}[^>]*>", page)) and control in page
    assert page.count('<details class="item"') == 4 * 3 * SHOWN
    old = fake_results()
    for modality in old["modalities"].values():
        del modality["by_strength"]
    del old["items"]
    page = render(old)
    assert 'class="items"' not in page and 'id="by_strength"' not in page and page.count('cx="') > 500
