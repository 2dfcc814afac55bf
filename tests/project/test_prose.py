"""Every share in the prose of the docs is drawn from docs/data, or is said not to be a measurement."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from tables import measured  # noqa: E402

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md"))]
NOT_PROSE = re.compile(
    r"^(?P<indent> *)(?P<fence>```|~~~).*?^(?P=indent)(?P=fence)\s*$|<!-- table: .*?-->(?:\n.*?<!-- end -->)?|`[^`\n]*`"
    r"|\$\$.*?\$\$|<!-- (?:no-run|run-with|not measured|number): .*?-->",
    re.S | re.M,
)
SHARE = re.compile(r"(?P<number>\d[\d.]*)(?:\s|&nbsp;)?(?P<unit>%|percent\b|points\b)")
EXEMPT = re.compile(r"<!-- not measured: (?P<which>.*?)-->", re.S)


def shares(text: str) -> set[tuple[str, str]]:
    """Number and unit of every share in a text; in "60 % to 70 %" and "10 to 20 points" of each."""
    spread = re.sub(r"(\d[\d.]*) (?:to|and|or|,) (?=\d[\d.]* ?(%|points))", r"\1 \2 and ", text)
    return {(found["number"], found["unit"].replace("percent", "%")) for found in SHARE.finditer(spread)}


def typed(text: str) -> list[str]:
    """The shares of a page that somebody typed and that it does not say to be no measurement."""
    known = {share for mark in EXEMPT.finditer(text) for share in shares(mark["which"])}
    return sorted(" ".join(share) for share in shares(NOT_PROSE.sub("", text)) - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_share_is_typed_into_a_sentence(page: Path) -> None:
    found = typed(page.read_text(encoding="utf-8"))
    assert not found, (
        f"draw {found} with <!-- number: FILE path -->, or say what they are in <!-- not measured: ... -->"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_share_that_a_sentence_asks_for_was_measured(page: Path) -> None:
    for mark in measured.NUMBER.finditer(page.read_text(encoding="utf-8")):
        found = measured.number(mark["file"], mark["path"])
        assert 0 <= found["value"] <= 1 and found["n"] > 0, mark[0]


def test_a_typed_share_is_found_and_a_drawn_one_is_not() -> None:
    page = "<!-- not measured: 95 % -->\nIt is 89 % [80 %, 95 %], 10 to 20 points, `7 %`.\n```\n3 %\n```\n"
    assert typed(page) == ["10 points", "20 points", "80 %", "89 %"]
    drawn = measured.draw("It is <!-- number: study-organism ablation/random/harmful_refusal -->.", keep_marks=False)
    value = measured.read("study-organism")["ablation"]["random"]["harmful_refusal"]["value"]
    assert drawn.startswith(f"It is {100 * value:.0f} % [") and typed(drawn)
    with pytest.raises(KeyError):
        measured.draw("<!-- number: study-organism ablation/nothing/harmful_refusal -->", keep_marks=False)
