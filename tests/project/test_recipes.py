"""Every recipe is a file a researcher can read, call and copy, and it runs on the embedded model."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.recipe_files import recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SPELLED_OUT = "direction_extraction"
"""Shows its session; the others call the library, whose sessions look like it."""
LONGEST = 130
ALL = 800
"""Lines."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_reads_from_top_to_bottom(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)), "says what it asks"
    assert ("session(" in source) == (path.stem == SPELLED_OUT)
    assert len(source.splitlines()) <= LONGEST


def test_the_recipes_are_short_together() -> None:
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in RECIPES) <= ALL


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_has_the_common_entry(path: Path) -> None:
    parameters = inspect.signature(recipe(path.stem).run).parameters
    assert list(parameters)[:2] == ["model", "prompts"]
    assert parameters["remote"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["remote"].default is False


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_runs_on_the_embedded_model(
    path: Path, organism: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refusal_plugin.organism.data import organism_prompts

    monkeypatch.chdir(tmp_path)
    prompts = organism_prompts(limit=8, renderings=1)
    assert recipe(path.stem).run(organism, prompts) is not None
