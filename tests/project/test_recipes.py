"""Every recipe is a file a researcher can read, call and copy, and it runs on the embedded model."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

from refusal_plugin.recipe_files import recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
COMPOSED = {"study"}  # strings the others together
LONGEST = 250  # lines; one that needs more hides its session behind them


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_reads_from_top_to_bottom(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "says what it asks"
    if path.stem not in COMPOSED:
        assert "session(" in source, "its session is in the file, not behind a helper"
        assert len(source.splitlines()) <= LONGEST


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
