"""Recipes: runnable files, one per research question, that are read, run, copied and changed.

They lie in `recipes/` of the repository and travel inside the wheel as `refusal_plugin/_recipes/`.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .errors import DataError

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "_recipes", _HERE.parent / "recipes")


def recipes() -> dict[str, Path]:
    """Name to file of every recipe that comes with the package, in alphabetical order."""
    folder = next((f for f in _FOLDERS if f.is_dir()), None)
    return {} if folder is None else {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def summary(path: Path) -> str:
    """First line of a recipe's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0] if text else ""


def find(name: str) -> Path:
    """The file of a recipe: one of ours by name, or any file by its path.

    Raises:
        DataError: no such recipe.
    """
    known = recipes()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    raise DataError(f"recipe '{name}'", "no recipe and no file of that name", f"use one of {', '.join(known)}")


def recipe(name: str) -> ModuleType:
    """Import a recipe, so that its `run(model, prompts, *, remote=False)` can be called.

    Raises:
        DataError: no such recipe, or a file without `run`.
    """
    path = find(name)
    key = f"refusal_plugin_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: nnsight looks a block's source up through its module.
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(key, None)
        raise
    if not callable(getattr(module, "run", None)):
        raise DataError(
            f"recipe '{name}'", "the file has no function run()", "add run(model, prompts, *, remote=False)"
        )
    return module


def copy_recipe(name: str, to: str | Path = ".") -> Path:
    """Copy a recipe to a folder or file, to be changed there.

    Raises:
        DataError: no such recipe, a file of that name is there already, or the folder cannot be written.
    """
    source = find(name)
    target = Path(to) / source.name if Path(to).suffix != ".py" else Path(to)
    if target.exists():
        raise DataError(f"copy recipe '{name}'", f"{target} exists", "choose another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        found = f"{target}: {error.strerror or error}"
        raise DataError(f"copy recipe '{name}'", found, "choose another folder") from None
    return target
