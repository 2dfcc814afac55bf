"""Peak memory, each job in a process of its own: a peak cannot be taken back within one.

    python -m benchmarks.memory JOB SHAPE N WINDOW      prints bytes

Reading is measured as what a job adds to the loaded model, streaming as the peak of the whole process.

The high-water mark is reset behind loading where Linux allows it, so that weights do not hide what the job takes. And
glibc is told to hand large blocks back at once: what it keeps of freed ones depends on their order, and makes the same
bare pass peak at anything between 370 and 610 MB, run after run.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import refusal_plugin as rp
from refusal_plugin.inference.streaming import stream_moments
from refusal_plugin.prompts import Prompt

from .clock import Row, summary
from .shapes import Shape, organism, random_qwen, word_prompts, words_tokenizer

STATUS = Path("/proc/self/status")
HELD = 65536
"""Bytes: larger blocks go back to the system when they are freed (glibc)."""


def reset() -> None:
    """Begin the high-water mark anew."""
    with contextlib.suppress(OSError):  # elsewhere the mark includes loading, in every job alike
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status(key: str) -> int:
    """Bytes of a line of /proc/self/status; elsewhere the high-water mark."""
    if STATUS.is_file():
        for line in STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rows(size: str, *, prompts: int = 64, repeats: int = 3) -> list[Row]:
    """Reading all layers against the bare forward pass over the same batches."""
    ratios = []
    for _ in range(repeats):
        mine, theirs = answers(command("collect", size, prompts), command("forward", size, prompts))
        ratios.append(mine["bytes"] / theirs["bytes"])
    name = f"memory of residuals of all layers, {prompts} prompts, against the bare forward pass"
    return [summary(name, size, ratios, "<= 1.25", "x memory")]


def streaming(counts: Iterable[int]) -> list[Row]:
    """Moments of more and more prompts in one process on the embedded model: its peak so far, against the first count.

    Windows hold as many prompts as the first count, so that every window does the same; what is compared is their
    number. Peaks are of the whole process, weights included.
    """
    wanted = sorted(counts)
    if any(str(n // wanted[0]).strip("0") != "1" or n % wanted[0] for n in wanted):
        raise ValueError(f"{wanted}: give the first count and 10, 100, ... times as many")
    (found,) = answers(command("moments", "organism", wanted[-1], wanted[0]))  # some three seconds per 1,000 prompts
    peaks = found["peaks"]
    first = peaks[str(wanted[0])]
    name = "peak memory of streaming {:,} prompts, against that of the first {:,}"
    return [
        summary(name.format(n, wanted[0]), "organism", [peaks[str(n)] / first], "<= 1.10", "x memory")
        for n in wanted[1:]
    ]


def command(job: str, shape: str, n: int, window: int = 0) -> list[str]:
    """Arguments of a process that does one job of this file."""
    return ["benchmarks.memory", job, shape, str(n), str(window)]


def answers(*commands: list[str]) -> list[dict[str, Any]]:
    """What processes print about their jobs. They run at the same time: memory, unlike time, is not shared."""
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": str(HELD)}

    def run(arguments: list[str]) -> dict[str, Any]:
        whole = [sys.executable, "-m", *arguments]
        done = subprocess.run(whole, check=True, capture_output=True, text=True, env=environment)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    with ThreadPoolExecutor(len(commands)) as pool:
        return list(pool.map(run, commands))


def many(n: int) -> Iterator[Prompt]:
    """`n` prompts of the embedded model's world, drawn again and again."""
    from refusal_plugin.organism.data import organism_prompts

    base = [p for p in organism_prompts(split="train", modality="text") if p.role in ("harmful", "benign")]
    for k in range(n):
        one = base[k % len(base)]
        yield Prompt(one.text, role=one.role, pair=f"{one.pair}-{k}", id=f"{k}")


def peaks(shape: Shape, n: int, window: int) -> dict[str, int]:
    """Peak of this process after 1, 10, 100, ... windows and at the end; the curve goes to stderr as it grows."""
    found: dict[str, int] = {}

    def note(done: int, _found: Any) -> None:
        rounds = done // window
        if done == n or str(rounds).strip("0") == "1":
            found[str(done)] = status("VmHWM")
            print(f"{done:,} prompts: {found[str(done)] / 1e6:.1f} MB", file=sys.stderr, flush=True)

    stream_moments(shape.model, many(n), window=window, keep_up=note)
    return found


def work(job: str, shape: Shape | Any, n: int) -> None:
    """One job in this process."""
    prompts = word_prompts(n, longest=120)
    if job == "collect":
        rp.collect_activations(shape, prompts, progress=False)
        return
    with torch.no_grad():
        for _, batch in rp.batches(rp_source(shape), prompts, token_budget=8192, max_rows=128):
            shape(**batch.inputs, logits_to_keep=1)


def rp_source(module: Any) -> Any:
    """What encoding needs, for a bare module."""
    from refusal_plugin.models import module_inputs

    return module_inputs(module, words_tokenizer())


def main() -> None:
    """Load, reset the mark, work, report."""
    job, size, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    shape: Any
    if size == "organism":
        shape = organism()
    else:
        shape = random_qwen(size).eval().requires_grad_(False)
        if job != "forward":
            shape = rp.load(shape, tokenizer=words_tokenizer())
    before = status("VmRSS")
    reset()
    if job == "moments":
        print(json.dumps({"peaks": peaks(shape, n, int(sys.argv[4]))}))
        return
    work(job, shape, n)
    print(json.dumps({"bytes": max(1, status("VmHWM") - before)}))


if __name__ == "__main__":
    main()
