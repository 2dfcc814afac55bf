"""The page in a real browser: no error, no request, every figure visible, nothing cut off on a phone."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.report import render

from .fixture import fake_results, hostile_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found: apt-get install chromium")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
]

# Runs first in the page; what it saw is written into the document, which --dump-dom prints.
WATCH = """<script>
window.seen = [];
addEventListener("error", e => seen.push("error " + (e.message || e.target.src || e.target.href)), true);
addEventListener("securitypolicyviolation", e => seen.push("request " + e.blockedURI));
for (const k of ["error", "warn"]) { console[k] = (...a) => seen.push(k + " " + a.join(" ")); }
window.alert = text => seen.push("alert " + text);
</script>"""
REPORT = """<script>
addEventListener("load", () => setTimeout(() => {
  const box = e => { const r = e.getBoundingClientRect(); return [Math.round(r.width), Math.round(r.height)]; };
  const theme = getComputedStyle(document.body).backgroundColor;
  const button = [...document.querySelectorAll("button")].find(b => /theme/i.test(b.textContent + b.title));
  if (button) button.click();
  const out = {
    seen: window.seen,
    figures: [...document.querySelectorAll("figure svg[role=img]")].map(box),
    images: [...document.querySelectorAll("img")].map(i => i.naturalWidth),
    wide: document.documentElement.scrollWidth - innerWidth,
    requests: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    themes: [theme, getComputedStyle(document.body).backgroundColor],
    text: document.body.innerText.length,
  };
  const pre = document.createElement("pre"); pre.id = "probe"; pre.textContent = JSON.stringify(out);
  document.body.appendChild(pre);
}, 200));
</script>"""


def look(results: dict[str, Any], folder: Path, width: int, height: int = 900) -> dict[str, Any]:
    """Open the page from a file and return what the probe saw."""
    # The page's own policy forbids every script but its own, the probe's too: it is taken off for the look, so
    # that what is
    # left to hold injected markup back is the escaping alone.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render(results), count=1)
    page = page.replace("<head>", "<head>" + WATCH, 1).replace("</body>", REPORT + "</body>", 1)
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},{height}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-500:]
    return dict(json.loads(unescape(found[1])))


@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_opens_cleanly(tmp_path: Path, width: int) -> None:
    seen = look(fake_results(), tmp_path, width)
    assert seen["seen"] == []
    assert seen["requests"] == []
    assert len(seen["figures"]) >= 5 and all(w > 100 and h > 40 for w, h in seen["figures"])
    assert seen["images"] and all(seen["images"])
    assert seen["wide"] <= 0, "something sticks out to the right"
    assert seen["themes"][0] != seen["themes"][1], "the theme button changes nothing"


def test_hostile_prompts_stay_text(tmp_path: Path) -> None:
    seen = look(hostile_results(), tmp_path, 1000)
    assert seen["seen"] == [] and seen["requests"] == []
