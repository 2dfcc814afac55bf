"""The house in figures: rooms, floors, circles, flat files, lines, exported names, words of the README.

    python -m tests.support.house

Imports are read with `ast`, those inside functions and under TYPE_CHECKING too: a circle that hides there is a circle
all the same. A name that a package only passes on counts for the module that defines it. `tests/project/test_walls.py`
holds the house to what this module reads.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "refusal_plugin"

FLAT = (
    "__init__",
    "__main__",
    "contrasts",
    "errors",
    "geometry",
    "lazy",
    "progress",
    "recipe_files",
    "statistics",
    "storage",
)
"""The files that lie flat in the package."""

STOREYS: tuple[tuple[str, ...], ...] = (
    ("errors", "progress", "lazy", "traced"),
    ("geometry", "report"),
    ("storage", "statistics"),
    ("contrasts", "prompts"),
    ("organism", "remote", "datasets"),
    ("models",),
    ("inference", "recipe_files"),
    ("evaluation",),
    ("directions",),
    ("transfer", "safe_space", "heads", "defences"),
    ("comparison", "study"),
    ("reproduction",),
    ("cli",),
)
"""The rooms from the ground up: a room imports from storeys below its own, never from a neighbour."""

NARROW: Mapping[str, frozenset[str]] = {
    "traced": frozenset(),
    "report": frozenset({"errors", "lazy"}),
    "geometry": frozenset({"errors"}),
    "statistics": frozenset({"errors", "geometry"}),
    "contrasts": frozenset({"errors", "geometry", "statistics"}),
}
"""Rooms that may import only these, whatever lies below them."""


@dataclass(frozen=True)
class Import:
    """One name that a module takes: from where, in which line, `module` of this package or the name of another."""

    line: int
    module: str
    name: str


@dataclass(frozen=True)
class House:
    """What the files of the package say of each other.

    Attributes:
        modules: module name to its file; a package is its `__init__.py`.
    """

    modules: Mapping[str, Path]

    @classmethod
    def at(cls, root: Path = ROOT) -> "House":
        """The package below a checkout."""
        found = {}
        for path in sorted((root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return cls(found)

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Every module, parsed."""
        return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.modules.items()}

    def imports(self, module: str) -> list[Import]:
        """Every name that a module imports, relative ones resolved, wherever in the file they stand."""
        return imports_of(self.trees[module], module, self.modules[module].name == "__init__.py")

    def origin(self, module: str, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> str:
        """The module that defines a name which `module` has: itself, a submodule, or whoever it takes the name from."""
        if f"{module}.{name}" in self.modules and not self._takes(module, name):
            return f"{module}.{name}"
        if module in self.modules and (module, name) not in seen:
            for one in self._takes(module, name):
                return self.origin(one.module, name, seen | {(module, name)})
        return module

    def _takes(self, module: str, name: str) -> list[Import]:
        """Imports by which a package passes a name on."""
        if module not in self.modules or self.modules[module].name != "__init__.py":
            return []
        return [one for one in self.passed_on(module) if one.name == name and one.module.startswith(PACKAGE)]

    def passed_on(self, package: str) -> list[Import]:
        """Names that a package takes to pass them on: from its stub where it has one."""
        stub = self.modules[package].with_suffix(".pyi")
        return imports_of(ast.parse(stub.read_text("utf-8")), package, True) if stub.exists() else self.imports(package)

    @cached_property
    def graph(self) -> dict[str, set[str]]:
        """Module to the modules of this package that it needs; packages' `__init__` files only pass names on."""
        needed: dict[str, set[str]] = {}
        for module, path in self.modules.items():
            if path.name == "__init__.py" and module != f"{PACKAGE}.cli":
                continue
            found = (
                self.origin(one.module, one.name) for one in self.imports(module) if one.module.startswith(PACKAGE)
            )
            needed[module] = {one for one in found if one in self.modules and one != module}
        for module in needed:
            needed[module] &= set(needed)
        return needed

    @cached_property
    def circles(self) -> list[list[str]]:
        """Groups of modules that need each other."""
        return [group for group in strong_components(self.graph) if len(group) > 1]

    @cached_property
    def rooms(self) -> dict[str, set[str]]:
        """Room to the rooms it imports from."""
        found: dict[str, set[str]] = {}
        for module, needs in self.graph.items():
            here = room_of(module)
            if here in ("__init__", "__main__"):
                continue
            found.setdefault(here, set()).update(room_of(other) for other in needs)
        for here, needs in found.items():
            needs.discard(here)
        return found

    @property
    def floors(self) -> int:
        """Length of the longest chain of rooms that stand on each other."""
        above = self.rooms
        depth: dict[str, int] = {}

        def stand(room: str, path: tuple[str, ...] = ()) -> int:
            if room not in depth:
                below = [stand(other, (*path, room)) for other in above.get(room, ()) if other not in (*path, room)]
                depth[room] = 1 + max(below, default=0)
            return depth[room]

        return max(stand(room) for room in above)

    @property
    def flat(self) -> list[str]:
        """Names of the files that lie flat in the package."""
        return sorted(path.stem for path in self.modules.values() if path.parent.name == PACKAGE)

    def lines(self) -> dict[str, int]:
        """Room to its lines of Python."""
        found: dict[str, int] = {}
        for module, path in self.modules.items():
            here = room_of(module)
            found[here] = found.get(here, 0) + len(path.read_text(encoding="utf-8").splitlines())
        return found


def imports_of(tree: ast.Module, module: str, is_package: bool) -> list[Import]:
    """Every name that the source of a module imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(node.lineno, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package else -1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            found += [Import(node.lineno, base, alias.name) for alias in node.names]
    return found


def room_of(module: str) -> str:
    """The folder or flat file of the package that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def storey_of(room: str) -> int:
    """How high a room lies; -1 if it has no place."""
    return next((height for height, rooms in enumerate(STOREYS) if room in rooms), -1)


def strong_components(graph: Mapping[str, Iterable[str]]) -> Iterator[list[str]]:
    """Tarjan's strongly connected components, without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    for start in sorted(graph):
        if start in index:
            continue
        work = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        while work:
            node, below = work[-1]
            for other in below:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    work.append((other, iter(sorted(graph[other]))))
                    break
                if other in stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    cut = stack.index(node)
                    yield sorted(stack[cut:])
                    del stack[cut:]


def exported() -> list[str]:
    """The names that the package exports, from its stub."""
    return sorted(one.name for one in House.at().passed_on(PACKAGE))


def words(path: Path) -> int:
    """Words of a page, tables and code included."""
    return len(path.read_text(encoding="utf-8").split())


def main() -> None:
    """Print the figures."""
    house = House.at()
    lines = house.lines()
    recipes = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / "recipes").glob("*.py"))
    print(f"floors {house.floors}   circles {len(house.circles)}   flat files {len(house.flat)}")
    print(f"lines {sum(lines.values())} in {len(house.modules)} files   recipes {recipes}")
    print(f"exported names {len(exported())}   words of the README {words(ROOT / 'README.md')}")
    for height in reversed(range(len(STOREYS))):
        print(f"  {height + 1:2d}  " + "   ".join(f"{room} {lines.get(room, 0)}" for room in STOREYS[height]))
    for circle in house.circles:
        print("  circle: " + ", ".join(name.removeprefix(f"{PACKAGE}.") for name in circle))


if __name__ == "__main__":
    main()
