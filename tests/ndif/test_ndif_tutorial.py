"""Tutorial 07 runs from top to bottom against the server."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ndif
ROOT = Path(__file__).resolve().parents[2]


def test_the_tutorial_runs_on_the_server(stack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient
    from stack import PLAIN_KEY

    for name, value in {**stack.client(PLAIN_KEY), "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REFUSAL_PLUGIN_JOBS", str(tmp_path / "jobs"))
    notebook = nbformat.read(ROOT / "tutorials" / "07_from_laptop_to_ndif.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("REMOTE = False", "REMOTE = True")
        cell.source = cell.source.replace('MODEL = "organism"', 'MODEL = "refusal-plugin/organism"')
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    said = "".join(str(output.get("text", "")) for c in notebook.cells if c.cell_type == "code" for output in c.outputs)
    assert "requests" in said
    assert list((tmp_path / "jobs").glob("*.json")), "it went through the server"
