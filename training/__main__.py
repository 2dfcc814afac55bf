"""`python -m training`: train the embedded checkpoints from nothing, measure and describe them.

Stages run as processes of one thread each, two at a time, as their inputs allow. Finished stages are files in the work
folder, so a second run continues an interrupted one.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from refusal_plugin.organism import CHECKPOINTS

NEEDS: dict[str, tuple[str, ...]] = {
    "bank": (),
    "text-0": (),
    "text-1": (),
    "vision": (),
    "audio": ("bank",),
    "joint-0": ("text-0", "vision", "audio"),
    "control-0": ("text-0", "vision", "audio"),
    "erosion-0": ("joint-0",),
    "hard-0": ("joint-0",),
    "wary-0": ("erosion-0",),
    "joint-1": ("text-1", "vision", "audio"),
    "erosion-1": ("joint-1",),
}
"""What each stage needs; the order breaks ties."""

OTHER_SEED = 1

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
"""Keeps freed memory in the process: a training step takes a third of the CPU time it takes with glibc's defaults."""


@dataclass
class Running:
    """A stage at work."""

    process: subprocess.Popen[str]
    task: TaskID
    log: IO[str]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, default=Path("build/organism"), help="folder of the stages' files")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS, help="folder of the checkpoints")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="stages at a time")
    parser.add_argument("--both-seeds", action="store_true", help="train a second seed too: measured, not shipped")
    parser.add_argument("--only", nargs="*", default=None, metavar="STAGE", help=f"some of: {' '.join(NEEDS)}")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage:
        return _stage(options.stage, options.work)
    wanted = options.only
    if wanted is None:
        wanted = [name for name in NEEDS if options.both_seeds or not name.endswith(f"-{OTHER_SEED}")]
    unknown = [name for name in wanted if name not in NEEDS]
    if unknown:
        parser.error(f"no stage {unknown[0]!r}; stages are {', '.join(NEEDS)}")
    if not _run(wanted, options.work, max(1, options.jobs)):
        return 1
    if options.only is None:
        from .card import finish

        finish(options.work, options.out)
    return 0


def _stage(name: str, work: Path) -> int:
    """Run one stage in this process; progress goes to standard output, one JSON line each."""
    from . import stages

    began = time.process_time()

    def report(step: int, total: int, note: str) -> None:
        print(json.dumps({"step": step, "total": total, "note": note}), flush=True)

    stages.run(name, work, report)
    (work / f"{name}.seconds").write_text(f"{time.process_time() - began:.0f}\n")
    return 0


def _run(wanted: list[str], work: Path, jobs: int) -> bool:
    """Run the wanted stages, at most `jobs` at a time; False if one failed."""
    console = Console()
    done = {name for name in NEEDS if (work / f"{name}.safetensors").is_file()}
    running: dict[str, Running] = {}
    columns = (
        TextColumn("{task.description:10s}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        try:
            while True:
                for name in wanted:
                    ready = name not in done and name not in running and all(n in done for n in NEEDS[name])
                    if ready and len(running) < jobs:
                        running[name] = _start(name, work, progress)
                if not running:
                    missing = [n for n in wanted if n not in done]
                    if missing:
                        console.print(f"cannot run {', '.join(missing)}: they need stages that were not asked for")
                    return not missing
                for name, job in list(running.items()):
                    _follow(name, job, progress)
                    if job.process.poll() is not None:
                        _follow(name, job, progress)
                        job.log.close()
                        del running[name]
                        if job.process.returncode:
                            console.print(f"stage {name} failed, see {work / name}.log")
                            return False
                        done.add(name)
                time.sleep(0.5)
        finally:
            for job in running.values():
                job.process.terminate()


def _start(name: str, work: Path, progress: Progress) -> Running:
    """Start a stage as a process of its own, one thread, output to a log file."""
    path = work / f"{name}.log"
    environment = (
        os.environ | MALLOC | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    )
    with path.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", "--work", str(work), "--stage", name],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
    return Running(process, progress.add_task(name, total=None, note=""), path.open())


def _follow(name: str, job: Running, progress: Progress) -> None:
    """Show what a stage has written since the last look."""
    for line in job.log:
        try:
            found = json.loads(line)
            progress.update(job.task, completed=found["step"], total=found["total"], note=found["note"].splitlines()[0])
        except (ValueError, KeyError, TypeError):
            continue  # a warning of a library, kept in the log
        for extra in found["note"].splitlines()[1:]:
            progress.console.print(f"{name} {found['step']}: {extra.strip()}")


if __name__ == "__main__":
    sys.exit(main())
