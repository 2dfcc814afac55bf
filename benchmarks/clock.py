"""Ratios of times, fair on a machine with moods: the runs take turns, and each repetition gives one ratio.

Times of jobs on a GPU are those of its events, others are the processor's own (of all threads, and of processes that a
job starts): what other programs take from a shared machine does not count. `CLOCK = "wall"` counts it.

A row says `ratio` times the baseline; `target` is a limit from above ("<= 1.10") or below (">= 8.00").
"""

import gc
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

Job = Callable[[], object]
CLOCK: Literal["cpu", "wall", "gpu"] = "cpu"
"""Which clock times a job; with several threads only the wall clock says what they gain."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured, and after "against" its baseline.
        shape: model it ran on.
        ratio: median over the repetitions.
        low, high: lower and upper quartile of the repetitions.
        target: limit set beforehand, "" where there is none.
        unit: "x time" or "x memory".
    """

    name: str
    shape: str
    ratio: float
    low: float
    high: float
    target: str
    unit: str = "x time"

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the target; None where there is none."""
        if not self.target:
            return None
        sign, limit = self.target.split()
        return self.ratio <= float(limit) if sign == "<=" else self.ratio >= float(limit)

    def to_json(self) -> dict[str, Any]:
        """As written to results.json."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def take_turns(jobs: Sequence[Job], repeats: int, *, warm: bool = True) -> list[list[float]]:
    """Seconds of every job in every repetition; the order is reversed each time."""
    if warm:
        for job in jobs:
            job()
    seconds: list[list[float]] = [[] for _ in jobs]
    for repetition in range(repeats):
        order = list(range(len(jobs)))
        for k in order if repetition % 2 == 0 else reversed(order):
            gc.collect()
            seconds[k].append(timed(jobs[k]))
    return seconds


def timed(job: Job) -> float:
    """Seconds of one run by `CLOCK`; on a GPU by events of the device."""
    if CLOCK == "gpu":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        job()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000
    clock = processor_time if CLOCK == "cpu" else time.perf_counter
    start = clock()
    job()
    return clock() - start


def processor_time() -> float:
    """Seconds of all threads of this process and of the processes it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def against(
    name: str, shape: str, job: Job, baseline: Job, *, repeats: int, target: str = "", warm: bool = True
) -> Row:
    """Time of a job over the time of its baseline."""
    mine, theirs = take_turns((job, baseline), repeats, warm=warm)
    return summary(name, shape, [a / b for a, b in zip(mine, theirs, strict=True)], target)


def faster(name: str, shape: str, job: Job, baseline: Job, *, repeats: int, target: str = "", warm: bool = True) -> Row:
    """How many times faster a job is than its baseline: time of the baseline over the job's."""
    mine, theirs = take_turns((job, baseline), repeats, warm=warm)
    return summary(name, shape, [b / a for a, b in zip(mine, theirs, strict=True)], target, "x faster")


def summary(name: str, shape: str, ratios: Sequence[float], target: str = "", unit: str = "x time") -> Row:
    """Median and quartiles."""
    if len(ratios) == 1:
        return Row(name, shape, ratios[0], ratios[0], ratios[0], target, unit)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Row(name, shape, middle, low, high, target, unit)
