"""The numbers of README and docs are the ones that were measured, on the weights that are shipped."""

import json
import re
import sys
from pathlib import Path

import pytest

from refusal_plugin.defences import REGISTRY
from refusal_plugin.models import anatomy, load

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from tables import METHODS, measured  # noqa: E402

MARKED = [*measured.PAGES, *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", measured.PAGES, ids=lambda p: p.parent.name + "/" + p.name)
def test_tables_on_a_page_are_drawn_from_the_data(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == measured.draw(text, keep_marks=True), f"run: python docs/measured.py ({page.name} is out of date)"


def test_every_table_a_page_asks_for_is_drawn_and_measured() -> None:
    asked = {name for page in MARKED for name in re.findall(r"<!-- table: ([\w/-]+)", page.read_text("utf-8"))}
    assert asked, "no page shows a measured table"
    assert asked <= set(measured.TABLES), f"nobody draws {sorted(asked - set(measured.TABLES))}"
    empty = [name for name in sorted(asked) if "not measured" in measured.TABLES[name]()]
    assert not empty, f"no data for {empty}"


def test_every_method_has_a_page_with_its_price() -> None:
    shown = {name for names in METHODS.values() for name in names}
    own = {name for name, entry in REGISTRY.items() if entry.fit.__module__.startswith("refusal_plugin.")}
    assert {name for name in own if not REGISTRY[name].switches} <= shown <= set(REGISTRY)
    for page in METHODS:
        text = (ROOT / "docs" / "methods" / f"{page}.md").read_text("utf-8")
        assert f"<!-- table: method/{page} -->" in text and "## When it pays" in text
        assert f"methods/{page}.md" in (ROOT / "mkdocs.yml").read_text("utf-8")


PUBLISHED = sorted([*measured.DATA.glob("study-*.json"), *measured.DATA.glob("compare*.json")])


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_what_is_published_belongs_to_the_shipped_weights(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["model"] == "spoken":
        pytest.skip("the real model's parts are not in the package: `make real`")
    model = load(found["model"])
    assert found["weight_hash"] == anatomy(model).weight_hash(), (
        f"{found['model']} changed: run {path.stem} again and publish it"
    )


def test_a_study_with_a_limit_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"model": "organism", "limit": 10}))
    with pytest.raises(SystemExit, match="--limit"):
        measured.take([tmp_path])
