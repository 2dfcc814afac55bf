"""All measurements, one table: `python -m benchmarks [--quick] [--only reading,memory]`; writes results.json."""

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from . import choosing, clock, fits, generating, memory, reading, scaling, shapes, starting
from .clock import Row

RESULTS = Path(__file__).with_name("results.json")
WHOLE, QUICK = 15 * 60, 3 * 60
"""Seconds that a run may take, on two quiet cores."""


def sections(quick: bool) -> dict[str, Callable[[], Iterable[Row]]]:
    """Name to measurement; the embedded model only guards itself: its choice, its media, imports, streaming."""
    few = 2 if quick else 3
    found: dict[str, Callable[[], Iterable[Row]]] = {
        "choosing": lambda: choosing.rows(shapes.organism(), repeats=few),
        "fits": lambda: fits.rows(shapes.organism(), repeats=few),
        "scaling": lambda: scaling.rows(repeats=few, quick=quick),
        "starting": lambda: starting.rows(repeats=3 if quick else 5),
        "streaming": lambda: memory.streaming((100, 1000) if quick else (100, 1000, 10_000)),
    }
    if importlib.util.find_spec("benchmarks.heads"):
        found["heads"] = lambda: importlib.import_module("benchmarks.heads").rows(quick=quick)
    if not quick:
        found |= {
            "reading-0.1B": lambda: reading.rows(shapes.qwen("0.1B"), repeats=3, prompts=32),
            "reading-cores-0.1B": lambda: [reading.on_all_cores(shapes.qwen("0.1B"), repeats=2, prompts=32)],
            "media-0.1B": lambda: fits.encoders(shapes.llava(), repeats=1),
            "memory-0.1B": lambda: memory.rows("0.1B", prompts=32, repeats=3),
            "generating-0.1B": lambda: generating.rows(shapes.qwen("0.1B"), repeats=2),
            "endings-0.1B": lambda: generating.varied(shapes.qwen("0.1B"), repeats=2),
            "strengths-0.1B": lambda: [generating.strengths(shapes.qwen("0.1B"), repeats=2, n=4)],
            "choosing-0.1B": lambda: choosing.ranked(shapes.qwen("0.1B"), repeats=2),
            "choosing-0.5B": lambda: choosing.ranked(shapes.qwen("0.5B", dtype=torch.bfloat16), repeats=1),
            "memory-0.5B": lambda: memory.rows("0.5B", prompts=16, repeats=2),
        }
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the embedded model only, few repetitions")
    parser.add_argument("--only", default="", help="names of sections, joined by commas; other rows of the file stay")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the rows are written")
    parser.add_argument("--wall", action="store_true", help="time by the wall clock (always so with several threads)")
    parser.add_argument(
        "--prompts", help="streamed prompts, joined by commas, for --only streaming, e.g. 100,1000,100000"
    )
    options = parser.parse_args()
    if options.wall or options.threads > 1:
        clock.CLOCK = "wall"
    torch.set_num_threads(options.threads)
    os.environ["BENCH_THREADS"] = str(options.threads)
    console, found = Console(stderr=True), []
    chosen = sections(options.quick)
    names = options.only.split(",") if options.only else list(chosen)
    if options.prompts:
        counts = [int(n) for n in options.prompts.split(",")]
        chosen["streaming"] = lambda: memory.streaming(counts)
    unknown = sorted(set(names) - set(chosen))
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(chosen)}")
    spent: list[tuple[str, float, float]] = []
    for name in names:
        begun, used = time.perf_counter(), clock.processor_time()
        found += list(chosen[name]())
        spent.append((name, time.perf_counter() - begun, clock.processor_time() - used))
        console.print(f"{name}: {spent[-1][1]:.0f} s", style="dim")
    written = [row.to_json() for row in found]
    if options.only and options.out.is_file():
        written = merged(json.loads(options.out.read_text(encoding="utf-8")), written)
    options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    Console(width=160).print(drawn(found, options.threads))
    Console(width=160).print(bill(spent, QUICK if options.quick else WHOLE))


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a file after a run of some sections: measured ones replaced where they stood, new ones behind."""
    fresh = {(row["name"], row["shape"]): row for row in new}
    kept = [fresh.pop((row["name"], row["shape"]), row) for row in old]
    return kept + list(fresh.values())


def drawn(rows: Iterable[Row], threads: int) -> Table:
    """The table; a ratio is the median of the repetitions, with its quartiles."""
    where = f"{platform.system()} {platform.machine()}, {threads} CPU thread{'s' if threads > 1 else ''}"
    table = Table(title=rf"Ratios to the baseline, median \[quartiles]; {where}")
    for head in ("measured", "model", "ratio", "quartiles", "unit", "target", ""):
        table.add_column(
            head, justify="right" if head in ("ratio", "quartiles") else "left", no_wrap=head != "measured"
        )
    for row in rows:
        mark = {True: "kept", False: "[red]missed[/red]", None: ""}[row.met]
        spread = f"[{row.low:.2f}, {row.high:.2f}]".replace("[", r"\[")
        table.add_row(row.name, row.shape, f"{row.ratio:.2f}", spread, row.unit, row.target, mark)
    return table


def bill(spent: Sequence[tuple[str, float, float]], limit: float) -> Table:
    """What the run itself cost: (section, seconds by the wall clock, seconds of the processor), and their sum."""
    wall, processor = (sum(one[k] for one in spent) for k in (1, 2))
    table = Table(title=f"Time of this run; a whole one may take {limit:.0f} s", show_footer=True)
    table.add_column("part", footer="sum")
    table.add_column("seconds", f"{wall:.0f}", justify="right")
    table.add_column("of the processor", f"{processor:.0f}", justify="right")
    for name, seconds, used in sorted(spent, key=lambda one: -one[1]):
        table.add_row(name, f"{seconds:.1f}", f"{used:.1f}")
    return table


if __name__ == "__main__":
    main()
