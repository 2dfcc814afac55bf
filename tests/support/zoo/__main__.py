"""Every architecture, tiny: built, tried, written down. `make zoo`, or for a few `make zoo ZOO=qwen2_vl,llava`.

    python -m tests.support.zoo [NAME ...] [--jobs 2] [--out docs/data/models.json] [--again]

What is done stands in `build/zoo/rows.jsonl`, one line a family, as soon as it is done; a run that was stopped goes on
there. Progress goes to the terminal and, with every finding, to `build/zoo/log.txt`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from .work import CHECKPOINTS, ROOT, WORK, plainly, tried

ROWS, LOG = WORK / "rows.jsonl", WORK / "log.txt"
CHUNK = 40
"""Families that one pair of processes takes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="families; default all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "data" / "models.json")
    parser.add_argument("--again", action="store_true", help="forget what is done")
    asked = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    from .families import families

    known = families()
    names = [name for given in asked.names for name in given.split(",") if name]
    if strange := [name for name in names if name not in known]:
        raise SystemExit(f"no such family: {', '.join(strange)}; there are {', '.join(known)}")
    rows = {} if asked.again else _rows()
    todo = names or [name for name in known if name not in rows]
    todo.sort(key=lambda name: not known[name].placeholders)  # those with media take longest: they come first
    for row in _run(tried, todo, asked.jobs):
        rows[row["family"]] = row
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    media = [name for name in todo if name in rows and (CHECKPOINTS / name / "config.json").is_file()]
    for row in _run(plainly, media, asked.jobs):
        rows[row["family"]] |= row
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[row["family"]]) + "\n")
    found = [rows[name] for name in known if name in rows]
    summary = summarise(found)
    print(json.dumps(summary, indent=1))
    if not names:
        asked.out.write_text(json.dumps({"summary": summary, "rows": found}, indent=1) + "\n", encoding="utf-8")
        print(f"{asked.out} written")


def _rows() -> dict[str, Any]:
    lines = ROWS.read_text(encoding="utf-8").splitlines() if ROWS.is_file() else []
    return {row["family"]: row for row in map(json.loads, lines)}


def _run(work: Any, names: list[str], jobs: int) -> Iterable[dict[str, Any]]:
    """The rows as they are done, with progress and the time that is left."""
    started, done = time.monotonic(), 0
    context = multiprocessing.get_context("spawn")
    with LOG.open("a", encoding="utf-8") as log:
        # New processes now and then: what hundreds of models leave behind in one would fill the memory.
        for start in range(0, len(names), CHUNK):
            with ProcessPoolExecutor(jobs, context) as pool:
                for future in as_completed([pool.submit(work, name) for name in names[start : start + CHUNK]]):
                    row, done = future.result(), done + 1
                    left = (time.monotonic() - started) / done * (len(names) - done)
                    bad = {key: said for key, said in row.get("checks", {}).items() if said != "ok"}
                    line = (
                        f"[{done}/{len(names)}, {left / 60:.0f} min left] {row['family']}: {_short(bad) or 'all well'}"
                    )
                    print(line, flush=True)
                    print(line, *(f"    {key}: {said}" for key, said in bad.items()), sep="\n", file=log, flush=True)
                    yield row


def _short(bad: dict[str, str]) -> str:
    return ", ".join(f"{key} {said.split(':')[0]}" for key, said in bad.items())


def verdict(row: dict[str, Any]) -> str:
    """ "all", "one refusal" (one line, whatever it stops) or "fails"."""
    said = [text for text in row["checks"].values() if text != "ok"]
    if not said:
        return "all"
    if any(text.startswith("fails") for text in said):
        return "fails"
    lines = {text.split(": ", 2)[-1].split(": ", 1)[-1] for text in said}
    return "one refusal" if len(lines) == 1 else "several refusals"


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of the verdicts, of text families and of those with media."""
    found: dict[str, Any] = {}
    tried = [row for row in rows if set(row["media"]) - set(row["left_out"])]
    for kind, chosen in (("text", [row for row in rows if not row["media"]]), ("media", tried)):
        verdicts = [verdict(row) for row in chosen]
        found[kind] = {"n": len(chosen), **{word: verdicts.count(word) for word in sorted(set(verdicts))}}
    return found


if __name__ == "__main__":
    sys.exit(main())
