"""The page in a real browser: no error, no request, every figure visible, nothing cut off on a phone."""

from pathlib import Path

import pytest

from refusal_plugin.report import render

from .browser import browser, framed, look
from .fixture import fake_results, hostile_results

pytestmark = browser

REPORT = """
  const theme = getComputedStyle(document.body).backgroundColor;
  const button = [...document.querySelectorAll("button")].find(b => /theme/i.test(b.textContent + b.title));
  if (button) button.click();
  return {
    seen: window.seen,
    figures: [...document.querySelectorAll("figure svg[role=img]")].filter(e => !e.closest("details")).map(box),
    images: [...document.querySelectorAll("img")].map(i => i.naturalWidth),
    wide: document.documentElement.scrollWidth - innerWidth,
    requests: fetched(),
    themes: [theme, getComputedStyle(document.body).backgroundColor],
  };"""
PHONE = """
  await wait(1500);
  const inside = document.querySelector("iframe").contentDocument;
  const shown = e => e.checkVisibility() && !e.closest(".scroll, .cv, svg");
  const all = [...inside.querySelectorAll("main *")].filter(shown);
  const broad = all.filter(e => e.getBoundingClientRect().right > 361);
  return {
    seen: window.seen, requests: fetched(),
    wide: inside.documentElement.scrollWidth - 360,
    out: broad.map(e => e.tagName + "." + e.className + " " + e.textContent.slice(0, 40)),
    figures: [...inside.querySelectorAll("figure svg[role=img]")].filter(e => e.checkVisibility()).map(box),
  };"""


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_opens_cleanly(tmp_path: Path, width: int) -> None:
    # Without the page's own policy: what is left to hold injected markup back is the escaping alone.
    seen = look(render(fake_results()), REPORT, tmp_path, width=width, policy=False)
    assert seen["seen"] == []
    assert seen["requests"] == []
    assert len(seen["figures"]) >= 5 and all(w > 100 and h > 40 for w, h in seen["figures"])
    assert seen["images"] and all(seen["images"])
    assert seen["wide"] <= 0, "something sticks out to the right"
    assert seen["themes"][0] != seen["themes"][1], "the theme button changes nothing"


def test_nothing_is_cut_off_on_a_phone(tmp_path: Path) -> None:
    seen = look(framed(render(fake_results()), 360), PHONE, tmp_path)
    assert seen["seen"] == [] and seen["requests"] == []
    assert seen["wide"] <= 0 and seen["out"] == []
    assert len(seen["figures"]) >= 5 and all(w > 100 and h > 40 for w, h in seen["figures"])


def test_hostile_prompts_stay_text(tmp_path: Path) -> None:
    seen = look(render(hostile_results()), REPORT, tmp_path, width=1000, policy=False)
    assert seen["seen"] == [] and seen["requests"] == []
