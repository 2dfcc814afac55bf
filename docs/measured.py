"""The measured numbers of README and docs: kept as the JSON that the commands wrote, drawn as Markdown tables.

    python docs/measured.py --from study study-hard study-control compare    take over what the commands wrote
    python docs/measured.py                                                  draw the tables of README.md again

A page asks for a table with a comment, `<!-- table: study -->`. In files that are read where they lie (README.md,
benchmarks/README.md) the table stands between that comment and `<!-- end -->` and a test compares it with the data; in
docs/ the hook puts it there when the site is built. A share in a sentence is drawn likewise, from
`<!-- number: FILE path -->`. Nobody types a measured number.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).resolve().parent / "data"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
MARK = re.compile(r"<!-- table: (?P<name>[\w/-]+) -->(?:\n.*?<!-- end -->)?", re.S)

NUMBER = re.compile(r"<!-- number: (?P<file>[\w-]+) (?P<path>[\w./-]+) -->")
"""A share in a sentence: its file in docs/data, and where it stands in there."""

Data = Mapping[str, Any]
TABLES: dict[str, Callable[[], str]] = {}


def table(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register the function that draws a table."""

    def keep(draw: Callable[[], str]) -> Callable[[], str]:
        TABLES[name] = draw
        return draw

    return keep


def read(name: str) -> Data:
    """A file of docs/data, or {} if it was never measured."""
    path = DATA / f"{name}.json"
    found: Data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; without rows it says so."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    if not lines:
        return "*not measured yet*"
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines])


def percent(found: Data | None, *, interval: bool = True) -> str:
    """`39 % [30, 49]`, or a dash."""
    if not found or found.get("value") is None:
        return "–"
    text = f"{100 * found['value']:.0f} %"
    if interval and found.get("low") is not None:
        text += f" [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"
    return text


def points(found: Data | None) -> str:
    """`+35 [27, 44]`, a difference in percentage points."""
    if not found or found.get("value") is None:
        return "–"
    value, low, high = (None if found.get(k) is None else _whole(100 * found[k]) for k in ("value", "low", "high"))
    return f"{value}" if low is None else f"{value} [{low}, {high}]"


def _whole(number: float) -> str:
    """A signed whole number; nothing is "-0"."""
    return f"{round(number):+d}" if round(number) else "0"


def plain(found: Any, digits: int = 2) -> str:
    """`0.89 [0.85, 0.92]`, or a bare number."""
    if isinstance(found, Mapping):
        if found.get("value") is None:
            return "–"
        text = f"{found['value']:.{digits}f}"
        if found.get("low") is not None:
            text += f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
        return text
    return "–" if found is None else f"{found:.{digits}f}"


def draw(text: str, *, keep_marks: bool) -> str:
    """A page with its tables in place; `tables` must have been imported to register them.

    Raises:
        KeyError: a page asks for a table that nobody draws.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        body = TABLES[name]()
        return f"<!-- table: {name} -->\n{body}\n<!-- end -->" if keep_marks else f"\n{body}\n"

    return NUMBER.sub(lambda match: percent(number(match["file"], match["path"])), MARK.sub(fill, text))


def number(file: str, path: str) -> Data:
    """A measured figure `{value, low, high, n}`.

    Raises:
        KeyError: nothing was measured under that name.
    """
    found: Any = read(file)
    for name in path.split("/"):
        found = found[name]
    if found["value"] is None:
        raise KeyError(f"{file} {path}")
    return found  # type: ignore[no-any-return]


# -- taking over what the commands wrote ------------------------------------------------------------------------------


def trimmed(results: Data) -> dict[str, Any]:
    """`results.json` without what no table needs: media, single items, the selection table, timings."""
    kept = {k: v for k, v in results.items() if k not in ("examples", "items", "timings", "cost", "created", "limit")}
    kept["direction"] = {k: v for k, v in results["direction"].items() if k != "table"}
    kept["modalities"] = {
        m: {k: v for k, v in found.items() if k not in ("projection", "auroc_random_by_layer")}
        for m, found in results["modalities"].items()
    }
    for key in ("transfer", "modality_gap"):
        if key in kept:
            kept[key] = without(kept[key], "by_layer", "random_by_layer")
    if "heads" in kept:
        kept["heads"] = {k: v for k, v in kept["heads"].items() if k not in ("examples", "contrast")}
    return kept


def without(found: Any, *names: str) -> Any:
    """The same without some keys, at any depth."""
    if isinstance(found, dict):
        return {k: without(v, *names) for k, v in found.items() if k not in names}
    return found


def take(folders: Sequence[Path]) -> None:
    """Copy results.json, compare.json, ... of these folders into docs/data, named after the model they measured."""
    DATA.mkdir(exist_ok=True)
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            if path.name == "results.json":
                if found.get("limit"):
                    raise SystemExit(f"{path}: made with --limit; run it in full before it is published")
                name, found = f"study-{found['model']}", trimmed(found)
            else:
                name = path.stem
                if found.get("kind") == "comparison":
                    media = sorted(found["undefended"])
                    name = "compare" if found["model"] == "organism" else f"compare-{found['model']}"
                    name += f"-{media[0]}" if len(media) == 1 else ""
                    found = {k: v for k, v in found.items() if k not in ("rows", "same_strength", "control")}
                    found["matched"] = without(
                        found["matched"], "edit_norm_by_layer", "edit_norm_harmless_by_layer", "seeds"
                    )
            target = DATA / f"{name}.json"
            target.write_text(json.dumps(rounded(found), indent=1) + "\n", encoding="utf-8")
            print(f"{target.relative_to(ROOT)} from {path}")


def rounded(found: Any) -> Any:
    """Five significant digits: more than the intervals deserve, and diffs stay readable."""
    if isinstance(found, float):
        return float(f"{found:.5g}")
    if isinstance(found, dict):
        return {k: rounded(v) for k, v in found.items()}
    if isinstance(found, list):
        return [rounded(v) for v in found]
    return found


def main() -> None:
    """Take over new results if asked to, then draw the tables of the pages that are read where they lie."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folders", nargs="+", type=Path, default=[], help="folders with *.json")
    take(parser.parse_args().folders)
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = draw(old, keep_marks=True)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} drawn again")


if __name__ == "__main__":
    # As a module of its own, so that the tables register where `draw` looks for them.
    import tables

    tables.measured.main()
