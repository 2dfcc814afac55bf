"""Every architecture, tiny: built, tried, written down. `make zoo`, or for a few `make zoo ZOO=qwen2_vl,llava`.

    python -m tests.support.zoo [NAME ...] [--jobs 2] [--out docs/data/models.json] [--again]

What is done stands in `build/zoo/rows.jsonl`, one line a family, as soon as it is done; a run that was stopped goes on
there. Progress goes to the terminal and, with every finding, to `build/zoo/log.txt`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
WORK = ROOT / "build" / "zoo"
ROWS, LOG, CHECKPOINTS = WORK / "rows.jsonl", WORK / "log.txt", WORK / "checkpoints"
LIMIT = 180
"""Seconds that one family may take."""


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
    begun = time.monotonic()
    for row in _run(_tried, todo, asked.jobs, begun):
        rows[row["family"]] = row
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    media = [name for name in todo if name in rows and (CHECKPOINTS / name / "config.json").is_file()]
    for row in _run(_plainly, media, asked.jobs, begun):
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


def _run(work: Any, names: list[str], jobs: int, begun: float) -> Iterable[dict[str, Any]]:
    """The rows as they are done, with progress and the time that is left."""
    started, done = time.monotonic(), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=25) as pool, LOG.open("a", encoding="utf-8") as log:
        for future in as_completed([pool.submit(work, name) for name in names]):
            row, done = future.result(), done + 1
            left = (time.monotonic() - started) / done * (len(names) - done)
            bad = {key: said for key, said in row.get("checks", {}).items() if said != "ok"}
            line = f"[{done}/{len(names)}, {left / 60:.0f} min left] {row['family']}: {_short(bad) or 'all well'}"
            print(line, flush=True)
            print(line, *(f"    {key}: {said}" for key, said in bad.items()), sep="\n", file=log, flush=True)
            yield row


def _short(bad: dict[str, str]) -> str:
    return ", ".join(f"{key} {said.split(':')[0]}" for key, said in bad.items())


def _tried(name: str) -> dict[str, Any]:
    """Build a family and try everything; in a process that has torchvision where there is one."""
    from tests.support import torchvision

    missing = torchvision.enable()
    _calm()
    from .build import build
    from .checks import check
    from .families import families

    family, started = families()[name], time.monotonic()
    row: dict[str, Any] = {"family": name, "hub": family.hub_id, "media": list(family.placeholders), "left_out": ""}
    if missing and "video" in family.placeholders:
        row["left_out"] = f"video: {missing}"
    try:
        with _limited():
            built = build(family)
            row["class"] = type(built.module).__name__
            folder = CHECKPOINTS / name
            built.save(folder)
            row["checks"] = check(built, folder)
            row["left_out"] = row["left_out"] or (f"media: {built.why}" if built.why else "")
            if not family.placeholders:
                _remove(folder)
    except BaseException as error:  # a family that cannot be built, or takes too long, is a row as well
        if isinstance(error, KeyboardInterrupt):
            raise
        row.setdefault("class", "")
        row["checks"] = {"built": f"fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return row | {"seconds": round(time.monotonic() - started, 1)}


def _plainly(name: str) -> dict[str, Any]:
    """What of a multimodal checkpoint loads without torchvision."""
    _calm()
    from refusal_plugin import anatomy, load

    try:
        facts = anatomy(load(CHECKPOINTS / name))
        found: dict[str, Any] = {"without_torchvision": list(facts.modalities), "says": facts.processor_error or ""}
    except Exception as error:
        found = {"without_torchvision": [], "says": " ".join(str(error).split())[:300]}
    _remove(CHECKPOINTS / name)
    return {"family": name, **found}


def _calm() -> None:
    import warnings

    warnings.filterwarnings("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


class _limited:
    """Raises TimeoutError in the block after `LIMIT` seconds."""

    def __enter__(self) -> None:
        import signal

        def late(_signal: int, _frame: Any) -> None:
            raise TimeoutError(f"it takes more than {LIMIT} s")

        signal.signal(signal.SIGALRM, late)
        signal.alarm(LIMIT)

    def __exit__(self, *_about: object) -> None:
        import signal

        signal.alarm(0)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


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
    for kind, chosen in (("text", [r for r in rows if not r["media"]]), ("media", [r for r in rows if r["media"]])):
        verdicts = [verdict(row) for row in chosen]
        found[kind] = {"n": len(chosen), **{word: verdicts.count(word) for word in sorted(set(verdicts))}}
    return found


if __name__ == "__main__":
    sys.exit(main())
