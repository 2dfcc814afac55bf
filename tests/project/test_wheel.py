"""What a user installs: the wheel carries recipes, checkpoints and types, works on its own, and holds nothing else."""

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from this checkout by the build backend itself: no network, no build environment."""
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_carries_what_it_needs(unpacked: Path) -> None:
    package = unpacked / "refusal_plugin"
    assert (package / "py.typed").exists()
    assert {p.name for p in (package / "_recipes").glob("*.py")} == {p.name for p in (ROOT / "recipes").glob("*.py")}
    for name in ("organism", "organism-hard", "organism-control", "organism-wary"):
        folder = package / "organism" / "checkpoints" / name
        there = {p.name for p in folder.glob("*")}
        assert {"config.json", "tokenizer.json", "MODEL_CARD.md"} <= there, name
        # One file of weights, or an index of several.
        index = folder / "model.safetensors.index.json"
        weights = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        assert all((folder / file).is_file() for file in weights), name
    parts = Path("report", "templates")
    kept = [{p.relative_to(at / parts) for p in (at / parts).rglob("*.*")} for at in (package, ROOT / "refusal_plugin")]
    assert kept[0] == kept[1] and len(kept[0]) > 20, "a template is missing"
    assert {p.name.split("-")[0] for p in unpacked.iterdir()} == {"refusal_plugin"}


def test_the_wheel_is_small_and_clean(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.stat().st_size < 20e6
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pt", ".pkl"))]


def test_checkpoints_and_media_stay_within_their_budget() -> None:
    folder = ROOT / "refusal_plugin" / "organism" / "checkpoints"
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 15e6


def test_the_wheel_works_without_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(unpacked)!r})
import json, refusal_plugin
assert refusal_plugin.__file__.startswith({str(unpacked)!r}), refusal_plugin.__file__
from refusal_plugin.report import render
assert "<main>" in render({{"schema_version": 1}})
sys.argv = ["refusal-plugin", "ls"]
from refusal_plugin.cli import main
main()"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for recipe in (ROOT / "recipes").glob("*.py"):
        assert recipe.stem in done.stdout


def test_the_source_archive_builds_the_same_package(wheel: Path, tmp_path: Path) -> None:
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "Makefile", "constraints.txt", "mkdocs.yml", "README.md", "LICENSE"} <= names
    for folder in ("tests", "training"):  # what made the checkpoints is for whoever has the sources
        assert any(name.startswith(f"{folder}/") for name in names)
    assert not [name for name in names if name.startswith((".venv", "site/", "study/", ".git/"))]
    with zipfile.ZipFile(wheel) as archive:
        package = {n for n in archive.namelist() if n.startswith("refusal_plugin/") and "/_recipes/" not in n}
    assert package <= names
