"""The templates of docs/templates, copied, pass what a recipe and a defence of the project have to pass."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from refusal_plugin.cli import main
from refusal_plugin.defences import REGISTRY, Defence, DefenceData, fit_defence
from refusal_plugin.inference.answers import generate_ids
from refusal_plugin.prompts import encode

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "docs" / "templates"


def copied(name: str, to: Path) -> ModuleType:
    """A template as somebody has it who copied it: another folder, another name."""
    path = Path(shutil.copy(TEMPLATES / f"{name}.py", to / f"my_{name}.py"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_the_recipe_runs_by_the_command(
    few: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TEMPLATES / "recipe.py", tmp_path / "mine.py")
    prompts = few.to_jsonl(tmp_path / "few.jsonl")
    words = ["refusal-plugin", "run", str(tmp_path / "mine.py"), "--prompts", str(prompts), "--json", "--quiet"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert 0 <= found["auroc"]["value"] <= 1 and "a look" in found["warnings"][0]


def test_the_recipe_shows_itself(organism: Any, few: Any, tmp_path: Path) -> None:
    result = copied("recipe", tmp_path).run(organism, few)
    assert "AUROC" in repr(result) and "note: only" in repr(result) and "<table>" in result._repr_html_()


def test_the_defence_keeps_the_protocol(organism: Any, few: Any, tmp_path: Path) -> None:
    known = dict(REGISTRY)
    try:
        copied("defence", tmp_path)
        data = DefenceData.of(organism, few)
        defence, bold = (fit_defence(name, organism, data) for name in ("mine", "mine_bold"))
        assert torch.equal(bold.vector, 2 * defence.vector)  # type: ignore[attr-defined]
        again = Defence.load(defence.save(tmp_path / "mine.safetensors"), organism)
        assert type(again) is type(defence) and torch.equal(again.vector, defence.vector)  # type: ignore[attr-defined]
        json.dumps(defence.diagnostics())

        inputs = encode(organism, few[0]).inputs
        plain, none, strong = (
            generate_ids(organism, inputs, edit, max_new_tokens=3)
            for edit in (None, defence.edit(0.0), defence.edit(3.0))
        )
        assert torch.equal(plain, none) and not torch.equal(plain, strong), "zero leaves the model as it is"
        twins = encode(organism, [few[0].replace(id=str(k)) for k in range(2)]).inputs
        rows = generate_ids(organism, twins, defence.edit(torch.tensor([0.0, 3.0])), max_new_tokens=3)
        assert torch.equal(rows[:1, : plain.shape[1]], plain) and torch.equal(rows[1:, : strong.shape[1]], strong)
        with defence.attached(organism, strength=3.0) as module, torch.no_grad():
            hooked = module.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert torch.equal(hooked, strong), "the same in a trace and in torch hooks"
    finally:
        REGISTRY.clear()
        REGISTRY.update(known)


@pytest.fixture(scope="module")
def few() -> Any:
    """Some text of every split."""
    from refusal_plugin.organism.data import organism_prompts
    from refusal_plugin.prompts import PromptSet

    return PromptSet(p for s in ("train", "val", "test") for p in organism_prompts(split=s, modality="text", limit=9))


def test_the_page_shows_the_template_as_it_is() -> None:
    page = (ROOT / "docs" / "add_a_defence.md").read_text(encoding="utf-8")
    assert f"```python\n{(TEMPLATES / 'defence.py').read_text(encoding='utf-8')}```" in page


def test_the_contributors_page_names_files_that_exist() -> None:
    import re

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {path.split("::")[0] for path in re.findall(r"`([\w./-]+/[\w./-]*)`", text)}
    missing = sorted(path for path in named if not (ROOT / path).exists())
    assert len(named) > 20 and not missing, missing
