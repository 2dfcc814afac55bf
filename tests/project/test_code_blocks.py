"""The code a reader meets first runs: every block of the README and of the docs, in order, as printed.

- ```python blocks of one page share a namespace;
- in ```bash blocks, lines that begin with `refusal-plugin` are run, `make X` must be a target, anything else is prose;
- `<!-- run-with: --limit 8 -->` before a bash block adds arguments to its commands (smaller, not different);
- `<!-- no-run: reason -->` skips the next block, and the reason must be given.
"""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.S | re.M)
MARK = re.compile(r"<!-- (?P<kind>no-run|run-with)(?:: (?P<value>.*?))? -->\s*\Z")


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    line: int
    skip: str | None = None
    extra: str = ""


def blocks(text: str) -> list[Block]:
    """Fenced blocks of a page with what their marks ask for."""
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        indent = match["indent"]
        code = "".join(row.removeprefix(indent) for row in match["body"].splitlines(keepends=True))
        mark = MARK.search(text, 0, match.start())
        if mark and not mark["value"]:
            raise ValueError(f"line {line}: a `{mark['kind']}` mark says nothing after it")
        skip = mark["value"] if mark and mark["kind"] == "no-run" else None
        extra = mark["value"] if mark and mark["kind"] == "run-with" else ""
        found.append(Block(match["language"], code, line, skip, extra))
    return found


def commands(code: str) -> list[str]:
    """Command lines of a bash block: continued lines joined, prompts and comments removed."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if line.strip() and not line.strip().startswith("#")]


def run_command(line: str, extra: str) -> None:
    """Run one `refusal-plugin` line in this process: importing torch again for every line would take minutes."""
    from refusal_plugin.cli import main

    sys.argv = shlex.split(line, comments=True) + shlex.split(extra)
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None), f"`{line}` ended with exit code {end.code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    namespace: dict = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.skip:
            continue
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.code  # so that a traceback names the page's own line
            exec(compile(source, str(page), "exec"), namespace)
        elif block.language in ("bash", "sh", "console"):
            for line in commands(block.code):
                if line.startswith("refusal-plugin"):
                    run_command(line, block.extra)
                elif line.startswith("make "):
                    goals = {word for word in shlex.split(line, comments=True)[1:] if "=" not in word}
                    assert goals <= targets, f"{page.name}:{block.line}: no such target: {goals - targets}"


def test_marks_and_fences_are_read() -> None:
    page = (
        "```python\nx = 1\n```\n\n<!-- no-run: needs a server -->\n```python\ny\n```\n"
        "<!-- run-with: --limit 2 -->\n```bash\n$ refusal-plugin study \\\n  --seed 1\n# note\n```\n"
        "  ```python\n  z = 2\n  ```\n"
    )
    first, skipped, shell, indented = blocks(page)
    assert (first.code, first.line, first.skip) == ("x = 1\n", 2, None)
    assert skipped.skip == "needs a server"
    assert commands(shell.code) == ["refusal-plugin study    --seed 1"]
    assert shell.extra == "--limit 2"
    assert indented.code == "z = 2\n"
    with pytest.raises(ValueError, match="says nothing"):
        blocks("<!-- no-run -->\n```python\n1\n```\n")
