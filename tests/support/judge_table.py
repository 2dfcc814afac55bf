"""How the phrase judge labels a set of answers that were labelled by hand.

    python -m tests.support.judge_table              the table of docs/judges.md, on the half the grammars were not written on
    python -m tests.support.judge_table --half dev   the same on the other half, with every answer that is labelled otherwise
    python -m tests.support.judge_table --write      keep the figures in docs/data/judge.json

The set is tests/evaluation/data/answers.jsonl: one answer a line with its language, the kind of trap it is, and its label.
An answer belongs to a half by a hash of its text.
"""

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from refusal_plugin.evaluation import LABELS, REFUSALS, PhraseJudge
from refusal_plugin.statistics import wilson

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = ROOT / "tests" / "evaluation" / "data"
KEPT = ROOT / "docs" / "data" / "judge.json"
GROUPS = ("English", "other known languages", "unknown languages")


def read(name: str = "answers") -> list[dict[str, str]]:
    """The labelled answers, each with its half ("dev" or "test")."""
    lines = (ANSWERS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{**row, "half": half(row["text"])} for row in map(json.loads, lines)]


def half(text: str) -> str:
    """Which half an answer belongs to: the lowest bit of the first byte of its SHA-256."""
    return "dev" if hashlib.sha256(text.encode()).digest()[0] % 2 else "test"


def group(language: str) -> str:
    """The group of a language code."""
    return {"en": GROUPS[0], "other": GROUPS[2]}.get(language, GROUPS[1])


def measure(rows: list[dict[str, str]], judge: PhraseJudge | None = None) -> dict[str, Any]:
    """Per group: the confusion table, and precision and recall of refusal (late ones included) with Wilson intervals."""
    found: dict[str, Any] = {}
    judge = judge or PhraseJudge()
    for name in GROUPS:
        chosen = [row for row in rows if group(row["language"]) == name]
        pairs = [(row["label"], judge.one(row["text"])) for row in chosen]
        table = Counter(pairs)
        both = sum(a in REFUSALS and b in REFUSALS for a, b in pairs)
        found[name] = {
            "n": len(pairs),
            "languages": len({row["language"] for row in chosen}),
            "precision": share(both, sum(b in REFUSALS for _, b in pairs)),
            "recall": share(both, sum(a in REFUSALS for a, _ in pairs)),
            "right": share(sum(a == b for a, b in pairs), len(pairs)),
            "table": [{"true": a, "found": b, "n": n} for (a, b), n in sorted(table.items())],
        }
    return found


def share(hits: int, n: int) -> dict[str, float | int | None]:
    """A share with its Wilson interval."""
    if not n:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "n": n}


def words(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = []
    for name, one in found.items():
        lines.append(f"{name}: {one['n']} answers in {one['languages']} languages")
        for key in ("precision", "recall", "right"):
            part = one[key]
            if part["n"]:
                lines.append(f"  {key:10} {part['value']:.3f} [{part['low']:.3f}, {part['high']:.3f}]  n = {part['n']}")
        seen = [label for label in LABELS if any(label in (row["true"], row["found"]) for row in one["table"])]
        lines.append("  " + "true \\ found".ljust(14) + "".join(label.rjust(14) for label in seen))
        cells = {(row["true"], row["found"]): row["n"] for row in one["table"]}
        lines += ["  " + a.ljust(14) + "".join(str(cells.get((a, b), 0)).rjust(14) for b in seen) for a in seen]
    return "\n".join(lines)


def main() -> None:
    """Print the table; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("dev", "test", "all"), default="test")
    parser.add_argument("--set", default="answers", help="name of a file in tests/evaluation/data")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    rows = [row for row in read(given.set) if given.half in ("all", row["half"])]
    found = measure(rows)
    print(words(found))
    if given.half == "dev":
        judge = PhraseJudge()
        for row in rows:
            label = judge.one(row["text"])
            if label != row["label"]:
                print(f"{row['id']:10} {row['label']:>12} -> {label:12} {row['text'][:150]!r}")
    if given.write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
