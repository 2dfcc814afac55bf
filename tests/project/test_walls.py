"""The walls of the house, read from the imports of every file (those inside functions and under TYPE_CHECKING too)."""

import ast

import pytest

import refusal_plugin
from tests.support.house import FLAT, NARROW, PACKAGE, ROOT, STOREYS, House, exported, room_of, storey_of, words

FLOORS = 12
LINES = 39_750
"""A ratchet: lower it with every line that goes. The house was drawn for 24,000 without public data sets, models that
judge, a spoken model, ranked selection, whole-answer prices, a page to explore, papers' tables and task suites."""
RECIPES = 800
README_WORDS = 700

ELSEWHERE = {
    # Where the request leaves and where a model is wrapped; everything else gets a model and traces it.
    "nnsight": {"remote", "models"},
    "transformers": {"models", "organism", "prompts", "evaluation"},
    "circuitsvis": set(),  # its script is read from its folder, the package is never imported
}
"""Libraries and the rooms that may import them."""

NEIGHBOURS = [
    ("transfer", "safe_space", "heads", "defences"),
    ("comparison", "study"),
]
"""Rooms that do not know each other."""


@pytest.fixture(scope="module")
def house() -> House:
    return House.at()


def crossings(house: House) -> list[tuple[str, int, str]]:
    """Every import from one room into another: module, line, module that is needed."""
    found = []
    for module in house.graph:
        for one in house.imports(module):
            target = house.origin(one.module, one.name) if one.module.startswith(PACKAGE) else ""
            if target in house.graph and room_of(target) != room_of(module) and room_of(module) not in FLAT[:2]:
                found.append((module, one.line, target))
    return found


def test_every_room_has_its_storey(house: House) -> None:
    assert {room for room in house.rooms if storey_of(room) < 0} == set()
    assert {room for rooms in STOREYS for room in rooms} <= set(house.lines()), "a storey without its room"


def test_every_room_imports_from_below(house: House) -> None:
    wrong = [
        f"{module}:{line} needs {target}"
        for module, line, target in crossings(house)
        if storey_of(room_of(target)) >= storey_of(room_of(module))
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_narrow_rooms_import_next_to_nothing(house: House) -> None:
    wrong = [
        f"{module}:{line} needs {target}"
        for module, line, target in crossings(house)
        if room_of(target) not in NARROW.get(room_of(module), {room_of(target)})
    ]
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize("rooms", NEIGHBOURS, ids=lambda rooms: rooms[0])
def test_neighbours_do_not_know_each_other(house: House, rooms: tuple[str, ...]) -> None:
    wrong = [f"{m}:{line} needs {t}" for m, line, t in crossings(house) if {room_of(m), room_of(t)} <= set(rooms)]
    assert not wrong, "\n".join(sorted(wrong))


def test_nothing_goes_round_in_circles(house: House) -> None:
    assert not house.circles, "\n".join(", ".join(circle) for circle in house.circles)
    assert house.floors <= FLOORS


@pytest.mark.parametrize("library", sorted(ELSEWHERE))
def test_libraries_stay_in_their_rooms(house: House, library: str) -> None:
    wrong = [
        f"{module}:{one.line} imports {library}"
        for module in house.modules
        for one in house.imports(module)
        if one.module.split(".")[0] == library and room_of(module) not in ELSEWHERE[library]
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_imports_inside_the_package_are_relative(house: House) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in house.modules.values()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if line.lstrip().startswith((f"from {PACKAGE}", f"import {PACKAGE}"))
    ]
    assert not wrong, "\n".join(wrong)


def test_ten_files_lie_flat(house: House) -> None:
    assert house.flat == sorted(FLAT)


def test_the_package_says_everything_once(house: House) -> None:
    assert sum(house.lines().values()) <= LINES
    recipes = [path.read_text(encoding="utf-8") for path in (ROOT / "recipes").glob("*.py")]
    assert sum(len(text.splitlines()) for text in recipes) <= RECIPES
    assert words(ROOT / "README.md") <= README_WORDS


def test_the_exported_names_stand_once() -> None:
    assert exported() == refusal_plugin.__all__
    for name in exported():
        assert getattr(refusal_plugin, name) is not None
        assert name in dir(refusal_plugin)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = refusal_plugin.no_such_name
    assert 40 <= len(exported()) <= 56


NNSIGHTS = {"_remote_backend"}
"""Names that are nnsight's own, which the package fills in."""


def private_names(house: House) -> set[str]:
    """Names with a leading underscore that the package defines: functions, methods, classes, constants, attributes."""
    found = set()
    for tree in house.trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return {name for name in found if name.startswith("_") and not name.endswith("_") and name.strip("_")}


def test_tests_use_public_names_only(house: House) -> None:
    ours, wrong = private_names(house), []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            used = set()
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                used = {alias.name for alias in node.names}
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
                used = {
                    a.value.split(".")[-1] for a in node.args if isinstance(a, ast.Constant) and type(a.value) is str
                }
            used -= NNSIGHTS
            wrong += [f"{path.relative_to(ROOT)}:{node.lineno} uses {name}" for name in sorted(used & ours)]
    assert not wrong, "\n".join(wrong)


# -- that the walls themselves would fall --------------------------------------------------------------------------


def planted(tmp_path, **files: str) -> House:
    """A house with a few files of its own."""
    for name, source in files.items():
        path = tmp_path / PACKAGE / name.replace("__", "/", 1)
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    for folder in {path.parent for path in (tmp_path / PACKAGE).rglob("*.py")} | {tmp_path / PACKAGE}:
        (folder / "__init__.py").touch()
    return House.at(tmp_path)


def test_an_import_in_a_function_is_an_import(tmp_path) -> None:
    house = planted(
        tmp_path, report__page="def draw():\n    from ..models.load import load\n", models__load="def load(): 1"
    )
    assert crossings(house) == [("refusal_plugin.report.page", 2, "refusal_plugin.models.load")]


def test_a_circle_under_type_checking_is_a_circle(tmp_path) -> None:
    one = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .space import Space\n"
    house = planted(tmp_path, heads__result=one, heads__space="from .result import Result")
    assert house.circles == [["refusal_plugin.heads.result", "refusal_plugin.heads.space"]]


def test_a_name_that_a_package_passes_on_counts_for_its_module(tmp_path) -> None:
    planted(tmp_path, heads__result="class Result: pass", study__run="from ..heads import Result")
    (tmp_path / PACKAGE / "heads" / "__init__.py").write_text("from .result import Result\n", encoding="utf-8")
    house = House.at(tmp_path)
    assert house.graph["refusal_plugin.study.run"] == {"refusal_plugin.heads.result"}
    assert house.floors == 2
