"""Public data sets, on placeholder files of their schemas: what a row becomes, and what a changed set becomes."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.datasets import load, load_sets, provenance, registered
from refusal_plugin.datasets.prompts import FIELD
from refusal_plugin.errors import DataError, OptionalDependencyError
from refusal_plugin.prompts.media import digest
from refusal_plugin.prompts.prompt import MODALITIES, ROLES

sys.path.insert(0, str(Path(__file__).parent))

from placeholders import CASES, Case, write

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WITHOUT = importlib.util.find_spec("datasets") is None
library = pytest.mark.skipif(WITHOUT, reason="the package 'datasets' is not installed (extra data)")
ENTRIES = registered()


def case(name: str, part: str) -> Case:
    return next(one for one in CASES if (one.name, one.part) == (name, part))


def rows(of: Case) -> list[dict[str, Any]]:
    return list(of.rows.values()) if isinstance(of.rows, dict) else list(of.rows)


@pytest.mark.parametrize("of", CASES, ids=lambda of: f"{of.name}-{of.part}")
def test_a_placeholder_of_every_set_becomes_the_prompts_it_must(of: Case, tmp_path: Path) -> None:
    if WITHOUT and not of.file:
        pytest.skip("the package 'datasets' is not installed (extra data)")
    entry = ENTRIES[of.name]
    # The placeholder is of one configuration; the part reads them all.
    part = next(part for part in entry.parts if part.name == of.part)
    one = replace(entry, parts=(replace(part, configs=(of.config,) if of.config else part.configs),))
    prompts = load(one, split=of.part, path=write(of, tmp_path))
    found = [(p.role, p.modality, p.text, p.pair.removeprefix(f"{of.name}:")) for p in prompts]
    assert len(found) == len(of.expected)
    for got, wanted in zip(found, of.expected, strict=True):
        own = got[3].startswith(f"{of.part}/") and got[3].endswith(f"/{wanted[3]}")  # a row that shares no key
        assert got[:2] == wanted[:2] and (got[3] == wanted[3] or own)
        assert got[2].startswith(wanted[2]) if of.name == "figstep" else got[2] == wanted[2]
    for prompt in prompts:
        assert prompt.meta["dataset"] == of.name and prompt.meta["part"] == of.part
        assert prompt.modality == "text" or digest(prompt)
    if of.content:
        assert prompts[0].read_answer == of.content


def test_every_set_that_loads_has_a_placeholder_and_every_column_of_the_registry_stands_in_it() -> None:
    loadable = {name for name, entry in ENTRIES.items() if entry.views}
    assert loadable == {of.name for of in CASES}
    for of in CASES:
        entry = ENTRIES[of.name]
        have = set(rows(of)[0])
        views = [view for view in entry.views if not view.parts or of.part in view.parts]
        named = {name for view in views for name in FIELD.findall(view.text + view.image + view.audio + view.video)}
        named = {re.split(r"\.", name)[0] for name in named if not name.startswith("@")}
        assert named - {n for view in views for n in view.needs} <= have, of.name


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_an_entry_is_complete_and_says_what_was_not_verified(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.gate in ("open", "gated", "form", "unknown") and set(entry.modality) <= set(MODALITIES)
    assert entry.title and entry.licence and entry.size and entry.citation
    assert bool(entry.parts) == bool(entry.views)
    assert entry.views or entry.unverified, "a set that cannot be loaded says why"
    assert re.fullmatch(r"[0-9a-f]{7,40}|", entry.revision)
    assert len({part.name for part in entry.parts}) == len(entry.parts)
    assert not entry.parts or any(part.usual for part in entry.parts)
    for part in entry.parts:
        assert part.role in (*ROLES, "") and bool(part.file) <= bool(entry.hub or entry.github)
    for view in entry.views:
        assert set(view.roles.values()) <= set(ROLES) and set(view.parts) <= {part.name for part in entry.parts}
        assert bool(view.column) == bool(view.roles) and len(view.mask) in (0, 2)
    if "licence" in entry.unverified or "columns" in entry.unverified:
        return
    assert entry.columns


def test_there_are_enough_sets_of_every_modality() -> None:
    assert len(ENTRIES) >= 35
    for modality in MODALITIES:
        assert any(entry.views and modality in entry.modality for entry in ENTRIES.values()), modality


def changed(of: Case, old: str, new: str) -> Case:
    """The same rows with one column renamed."""
    return replace(of, rows=[{new if key == old else key: value for key, value in row.items()} for row in of.rows])


def test_a_changed_column_is_one_clear_line(tmp_path: Path) -> None:
    path = write(changed(case("xstest", "prompts"), "prompt", "text"), tmp_path)
    with pytest.raises(DataError, match=r"load 'xstest': no column 'prompt'; it has id, text, label") as caught:
        load("xstest", path=path)
    assert "\n" not in str(caught.value)


def test_a_role_that_nobody_mapped_is_an_error_and_never_a_guess(tmp_path: Path) -> None:
    of = case("xstest", "prompts")
    odd = replace(of, rows=[{**row, "label": "contrast"} for row in of.rows])
    with pytest.raises(DataError, match="label is 'contrast', none of safe, unsafe"):
        load("xstest", path=write(odd, tmp_path))


def test_rows_that_give_no_prompt_are_an_error(tmp_path: Path) -> None:
    of = changed(case("vlguard", "test"), "instr-resp", "instr-resp")
    other = [{**row, "instr-resp": [{"instructions": "alpha"}]} for row in of.rows]
    with pytest.raises(DataError, match="give no prompt"):
        load("vlguard", path=write(replace(of, rows=other), tmp_path))


def test_a_file_is_a_part_and_a_folder_has_them_all(tmp_path: Path) -> None:
    path = write(case("xstest", "prompts"), tmp_path) / "xstest_prompts.csv"
    assert len(load("xstest", path=path)) == 3
    with pytest.raises(DataError, match="say which part it is"):
        load("jbb", path=path)
    with pytest.raises(DataError, match="no part 'hard'"):
        load("jbb", split="hard", path=path)
    with pytest.raises(DataError, match="use jbb"):
        load("jbbb")
    with pytest.raises(DataError, match="no file 'query_ForbidQI_1_2_6"):
        load("figstep", split="tiny", path=write(replace(case("figstep", "tiny"), files={}), tmp_path))


def test_a_name_that_leaves_the_set_is_refused(tmp_path: Path) -> None:
    of = case("siuo", "gen")
    path = write(replace(of, rows=[{**of.rows[0], "image": "../../secret.png"}]), tmp_path)
    with pytest.raises(DataError, match="leaves the set"):
        load("siuo", path=path)


@library
def test_only_the_media_that_are_wanted_are_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REFUSAL_PLUGIN_DATA", str(tmp_path / "cache"))
    of = case("holisafe", "test")
    other = [
        {**row, "image": {"bytes": row["image"]["bytes"] + bytes([n]), "path": None}} for n, row in enumerate(of.rows)
    ]
    path = write(replace(of, rows=other), tmp_path / "copy")
    assert len(load("holisafe", path=path, limit=1)) == 1
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 1
    assert len(load("holisafe", path=path)) == 2
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 2


def test_without_the_network_the_way_out_is_named(monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("strongreject", "siuo"):
        with pytest.raises(DataError, match="cannot be fetched") as caught:
            load(name)
        assert "path=" in str(caught.value) and "\n" not in str(caught.value)


@library
def test_a_hub_table_without_the_network_is_one_line(monkeypatch: Any) -> None:
    import datasets as library_

    monkeypatch.setattr(library_.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="gives no behaviors/harmful") as caught:
        load("jbb")
    assert "\n" not in str(caught.value)


def test_without_the_library_a_table_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionalDependencyError, match=r"refusal-plugin\[data\]"):
        load("advbench", path=tmp_path)
    path = write(case("xstest", "prompts"), tmp_path)
    assert len(load("xstest", path=path)) == 3, "CSV needs no library"


def test_what_cannot_be_loaded_says_why() -> None:
    with pytest.raises(DataError, match="columns are not known here"):
        load("mssbench")
    assert not [name for name, entry in ENTRIES.items() if entry.views and not (entry.hub or entry.github)]


@pytest.mark.filterwarnings("default::UserWarning")
def test_licence_and_warning_are_told_once_and_kept(tmp_path: Path) -> None:
    path = write(case("mossbench", "all"), tmp_path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        mine = replace(ENTRIES["mossbench"], name="mine")
        prompts = [*load(mine, path=path), *load(mine, path=path)]
    lines = [str(one.message) for one in told]
    assert len(lines) == 1 and "CC-BY-SA-4.0" in lines[0] and "near miss" in lines[0]
    record = provenance([*load("mossbench", path=path), *load("mossbench", path=path)])[0]
    assert record["name"] == "mossbench" and record["n"] == 2 and record["parts"] == ["all"]
    assert record["revision"] == "local copy" and record["licence"] == "CC-BY-SA-4.0" and record["warning"]
    assert provenance([prompts[0].replace(meta={})]) == []


def test_several_sets_are_one_and_what_says_the_same_is_one_pair(tmp_path: Path) -> None:
    xstest, strong = case("xstest", "prompts"), case("strongreject", "full")
    same = [{**strong.rows[0], "forbidden_prompt": text} for text in ("BE,  ta", "delta")]
    write(xstest, tmp_path / "a")
    write(replace(strong, rows=same), tmp_path / "b")
    with pytest.warns(UserWarning, match="1 of 5 prompts repeat"):
        prompts = load_sets(f"xstest:prompts={tmp_path / 'a'}+strongreject={tmp_path / 'b'}")
    assert [p.text for p in prompts] == ["alpha", "be, ta", "gamma", "delta"]
    # The near miss keeps its text and shares the pair of the repeated request.
    assert len({p.pair for p in prompts}) == 3
    assert {record["name"] for record in provenance(prompts)} == {"xstest", "strongreject"}


def test_what_a_medium_says_ties_it_to_the_text(tmp_path: Path) -> None:
    fig, strong = case("figstep", "tiny"), case("strongreject", "full")
    write(fig, tmp_path / "a")
    write(replace(strong, rows=[{**strong.rows[0], "forbidden_prompt": "Beta"}]), tmp_path / "b")
    prompts = load_sets(f"figstep:tiny={tmp_path / 'a'}+strongreject={tmp_path / 'b'}")
    assert len(prompts) == 3 and len({p.pair for p in prompts}) == 1
