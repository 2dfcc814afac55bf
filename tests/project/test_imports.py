"""What importing costs and needs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ENGINES = ["torch", "transformers", "nnsight"]
HEAVY = [*ENGINES, "numpy", "matplotlib", "jinja2", "PIL", "huggingface_hub", "jaxtyping", "safetensors"]
OPTIONAL = ["transformer_lens", "circuitsvis", "torchvision", "torchaudio", "av", "soundfile", "pandas", "scipy"]
TEST_ONLY = ["beartype", "hypothesis", "pytest", "IPython", "nbclient", "nbformat"]


def fresh(code: str, *arguments: str) -> str:
    """Standard output of `code` in a new interpreter that finds this checkout."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_cheap() -> None:
    code = f"""
import time; start = time.process_time()
import refusal_plugin
spent = time.process_time() - start  # not the wall clock: machines are shared
import json
print(json.dumps([[m for m in {HEAVY} if m in sys.modules], spent]))"""
    runs = [json.loads(fresh(code)) for _ in range(3)]
    assert runs[0][0] == []
    assert min(spent for _, spent in runs) < 0.1


@pytest.mark.parametrize("module", ["refusal_plugin.cli", "refusal_plugin.prompts", "refusal_plugin.errors"])
def test_what_a_first_error_needs_does_not_wait_for_torch(module: str) -> None:
    """`refusal-plugin --help` and a typo in a file name answer at once."""
    assert fresh(f"import {module}; print([m for m in {ENGINES} if m in sys.modules])").strip() == "[]"


def test_every_module_imports_without_the_optional_packages() -> None:
    code = f"""
import importlib, pkgutil
from importlib.machinery import PathFinder
find = PathFinder.find_spec
# As if not installed: other packages ask the finder whether these are there before they import them.
PathFinder.find_spec = staticmethod(lambda name, path=None, target=None: (
    None if name.split(".")[0] in {OPTIONAL + TEST_ONLY} else find(name, path, target)
))
import refusal_plugin
names = [m.name for m in pkgutil.walk_packages(refusal_plugin.__path__, "refusal_plugin.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))"""
    assert int(fresh(code)) > 20


def test_python_dash_m_equals_the_command() -> None:
    module = subprocess.run(
        [sys.executable, "-m", "refusal_plugin", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert module.returncode == 0, module.stderr
    assert "Usage: refusal-plugin" in module.stdout
    command = fresh("from refusal_plugin.cli import main\nsys.argv = ['refusal-plugin', '--help']\nmain()")
    assert command == module.stdout


def test_the_checker_of_annotations_leaves_traced_alone() -> None:
    """A decorated function does not travel to a server; the tests must run the functions that do."""
    for file in (ROOT / "refusal_plugin" / "traced").glob("*.py"):
        module = importlib.import_module(f"refusal_plugin.traced.{file.stem}".removesuffix(".__init__"))
        for name, value in vars(module).items():
            assert not hasattr(value, "__wrapped__"), f"{module.__name__}.{name} is decorated"
