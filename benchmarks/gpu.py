"""The rows that need a GPU, in one run of at most eight minutes: `make bench-gpu`.

    python -m benchmarks.gpu              every size, bfloat16, times by the device's events; writes docs/data/gpu.json
    python -m benchmarks.gpu --dry        no GPU: the same sections on a tiny model of this machine, one repetition

Sections go from the cheapest to the dearest; one that would begin behind the limit is left out, and the log says so. It
is written anew behind every section, so that a run that is cut off leaves what it has.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import refusal_plugin as rp
from refusal_plugin.inference.activations import collect_activations

from . import choosing, clock, generating, reading, shapes
from .clock import Row, summary
from .shapes import Shape

OUT = Path(__file__).resolve().parents[1] / "docs" / "data" / "gpu.json"
LIMIT = 8 * 60
SIZES = ("0.5B", "7B")
TIGHT = 1.3
"""Memory that reading may take in the row on back-off, as a multiple of what is allocated before it."""


def sections(sizes: Iterable[str], device: str, repeats: int) -> dict[str, Callable[[], Iterable[Row]]]:
    """Name to measurement, cheapest first."""
    found: dict[str, Callable[[], Iterable[Row]]] = {}

    def shape(size: str) -> Shape:
        return shapes.qwen(size, device, torch.bfloat16)

    for size in sizes:
        n = 4 if size == "tiny" else 64
        found[f"reading-{size}"] = lambda s=size, n=n: reading.rows(shape(s), repeats=repeats, prompts=n)  # type: ignore[misc]
        found[f"generating-{size}"] = lambda s=size, n=n: generating.rows(shape(s), repeats=repeats, tokens=n)  # type: ignore[misc]
        found[f"choosing-{size}"] = lambda s=size: choosing.ranked(shape(s), repeats=1)  # type: ignore[misc]
        found[f"copies-{size}"] = lambda s=size: [copies(shape(s))]  # type: ignore[misc]
        found[f"backoff-{size}"] = lambda s=size: [backoff(shape(s))]  # type: ignore[misc]
    return found


def copies(shape: Shape, tokens: int = 16) -> Row:
    """Copies from the host while answering under an edit of every layer, against one for each of its tensors."""
    edit = rp.addition({k: torch.zeros(shape.d_model) for k in range(shape.n_layers)}, where="last")
    inputs = rp.encode(shape.model, list(shapes.word_prompts(4))).inputs
    moved = 0
    plain = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        nonlocal moved
        result: torch.Tensor = plain(self, *args, **options)
        moved += self.device != result.device and self.shape[-1:] == (shape.d_model,)
        return result

    with edit.attached(shape.bare, rp.anatomy(shape.model)), torch.no_grad():
        torch.Tensor.to = to  # type: ignore[method-assign, assignment]
        try:
            ready = {name: plain(value, next(shape.bare.parameters()).device) for name, value in inputs.items()}
            shape.bare.generate(**ready, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)  # type: ignore[operator]
        finally:
            torch.Tensor.to = plain  # type: ignore[method-assign]
    name = f"copies to the device in {tokens} steps of an edit, against its tensors"
    return summary(name, shape.name, [max(moved, 1) / shape.n_layers], "<= 1.00", "x copies")


def backoff(shape: Shape) -> Row:
    """Reading in batches that do not fit, halved by real errors of the device, against batches that do."""
    prompts = shapes.word_prompts(16 if shape.name.startswith("tiny") else 512, shortest=64, longest=120)

    def read(budget: int) -> torch.Tensor:
        return collect_activations(shape.model, prompts, token_budget=budget, max_rows=512, progress=False).values

    with clocked() as plain:
        expected = read(4096)
    with tight(), clocked() as halved:
        found = read(1_000_000)
    gap = float((found - expected).norm() / expected.norm())
    if gap > 0.02:
        raise AssertionError(f"halved batches differ by {gap:.3f} of the norm")
    return summary(
        "reading with a batch too large for memory, against fitting ones", shape.name, [halved[0] / plain[0]]
    )


@contextmanager
def clocked() -> Iterator[list[float]]:
    """Seconds of the block, by the clock in use."""
    found: list[float] = []
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    yield found
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    found.append(time.perf_counter() - start)


@contextmanager
def tight() -> Iterator[None]:
    """Little memory of the device: what is taken now, and a third more."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.empty_cache()
    share = TIGHT * torch.cuda.memory_allocated() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default=",".join(SIZES), help="names of shapes, joined by commas")
    parser.add_argument("--dry", action="store_true", help="on this machine's processor, a tiny model, once")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds behind which no section begins")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error("no GPU here; --dry runs every section on a tiny model")
    clock.CLOCK = "cpu" if options.dry else "gpu"
    sizes = ("tiny",) if options.dry else tuple(options.sizes.split(","))
    log: dict[str, Any] = {
        "device": "cpu" if options.dry else torch.cuda.get_device_name(0),
        "torch": torch.__version__,
    }
    log |= {"dry": options.dry, "seconds": {}, "left_out": [], "failed": {}, "rows": []}
    start = time.perf_counter()
    for name, measure in sections(sizes, "cpu" if options.dry else "cuda", 1 if options.dry else 5).items():
        begun = time.perf_counter()
        if begun - start > options.limit:
            log["left_out"].append(name)
            continue
        try:
            log["rows"] += [row.to_json() for row in measure()]
        except Exception as error:
            log["failed"][name] = f"{type(error).__name__}: {error}"
        log["seconds"][name] = round(time.perf_counter() - begun, 1)
        options.out.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {log['seconds'][name]} s {log['failed'].get(name, '')}", file=sys.stderr, flush=True)
    for row in log["rows"]:
        print(
            f"{row['name']} | {row['shape']} | {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] {row['target']}"
        )


if __name__ == "__main__":
    main()
