"""The tree: what lies at the top, one version everywhere, matching pins, no trace of the machine it was made on."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import refusal_plugin

ROOT = Path(__file__).resolve().parents[2]

TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benchmarks",
    "constraints.txt",
    "docs",
    "mkdocs.yml",
    "pyproject.toml",
    "recipes",
    "refusal_plugin",
    "tests",
    "training",
    "tutorials",
}


def tracked() -> list[str]:
    """Paths git tracks or would track; the test is skipped where there is no git or no repository (an sdist)."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted(path for path in listing.split("\0") if path and (ROOT / path).exists())


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_top_level_is_exactly_what_the_readme_explains() -> None:
    assert {path.split("/")[0] for path in tracked()} == TOP_LEVEL
    assert [path for path in tracked() if path.startswith(".ci/")] == [".ci/run"]


def test_one_version_everywhere(project: dict) -> None:
    version = project["version"]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    changelog = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert refusal_plugin.__version__ == version
    assert citation and citation[1] == version
    assert changelog and changelog[1] == version


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in parsed}


def test_every_dependency_is_pinned_within_its_range(project: dict) -> None:
    pinned, extras = pins(), project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["test"], *extras["docs"], *extras["lens"], *extras["audio"]]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is missing in constraints.txt"
        assert pinned[name] in requirement.specifier, f"{name} {pinned[name]} is outside {requirement.specifier}"


def test_pins_are_installable_from_any_index() -> None:
    """A local tag such as +cpu exists on one index only; `==2.13.0` accepts every build of that version."""
    assert not [name for name, version in pins().items() if version.local]
    assert f"TORCH       ?= torch=={pins()['torch']}" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_no_file_knows_the_machine_it_was_made_on() -> None:
    homes = "|".join(["work", "root", "home", "Users", "opt", "mnt", "srv"])
    machine = re.compile(rf"(?<![\w.:/<-])/(?:{homes})/[\w.-]+")
    found = []
    for path in tracked():
        raw = (ROOT / path).read_bytes()
        if b"\0" in raw[:8192]:
            continue
        for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
            if match := machine.search(line):
                found.append(f"{path}:{number}: {match[0]}")
    assert not found, "\n".join(found)
