"""The commands against the real server, as a user types them; jobs outlive the process that sent them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stack import PLAIN_KEY, TRUSTED_KEY

pytestmark = pytest.mark.ndif
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cli(stack: Any, tmp_path: Path) -> Any:
    def run(*words: object, key: str = TRUSTED_KEY, expect: int = 0) -> str:
        variables = {
            **os.environ,
            **stack.client(key),
            "PYTHONPATH": str(ROOT),
            "REFUSAL_PLUGIN_JOBS": str(tmp_path / "jobs"),
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "refusal_plugin", *map(str, words)]
        done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


def test_status_compare_whoami(cli: Any, far: Any, client: Any, organism: Any) -> None:
    from refusal_plugin.inference.activations import collect_activations
    from refusal_plugin.organism.data import organism_prompts

    collect_activations(far, organism_prompts(split="test", modality="text", limit=1, renderings=1), remote=True)
    assert "refusal-plugin/organism" in cli("remote", "status") and "RUNNING" in cli("remote", "status")
    assert "is not up" in cli("remote", "status", "refusal-plugin/nobody", expect=1)
    versions = cli("remote", "compare", expect=1)  # the server has nnsight 0.8.0
    assert "nnsight" in versions and "DIFFERS" in versions and "nnsight==0.8.0" in versions
    assert "beside the weights" in cli("remote", "whoami")
    plain = cli("remote", "whoami", key=PLAIN_KEY)
    assert "sandboxed" in plain and PLAIN_KEY not in plain


def test_a_detached_run_is_finished_by_another_process(cli: Any, tmp_path: Path) -> None:
    from refusal_plugin.organism.data import organism_prompts

    prompts = tmp_path / "prompts.jsonl"
    chosen = organism_prompts(limit=8, modality="text", renderings=1)
    prompts.write_text(
        "\n".join(
            json.dumps({"id": p.id, "text": p.text, "role": p.role, "split": p.split, "pair": p.pair}) for p in chosen
        )
    )
    words = ("run", "direction_extraction", "-m", "refusal-plugin/organism", "--prompts", prompts, "--remote")
    said = cli(*words, "--detach")
    assert "was sent" in said
    (record,) = (tmp_path / "jobs").glob("*.json")
    job = json.loads(record.read_text())
    assert job["id"] in said and job["how"]["recipe"] == "direction_extraction"
    assert TRUSTED_KEY not in record.read_text()
    assert job["id"] in cli("jobs")
    table = cli("jobs", "resume", job["id"][:8])
    assert "AUROC" in table
    assert len(list((tmp_path / "jobs").glob("*.json"))) == 1, "nothing was sent twice"
    assert cli(*words) == table, "a finished run is read from disk"
    cli("jobs", "drop", job["id"])
    assert "no jobs" in cli("jobs")
