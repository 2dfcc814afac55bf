"""Public names that are loaded when they are first used, so that importing a package waits for nothing heavy."""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package needs to load its names when they are first used.

    The names stand once, in the stub beside the package's file (`__init__.pyi`), as `from .module import name as name`:
    editors and type checkers read them there too.

    Args:
        package: `__name__` of the package.
        file: its `__file__`.

    Returns:
        `__getattr__`, `__dir__` and `__all__` of the package.
    """
    where: dict[str, str] = {}
    for node in ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            where |= {alias.asname or alias.name: f"{package}.{node.module}" for alias in node.names}
    names = sorted(where)

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(where[name]), name)
        setattr(import_module(package), name, value)
        return value

    return find, lambda: [*names], names
