"""The page: whole, self-contained, escaped, and every figure with its numbers beside it."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.report import html_table, render, write
from refusal_plugin.report.circuitsvis import library

from .fixture import fake_results, hostile_results, null_results

VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
SELF_CLOSED = {"circle", "line", "path", "polygon", "polyline", "rect", "use"}


class Reader(HTMLParser):
    """Checks nesting and gathers what the tests ask for."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.count: dict[str, int] = {}
        self.figures: list[dict[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.links.append(str(value))
            assert not name.startswith("on"), f"an event handler in the markup: {name}"
        if tag == "figure":
            self.figures.append({"svg": 0, "table": 0, "title": 0})
        for figure in self.figures[-1:] if "figure" in self.open else []:
            if tag in figure:
                figure[tag] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open, f"never closed: {reader.open}"
    return reader


@pytest.fixture(scope="module")
def page() -> str:
    return render(fake_results())


@pytest.mark.parametrize("results", [fake_results(), fake_results(("text",)), null_results(), hostile_results()])
def test_every_variant_is_one_well_formed_page(results: dict[str, Any]) -> None:
    reader = read(render(results))
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.count["h1"] == 1 and reader.count["title"] >= 1


def test_nothing_is_fetched(page: str) -> None:
    """No address of another machine anywhere but the namespace of SVG; every source is data or an anchor."""
    # CircuitsVis' script names addresses in its messages; that it asks none of them, the browser tests see.
    page = page.replace(str(library() or "-"), "")
    assert re.findall(r"https?://[^\s\"'<]+", page.replace("http://www.w3.org/2000/svg", "")) == []
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy and "default-src 'none'" in policy[1] and "'unsafe-eval'" not in policy[1]
    assert "@import" not in page and "url(" not in page
    assert all(link.startswith(("data:", "#")) for link in read(page).links)


def test_every_figure_has_a_picture_a_title_and_its_numbers(page: str) -> None:
    figures = read(page).figures
    assert len(figures) >= 5
    assert all(figure["svg"] and figure["table"] and figure["title"] for figure in figures)


def test_the_tables_hold_the_numbers_of_the_results(page: str) -> None:
    results = fake_results()
    said = " ".join(read(page).text)
    for record in results["modalities"].values():
        for arm in ("none", "addition"):
            value = record["defences"][arm]["harmful_refusal"]["value"]
            assert re.search(rf"\b{100 * value:.0f}(\.\d)?\s?%", said)
    for row in results["direction"]["table"]:
        assert f"{abs(row['bypass']):.2g}".rstrip("0").rstrip(".") in said


def test_what_a_prompt_holds_is_shown_and_never_run() -> None:
    hostile = hostile_results()
    rendered = render(hostile)
    plain = read(render(fake_results())).count
    reader = read(rendered)
    assert reader.count.get("script") == plain.get("script")
    assert reader.count.get("img", 0) <= plain.get("img", 0)
    assert "<s>" not in rendered.replace(str(library() or "-"), "")
    said = "".join(reader.text)
    assert "</script>" in said and "onerror" in said and "<s>" in said


def test_the_page_stays_small(page: str) -> None:
    assert len(page.encode()) < 4 * 1024 * 1024


def test_both_themes_and_narrow_screens_are_provided_for(page: str) -> None:
    assert "prefers-color-scheme" in page and "viewport" in page
    assert page.count("viewBox") >= 5


def test_write_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "index.html"
    write(fake_results(), target)
    first = target.read_text(encoding="utf-8")
    with pytest.raises(Exception):  # noqa: B017 - whatever stops it, the old page must survive
        write({"modalities": 3, "examples": object()}, tmp_path / "missing" / "index.html")
    assert target.read_text(encoding="utf-8") == first
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_table_escapes_its_cells() -> None:
    table = str(html_table(["<b>"], [["<img src=x onerror=alert(1)>"]]))
    assert "<img" not in table and "&lt;img" in table and "<b>" not in table


def test_silent_heads_are_outlined_and_shared_heads_stand_beside_their_null() -> None:
    results = fake_results()
    page = render(results)
    chart = {m: page[page.index(f"Contrast, {m}") :][:20000].split("</svg>")[0] for m in ("text", "audio")}
    assert "outlined: layer 1 head 2" in chart["audio"] and "outlined" not in chart["text"]
    assert chart["audio"].count("stroke:var(--rp-ink)") == 1
    agreement = page[page.index('id="heads-agreement"') :].split("</figure>")[0]
    assert "3 of 5" in agreement and "chance 15%" in agreement and "p = 0.010" in agreement
    results["heads"]["silent"] = []
    assert "silent here" not in render(results)


def test_the_last_tokens_attention_is_in_the_table() -> None:
    results = fake_results()
    results["heads"]["examples"][0]["attention"][0][-1][3] = 0.4321
    assert "attention L1 H0" in render(results) and "0.43" in render(results)


@pytest.mark.parametrize("key", sorted(set(fake_results()) - {"schema_version"}))
def test_a_section_of_another_kind_is_left_out(key: str) -> None:
    results = fake_results(("text",))
    for other in (None, "words", [1], {"value": []}, 3.5):
        read(render(results | {key: other}))
    read(render({name: value for name, value in results.items() if name != key}))
