"""Recipes: runnable files, one per research question, that are read, run, copied and changed.

They lie in `recipes/` of the repository and travel inside the wheel as `refusal_plugin/_recipes/`.
"""

import ast
import importlib.util
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import DataError

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "_recipes", _HERE.parent / "recipes")


def recipe_folder() -> Path | None:
    """Where recipes and configurations lie; None where they were left out."""
    return next((f for f in _FOLDERS if f.is_dir()), None)


def recipes() -> dict[str, Path]:
    """Name to file of every recipe that comes with the package, in alphabetical order."""
    folder = recipe_folder()
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


class CutSmaller(UserWarning):
    """A request ran longer than the server allows: the job goes on in smaller requests."""


def run_remotely(recipe: Any, model: Any, prompts: Any, *, how: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Run a recipe with `remote=True`: continued where it stopped, cut smaller where the server's time runs out.

    Finished requests are on disk under the run's name (`remote.task`), so the same call after an interruption sends
    only what is missing. A request that the server ended for its time is cut in half, and so are those behind it.

    Args:
        recipe: a module with `run(model, prompts, *, remote)`, see `recipe`.
        model: a loaded model.
        prompts: as the recipe takes them.
        how: how to run it again, for `refusal-plugin jobs resume`.
        options: further arguments of the recipe.

    Returns:
        what the recipe returns.

    Raises:
        RemoteTimeout: a single batch is too long for the server.
        RemoteError: the server refuses or fails; says why and what to do.
        Detached: after sending, under `settings(detach=True)`.
    """
    from .models import anatomy  # the command line lists recipes without waiting for torch
    from .remote.errors import RemoteTimeout
    from .remote.options import current, settings, task

    name = recipe.__name__.removeprefix("refusal_plugin_recipe_")
    facts = anatomy(model)
    said = [f"{key}={options[key]!r}" for key in sorted(options)]
    limit = current().max_tokens
    while True:
        named = task(name, facts.name, facts.config_hash, prompts.hash, *said, how=how)
        with settings(max_tokens=limit), named as going:
            try:
                return recipe.run(model, prompts, remote=True, **options)
            except RemoteTimeout as error:
                if going.heaviest <= 1:
                    raise
                limit = max(1, int(min(going.heaviest, limit) // 2))
                warnings.warn(
                    f"{error.found}. It goes on in requests of at most {limit} tokens.", CutSmaller, stacklevel=2
                )
