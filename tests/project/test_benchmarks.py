"""The published benchmark rows, and what a run of some sections leaves of them. Times are for `make bench`."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.__main__ import RESULTS, merged  # noqa: E402


def row(name: str, ratio: float) -> dict[str, object]:
    return {"name": name, "shape": "organism", "ratio": ratio}


def test_a_run_of_some_sections_keeps_the_rows_of_the_others() -> None:
    old = [row("a", 1.0), row("b", 2.0)]
    assert merged(old, [row("c", 3.0), row("b", 2.5)]) == [row("a", 1.0), row("b", 2.5), row("c", 3.0)]
    assert merged([], [row("a", 1.0)]) == [row("a", 1.0)]


def test_published_rows_are_whole_and_stand_once() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert rows
    for one in rows:
        assert set(one) == {"name", "shape", "ratio", "low", "high", "target", "unit"}, one
        assert 0 < one["low"] <= one["ratio"] <= one["high"], one
        assert one["target"] == "" or one["target"].split()[0] in ("<=", ">="), one
    assert len({(one["name"], one["shape"]) for one in rows}) == len(rows)
