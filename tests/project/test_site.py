"""The site: built without a warning, every link leads somewhere, and in a browser nothing is wrong or fetched.

`make docs` leaves the site in `site/`; it is built here only where that is older than what it is made of.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

from refusal_plugin.defences import REGISTRY
from tests.report.browser import FLAGS, WATCH, browser

ROOT = Path(__file__).resolve().parents[2]
MADE_OF = (
    "docs",
    "refusal_plugin",
    "tutorials",
    "benchmarks/README.md",
    "mkdocs.yml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)
PARTS = ("Start", "Guides", "Methods", "Reference")
LOADS = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}
"""Elements that fetch, and with what."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    there = ROOT / "site" / "index.html"
    newest = max(
        path.stat().st_mtime
        for name in MADE_OF
        for path in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*.*"))
        if path.suffix != ".pyc"
    )
    if there.is_file() and there.stat().st_mtime > newest:
        return there.parent
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Page(HTMLParser):
    """What a page links to, what it fetches, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {str(given[name]) for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        rel = given.get("rel") or ""
        if (where := given.get(LOADS.get(tag, ""))) and not re.search(r"canonical|prev|next|alternate", rel):
            self.fetched.append(where)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """Path below the site to page."""
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlparse(link)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            where, anchor = urldefrag(urljoin(f"/{name}", link))
            path = unquote(where).lstrip("/")
            path = f"{path}index.html" if path.endswith("/") or not path else path
            if not (site / path).is_file():
                broken.append(f"{name}: {link}")
            elif anchor and path in pages and unquote(anchor) not in pages[path].anchors | {"__top"}:
                broken.append(f"{name}: no anchor {link}")
    assert len(pages) > 40 and not broken, "\n".join(sorted(set(broken))[:40])


def test_no_page_asks_for_something_from_outside(pages: dict[str, Page]) -> None:
    asked = [f"{name}: {one}" for name, page in pages.items() for one in page.fetched if urlparse(one).netloc]
    assert not asked, "\n".join(asked[:20])


def test_the_site_has_four_parts(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    tabs = re.findall(r'<span class="md-ellipsis">\s*([^<]+?)\s*</span>', text)
    assert [name for name in tabs if name in PARTS][:1] and set(PARTS) <= set(tabs)
    assert [*dict.fromkeys(name for name in tabs if name in PARTS)] == list(PARTS)


def test_the_search_knows_every_method_and_every_error(site: Path) -> None:
    found = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    words = {word for one in found["docs"] for word in re.findall(r"[\w-]+", f"{one['title']} {one['text']}".lower())}
    ours = {name for name, entry in REGISTRY.items() if not entry.switches and not entry.control}
    missing = sorted(name for name in ours if not {name, name.replace("_", "-")} & words)
    assert not missing, missing
    assert any(word.startswith("rp-") for word in words)


# Opens each page in frames of its own, wide and as narrow as a phone, and tells what it saw.
DRIVER = """<!doctype html><html><head><meta charset="utf-8"></head><body><script>
const wait = ms => new Promise(done => setTimeout(done, ms));
async function open(url, width) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = url;
  const loaded = new Promise(done => frame.onload = done);
  document.body.appendChild(frame);
  await loaded; await wait(400);
  return frame;
}
(async () => {
  const out = [];
  for (const url of PAGES) for (const width of [1200, 390]) {
    const frame = await open(url, width), page = frame.contentDocument, seen = frame.contentWindow;
    const entry = {url, width, seen: seen.seen, wide: page.documentElement.scrollWidth - width};
    entry.fetched = seen.performance.getEntriesByType("resource").map(e => e.name);
    entry.colours = [];
    for (const box of page.querySelectorAll("input[name=__palette]")) {
      box.click(); await wait(50);
      entry.colours.push(seen.getComputedStyle(page.body).backgroundColor);
    }
    out.push(entry); frame.remove();
  }
  const frame = await open("/?q=mars", 1200);
  const found = () => frame.contentDocument.querySelector(".md-search-result__item");
  for (let n = 0; n < 80 && !found(); n++) await fetch("/wait");  // the browser's own clock would not wait for a worker
  const hits = [...frame.contentDocument.querySelectorAll(".md-search-result__item")].map(e => e.textContent);
  const pre = document.createElement("pre");
  pre.id = "probe"; pre.textContent = JSON.stringify({out, hits}); document.body.appendChild(pre);
  fetch("/done");
})();
</script></body></html>"""
SEEN_IN_A_BROWSER = ("/", "/start/", "/defences/", "/methods/mars/", "/glossary/", "/errors/", "/api/heads/")


class Handler(SimpleHTTPRequestHandler):
    """The site, with the script that watches in front of every page, and the driver."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if self.path == "/wait":
            time.sleep(0.25)
        if self.path == "/driver":
            text = DRIVER.replace("PAGES", json.dumps(SEEN_IN_A_BROWSER))
        elif path.suffix == ".html" and path.is_file():
            text = path.read_text(encoding="utf-8").replace("<head>", f"<head><script>{WATCH}</script>", 1)
        else:
            return super().do_GET()
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        """Nothing."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """Where the site is served, on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@browser
def test_in_a_browser_nothing_is_wrong_fetched_from_outside_or_cut_off(address: str, tmp_path: Path) -> None:
    from html import unescape

    from tests.report.browser import CHROMIUM

    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    flags = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", offline, "--virtual-time-budget=60000", "--dump-dom"]
    command = [str(CHROMIUM), *flags, f"{address}/driver"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-800:]
    seen = json.loads(unescape(found[1]))
    assert len(seen["out"]) == 2 * len(SEEN_IN_A_BROWSER)
    for page in seen["out"]:
        assert page["seen"] == [], page
        assert all(urlparse(one).hostname == "127.0.0.1" for one in page["fetched"]), page
        assert page["wide"] <= 0, f"{page['url']} sticks out by {page['wide']} pixels at {page['width']}"
        assert len(set(page["colours"])) == 2, f"light and dark look alike: {page}"
    assert any("MARS" in hit or "mars" in hit for hit in seen["hits"]), seen["hits"][:3]
