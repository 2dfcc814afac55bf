"""How the phrase judge labels answers that were labelled by hand.

    python -m tests.support.judge_table               figures and confusion table of every round, as the grammars stand
    python -m tests.support.judge_table --missed      and every answer that is labelled otherwise
    python -m tests.support.judge_table --keep NAME   keep the figures under a name in docs/data/judge.json

The set is tests/evaluation/data/answers.jsonl: one answer a line, with its language, the kind of trap it is, its label,
and the round in which it was written. A round is measured once before the grammars may learn from it (docs/judges.md).
Rounds 5 to 7 are what a real model of half a billion parameters said: all its refusals, with how often each came, and
its answers to benign requests; what it said to harmful requests without refusing stays out.
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
ANSWERS = ROOT / "tests" / "evaluation" / "data" / "answers.jsonl"
KEPT = ROOT / "docs" / "data" / "judge.json"
GROUPS = ("English", "other known languages", "unknown languages")
PARTS = (
    "1, read while the grammars were written",
    "1, kept apart",
    "2",
    "3",
    "4",
    "5, a real model",
    "6, a real model",
    "7, a real model",
)


def read() -> list[dict[str, Any]]:
    """The labelled answers, each with its part of `PARTS`: the first round is halved by a hash of the text."""
    rows = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    return [{**row, "part": part(row)} for row in rows]


def part(row: dict[str, Any]) -> str:
    """The round of an answer; of the first, the half (lowest bit of the first byte of the text's SHA-256)."""
    if row["round"] > 1:
        return next(name for name in PARTS[2:] if name.startswith(str(row["round"])))
    return PARTS[0] if hashlib.sha256(row["text"].encode()).digest()[0] % 2 else PARTS[1]


def group(language: str) -> str:
    """The group of a language code."""
    return {"en": GROUPS[0], "other": GROUPS[2]}.get(language, GROUPS[1])


def measure(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Per group: the confusion table, precision and recall of refusal (late ones included) with Wilson intervals."""
    found: dict[str, Any] = {}
    judge = PhraseJudge()
    for name in GROUPS:
        chosen = [row for row in rows if group(row["language"]) == name]
        seen = [(row["label"], judge.one(row["text"], None, row.get("request", ""))) for row in chosen]
        pairs = [pair for pair, row in zip(seen, chosen, strict=True) for _ in range(row.get("times", 1))]
        both = sum(a in REFUSALS and b in REFUSALS for a, b in pairs)
        found[name] = {
            "n": len(pairs),
            "precision": share(both, sum(b in REFUSALS for _, b in pairs)),
            "recall": share(both, sum(a in REFUSALS for a, _ in pairs)),
            "wordings": share(
                sum(a in REFUSALS and b in REFUSALS for a, b in seen), sum(a in REFUSALS for a, _ in seen)
            ),
            "right": share(sum(a == b for a, b in pairs), len(pairs)),
            "table": [{"true": a, "found": b, "n": n} for (a, b), n in sorted(Counter(pairs).items())],
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
        lines.append(f"{name}: {one['n']} answers")
        for key in ("precision", "recall", "wordings", "right"):
            figure = one[key]
            if figure["n"]:
                values = (figure[k] for k in ("value", "low", "high"))
                lines.append("  {:10} {:.3f} [{:.3f}, {:.3f}]  n = {}".format(key, *values, figure["n"]))
        seen = [label for label in LABELS if any(label in (row["true"], row["found"]) for row in one["table"])]
        lines.append("  " + "true \\ found".ljust(14) + "".join(label.rjust(14) for label in seen))
        cells = {(row["true"], row["found"]): row["n"] for row in one["table"]}
        lines += ["  " + a.ljust(14) + "".join(str(cells.get((a, b), 0)).rjust(14) for b in seen) for a in seen]
    return "\n".join(lines)


def main() -> None:
    """Print the tables; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missed", action="store_true")
    parser.add_argument("--keep")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    for name in given.part:
        rows = [row for row in read() if row["part"] == name]
        found = measure(rows)
        print(f"round {name}\n{words(found)}\n")
        if given.keep:
            kept.setdefault(given.keep, {})[name] = found
        for row in rows if given.missed else ():
            label = PhraseJudge().one(row["text"], None, row.get("request", ""))
            if label != row["label"]:
                print(f"{row['id']:10} {row['label']:>12} -> {label:12} {row['text'][:150]!r}")
    if given.keep:
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
