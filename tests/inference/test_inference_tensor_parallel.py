"""Tensor parallel on two CPU processes, for real: the figures of the whole model."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="transformers cuts weights with accelerate")
def test_two_processes_are_one_model() -> None:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "benchmarks.tensor_parallel"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["processes"] == 2 and found["share of a weight here"] == 0.5, "the weights really are spread"
    assert found["streams differ by"] < 1e-4 and found["scores differ by"] < 1e-4
    assert found["same answers"]
    assert "tensor parallel" in found["heads"], "head work is refused, with the reason"
