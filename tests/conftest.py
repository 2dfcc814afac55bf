"""Shared by all tests: offline, few threads, seeded, and every shape and type annotation checked while it runs.

The package itself never imports beartype: annotations are checked here only, through jaxtyping's import hook. The hook
decorates functions, and what travels to a server must not be decorated, so `refusal_plugin.traced` is left out; typer
passes values of its own to the functions of `refusal_plugin.cli`, so that is left out too, and so is
`refusal_plugin.errors`, where an error asks which function made it: that must not be a decorator.
"""

import os
import pkgutil
import random
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).resolve().parents[1]
UNDECORATED = {"traced", "cli", "errors"}

# A checkout that is not installed is tested too, and an installed copy never shadows the checkout.
sys.path.insert(0, str(ROOT))

from tests.support import torchvision  # noqa: E402

if os.environ.get(torchvision.EXTRAS):
    torchvision.enable()  # before transformers looks for it, once, when it is first imported

from jaxtyping import install_import_hook  # noqa: E402

# The hook matches by prefix, so "refusal_plugin" would take traced/ along: name the modules one by one.
CHECKED = [
    f"refusal_plugin.{module.name}"
    for module in pkgutil.iter_modules([str(ROOT / "refusal_plugin")])
    if module.name not in UNDECORATED
]
# As in PEP 484 and mypy, an int will do where a float is asked for.
install_import_hook([*CHECKED, "training"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# Shared machines stall now and then; a test's time is measured where it matters, not per example.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# The models are tiny: a second thread spends its time waiting for the first, ten times longer on a busy machine.
torch.set_num_threads(1)


pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # for third-party code; ours takes a Generator
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def organism() -> Any:
    """The embedded default model, loaded once."""
    from refusal_plugin.models import load

    return load("organism")


@pytest.fixture(scope="session")
def short_study(organism: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and results of a study of few prompts, run once."""
    from refusal_plugin.recipe_files import recipe

    folder = tmp_path_factory.mktemp("study")
    return folder, recipe("study").run(organism, out=folder, limit=60, progress=False)
