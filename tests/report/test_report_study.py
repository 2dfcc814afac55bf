"""The page of a real study in a real browser, and the pictures of the documentation, taken from it.

    pytest tests/report/test_report_study.py --study study --screenshots docs/assets        (make screenshots)

Without options: the short study that other tests look at too, and pictures that are only looked at.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from refusal_plugin.report.circuitsvis import library

from .browser import browser, look, picture

pytestmark = [browser, pytest.mark.slow]

# file -> what of the page it shows, and how wide the window is
PICTURES = {
    "study.png": ([".masthead", "h1", ".finding", ".warnings", "h2:has(+ .cards)", ".cards", ".cards + p"], 1040),
    "answers.png": (["#answers", "#answers + .prose", ".filters", ".items"], 1000),
    "strengths.png": (["#by_strength"], 1000),
    "heads.png": (["section:has(> #heads-map) > :is(h2, .prose:first-of-type)", "#heads-map"], 1000),
    "heads-agreement.png": (["#heads-agreement"], 1000),
    "heads-circuit.png": (["#heads-circuit"], 1000),
    "heads-example.png": ([".traces > .trace:nth-child(2)"], 1000),
}
PROBE = """
  await wait(2300);
  const view = document.querySelector(".cv");
  const zoomed = () => [...view.querySelectorAll("h3")].map(h => h.textContent).find(t => /Zoomed/.test(t)) || null;
  const thumbs = view ? [...view.querySelectorAll("[role=button]")] : [];
  const before = view ? zoomed() : null;
  if (thumbs.length > 1) {
    for (const type of ["mouseover", "click"]) thumbs[1].dispatchEvent(new MouseEvent(type, {bubbles: true}));
    await wait(600);
  }
  const named = e => e.getAttribute("aria-label") || e.getAttribute("aria-labelledby");
  return {
    seen: window.seen, requests: fetched(),
    before: before, clicked: view ? zoomed() : null, heads: thumbs.length,
    figures: [...document.querySelectorAll("figure")].map(f => [f.id,
      [...f.querySelectorAll("svg[role=img]")].filter(e => !e.closest("details")).map(box),
      f.querySelectorAll("table").length, Boolean(named(f))]),
    sheets: [...document.querySelectorAll("svg.sheet")].map(box),
    nameless: [...document.querySelectorAll("[role=img], [role=group], [role=region]")].filter(
      e => !named(e) && !e.closest("[aria-hidden=true]")).map(e => e.outerHTML.slice(0, 90)),
    images: [...document.querySelectorAll("img")].map(i => [i.naturalWidth, i.alt]),
    wide: document.documentElement.scrollWidth - innerWidth,
  };"""


@pytest.fixture(scope="module")
def study(request: pytest.FixtureRequest) -> Path:
    """Folder of the study that is opened."""
    given = request.config.getoption("--study", None)
    return Path(given) if given else Path(request.getfixturevalue("short_study")[0])


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return (study / "index.html").read_text(encoding="utf-8")


def test_a_study_opens_cleanly_and_answers(page: str, study: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = look(page, PROBE, tmp_path)
    assert seen["seen"] == [] and seen["requests"] == []
    assert len(seen["figures"]) >= 10
    for name, sizes, tables, named in seen["figures"]:
        assert named and tables, f"{name} has no name, or no numbers behind it"
        assert sizes and all(w > 100 and h > 40 for w, h in sizes), f"{name} is not drawn"
    assert all(w > 40 and h > 10 for w, h in seen["sheets"]) and seen["nameless"] == []
    assert all(width and words for width, words in seen["images"]), "a picture is missing, or has no words"
    assert seen["wide"] <= 0
    results = json.loads((study / "results.json").read_text(encoding="utf-8"))
    drawn = any(row.get("attention") for row in results.get("heads", {}).get("examples", []))
    if drawn and library() is not None:
        assert seen["heads"] > 1 and seen["before"] and seen["clicked"] not in (None, seen["before"])


def test_the_page_fits_its_size(page: str, study: Path) -> None:
    assert len(page.encode()) <= 4 * 1024 * 1024
    assert sorted(path.name for path in study.iterdir() if path.suffix in (".js", ".css", ".png")) == []


@pytest.mark.parametrize("name", PICTURES)
def test_the_documentations_pictures(name: str, page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.config.getoption("--screenshots", None)
    if name != "heads.png" and not folder:
        pytest.skip("only with --screenshots")
    parts, width = PICTURES[name]
    path = picture(page, parts, Path(folder or tmp_path) / name, tmp_path, width=width)
    with Image.open(path) as drawn:
        assert drawn.width == width and drawn.height > 300
        colours = drawn.convert("RGB").getcolors(1 << 20)
        assert colours is None or len(colours) > 60, "the picture is nearly empty"
        bottom = drawn.convert("L").crop((0, drawn.height - 60, width, drawn.height))
        assert bottom.getextrema()[0] < 250, "cut below the chapter's end"
