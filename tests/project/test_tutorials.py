"""The tutorials run from top to bottom with their solutions, on the model's own prompts and on a file of a user's; what
is stored in them is what a run gives, and each keeps to the form that all of them share."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import refusal_plugin as rp

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
TITLES = (
    "Find the refusal direction",
    "Does text refusal reach images, video and speech?",
    "What the safe space protects: SARSteer by hand in 40 lines",
    "MARS: re-centring, gate, trust region",
    "Which heads write refusal?",
    "Judge a defence honestly",
    "From laptop to NDIF",
    "Your own model, your own data, your own method",
)
SOLUTION = re.compile(r"<details><summary>Solution</summary>(.*?)</details>", re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)
LARGEST = 400_000
"""Bytes of a notebook with its outputs."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def run(notebook: nbformat.NotebookNode, where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    resources = {"metadata": {"path": str(where)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()


def text_of(notebook: nbformat.NotebookNode, kind: str) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


@pytest.mark.slow
@each
def test_tutorial_and_its_solutions_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    for solution in SOLUTION.findall(text_of(notebook, "markdown")):
        notebook.cells += [nbformat.v4.new_code_cell(code) for code in BLOCK.findall(solution)]
    run(notebook, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts and media of every modality as files, without the splits, and without what only the model's own have."""
    kept = rp.organism_prompts(renderings=1, limit=24)
    plain = rp.PromptSet(p.replace(split=None, wording=None, meta={}, id=f"item {k}") for k, p in enumerate(kept))
    return plain.to_jsonl(tmp_path_factory.mktemp("own") / "prompts.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS[:1], ids=lambda p: p.stem)
def test_tutorial_runs_on_a_file_of_the_user(
    path: Path, own_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if "PROMPTS = None" in cell.source)
    first.source = first.source.replace("PROMPTS = None", f"PROMPTS = {str(own_file)!r}")
    run(notebook, tmp_path, monkeypatch)


def test_the_tutorials_come_in_their_order() -> None:
    found = [nbformat.read(path, as_version=4).cells[0].source.splitlines()[0] for path in NOTEBOOKS]
    assert found == [f"# {title}" for title in TITLES]
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{k:02}_" for k in range(1, len(TITLES) + 1)]


@each
def test_tutorial_is_ready_to_read(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run it: make notebooks"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < LARGEST


@each
def test_tutorial_has_what_every_tutorial_has(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code, prose = text_of(notebook, "code"), text_of(notebook, "markdown")
    assert all(line.startswith("#") for line in notebook.cells[1].source.splitlines()), "installing is for the reader"
    assert "# %pip install" in notebook.cells[1].source
    assert "![Open in Colab](data:" in notebook.cells[0].source, "a badge that asks the network for nothing"
    for word in ("**Question.**", "**Picture.**", "**What we see.**", "## What this does not show", "## Exercises"):
        assert word in prose, word
    for switch in ('MODEL = "organism"', "PROMPTS = None", "REMOTE = False"):
        assert switch in code, switch
    assert prose.count("**Predict, then run.**") >= 3
    assert len(SOLUTION.findall(prose)) == 3


@each
def test_tutorial_imports_from_the_short_list(path: Path) -> None:
    """At most two deeper imports, and a comment above them that says why."""
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and "%" not in c.source]
    deep = []
    for source in cells:
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("refusal_plugin"):
                deep.append(node.module)
                above = [line for line in lines[: node.lineno - 1] if line.strip()][-1]
                assert above.startswith("#") or "refusal_plugin." in above, f"{node.module}: say why"
    assert len(deep) <= 2, deep
