"""One of our pages in headless Chromium: what a script saw in it, and pictures of parts of it."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found: apt-get install chromium")

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

# Runs before anything else in the page.
WATCH = """window.seen = [];
addEventListener("error", e => seen.push("error " + (e.message || e.target.src || e.target.href)), true);
addEventListener("securitypolicyviolation", e => seen.push("policy " + e.violatedDirective + " " + e.blockedURI));
for (const k of ["error", "warn"]) { console[k] = (...a) => seen.push(k + " " + a.join(" ")); }
window.alert = text => seen.push("alert " + text);"""
# Runs when the page has loaded; what the body returns is written into the document, which --dump-dom prints.
PROBE = """addEventListener("load", async () => {
  const wait = ms => new Promise(done => setTimeout(done, ms));
  const box = e => { const r = e.getBoundingClientRect(); return [Math.round(r.width), Math.round(r.height)]; };
  const fetched = () => performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
  await wait(200);
  const out = await (async () => { %s })();
  const pre = document.createElement("pre"); pre.id = "probe"; pre.textContent = JSON.stringify(out);
  pre.style.display = "none"; document.body.appendChild(pre);
});"""
# Everything is hidden that neither holds, is, nor lies inside what is kept; the kept parts stand where they stood.
KEEP = """document.documentElement.dataset.theme = %s;
  const kept = %s.flatMap(s => [...document.querySelectorAll(s)]);
  if (!kept.length) return {height: 0};
  for (const e of document.body.querySelectorAll("main, main *, .masthead, .side"))
    if (!kept.some(k => k.contains(e) || e.contains(k))) e.style.setProperty("display", "none", "important");
  kept[0].style.marginTop = 0;
  document.querySelector("main").style.padding = "24px";
  await wait(3000);
  return {height: Math.ceil(document.querySelector("main").getBoundingClientRect().bottom)};"""


def look(page: str, probe: str, folder: Path, *, width: int = 1200, height: int = 900, policy: bool = True) -> Any:
    """Open a page from a file and return what a probe saw.

    Args:
        page: the document.
        probe: body of an async JavaScript function; `box`, `fetched` and `wait` are at hand, `window.seen` holds
            errors, warnings, refused requests and alerts.
        folder: for the page and the browser's profile.
        width, height: of the window.
        policy: keep the page's security policy, with our two scripts added by their hashes; without it, escaping is
            all that holds injected markup back.
    """
    path = _prepared(page, PROBE % probe, folder, policy)
    size = f"--window-size={width},{height}"
    done = _chromium(folder, size, "--virtual-time-budget=20000", "--dump-dom", path.as_uri())
    found = re.search(r'<pre id="probe"[^>]*>(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-500:]
    return json.loads(unescape(found[1]))


def framed(page: str, width: int) -> str:
    """The page in a frame of this width, for phones: Chromium's own window is never narrower than 500 pixels."""
    frame = f'<iframe style="border:0" width="{width}" height="900" srcdoc="{escape(page, quote=True)}"></iframe>'
    return f"<!doctype html><html><head></head><body>{frame}</body></html>"


def picture(
    page: str,
    keep: Sequence[str],
    target: Path,
    folder: Path,
    *,
    width: int = 1000,
    theme: str = "light",
    most: int = 4000,
) -> Path:
    """A PNG of some parts of a page, cropped to them.

    Args:
        page: the document.
        keep: CSS selectors of the parts.
        target: the file to write.
        folder: for the page and the browser's profile.
        width: of the window.
        theme: "light" or "dark".
        most: largest height; what lies below is cut off.
    """
    script = KEEP % (json.dumps(theme), json.dumps(list(keep)))
    height = look(page, script, folder, width=width)["height"]
    assert height > 0, f"nothing on the page matches {list(keep)}"
    shot, path = folder / "shot.png", _prepared(page, PROBE % script, folder, True)
    size = f"--window-size={width},{min(height, most) + 200}"  # a window's own frame can take a part of it
    _chromium(folder, size, "--virtual-time-budget=20000", f"--screenshot={shot}", path.as_uri())
    with Image.open(shot) as drawn:
        part = drawn.convert("RGB").crop((0, 0, width, min(height, most)))
    # A third of the size at a largest error of 8 in 255; the usual median cut turns rare hues into each other.
    small = part.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(buffer.getvalue())
    return target


def _chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def _prepared(page: str, probe: str, folder: Path, policy: bool) -> Path:
    """The page with the script that watches in front of everything, and the one that reports at its end."""
    meta = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', page)
    if meta and policy:
        hashes = " ".join(f"'sha256-{_digest(script)}'" for script in (WATCH, probe))
        assert meta[0].count("script-src ") == 1
        allowed = meta[0].replace("script-src 'none'", "script-src").replace("script-src", f"script-src {hashes}")
        page = page.replace(meta[0], f"{allowed}<script>{WATCH}</script>", 1)
    else:
        page = page.replace(meta[0], "", 1) if meta else page
        page = page.replace("<head>", f"<head><script>{WATCH}</script>", 1)
    at = page.rindex("</body>")
    path = folder / "page.html"
    path.write_text(f"{page[:at]}<script>{probe}</script>{page[at:]}", encoding="utf-8")
    return path


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
