"""What the site shows but docs/ does not hold: tutorials, cards, the changelog, errors, a page of reference a room.

MkDocs reads one folder only. Instead of copies or links in docs/, this hook hands it the files where they are and puts
them into the navigation, so that a new tutorial, checkpoint or module appears without a further edit.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import error_page  # noqa: E402
import tables  # noqa: E402

PACKAGE = ROOT / "refusal_plugin"
ROOMS = ("prompts", "datasets", "models", "inference", "evaluation", "directions", "transfer", "safe_space", "heads")
ROOMS += ("defences", "comparison", "study", "remote", "organism", "traced", "report")
NUMBERS = ("geometry", "statistics", "contrasts", "storage")
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
CARDS = sorted((ROOT / "refusal_plugin" / "organism" / "checkpoints").glob("*/MODEL_CARD.md"))


ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "benchmarks.md": "benchmarks/README.md",
}
"""Pages that are read where they lie in the repository, too."""


def from_elsewhere(name: str) -> str:
    """A page from elsewhere in the repository; its links to files that the site does not have become plain names."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for uri, other in ELSEWHERE.items():
        text = text.replace(f"]({other})", f"]({uri})")
    text = re.sub(r"\]\(docs/([\w/]+\.md)\)", r"](\1)", text)
    return re.sub(r"\[([^\]]+)\]\((?:docs/templates/[\w.]+|NOTES\.md)\)", r"\1", text)


def title(notebook: Path) -> str:
    """First heading of a notebook, without the hash."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for line in cell["source"]:
            if cell["cell_type"] == "markdown" and line.startswith("# "):
                return line.removeprefix("# ").strip()
    return notebook.stem


def reference(name: str) -> str:
    """The page of a room or of a flat file: what each of its modules documents, the room's own words first."""
    folder = PACKAGE / name
    modules = [f".{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    lines = [f"# {name}", f"::: refusal_plugin.{name}", "    options: { show_root_heading: false, members: false }"]
    if not modules:
        lines[-1] = "    options: { show_root_heading: false }"
    return "\n\n".join(["\n".join([lines[0], "", *lines[1:]]), *(f"::: refusal_plugin.{name}{m}" for m in modules)])


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation: tutorials under their own headings, the cards, the rooms of the API."""
    sections: dict[str, list[Any]] = {key: value for entry in config.nav or [] for key, value in entry.items()}
    tutorials = [{title(path): f"tutorials/{path.name}"} for path in TUTORIALS]
    cards = [{path.parent.name: f"cards/{path.parent.name}.md"} for path in CARDS]
    rooms = [{name: f"api/{name}.md"} for name in (*ROOMS, *NUMBERS)]
    for entry in (*sections["Start"], *sections["Reference"]):
        for name, more in (("Tutorials", tutorials), ("The embedded model", cards), ("API", rooms)):
            if name in entry:
                entry[name] = [*entry[name], *more]
    config.nav = [{key: value} for key, value in sections.items() if value]
    return config


# Before the notebook plugin, which takes over every .ipynb it finds in the list.
@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files themselves, each from where it lies."""
    for path in TUTORIALS:
        uri = path.relative_to(ROOT).as_posix()
        files.append(
            File(uri, src_dir=str(ROOT), dest_dir=config.site_dir, use_directory_urls=config.use_directory_urls)
        )
    pages = {f"cards/{path.parent.name}.md": path for path in CARDS} | {"changelog.md": ROOT / "CHANGELOG.md"}
    for uri, path in pages.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for uri, name in ELSEWHERE.items():
        files.append(File.generated(config, uri, content=from_elsewhere(name)))
    files.append(File.generated(config, "errors.md", content=error_page.page()))
    for name in (*ROOMS, *NUMBERS):
        files.append(File.generated(config, f"api/{name}.md", content=reference(name)))
    return files


def on_page_markdown(markdown: str, **_rest: Any) -> str:
    """Put the measured tables where a page asks for them."""
    return tables.measured.draw(markdown, keep_marks=False)
