"""Ratios to the bare model, measured interleaved in one process: reading all layers, and steered generation.

python benchmarks/bare_forward.py [--repeats 9] [--prompts 64]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch

import refusal_plugin as rp
from refusal_plugin.answers import generate_ids
from refusal_plugin.models import hf_module
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.traced.read import residuals


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every run, taken in turn so that a machine's moods hit all of them alike."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--prompts", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = rp.load("organism")
    bare = copy.deepcopy(hf_module(rp.load("organism")))  # never wrapped in anything that traces
    batch = rp.encode(model, list(organism_prompts(split="test", modality="text"))[: options.prompts])
    last = batch.roles["last"].int().argmax(1, keepdim=True)
    blocks, d_model = rp.layers(model), rp.anatomy(model).d_model
    edit = rp.addition({layer: torch.zeros(d_model) for layer in range(len(blocks))}, where="last")

    def forward() -> None:
        with torch.no_grad():
            bare(**batch.inputs)

    def read() -> None:
        with torch.no_grad(), model.trace(**batch.inputs):
            residuals(blocks, last).save()

    def plain() -> None:
        with torch.no_grad():
            bare.generate(**batch.inputs, max_new_tokens=16, do_sample=False)

    def steered() -> None:
        generate_ids(model, batch.inputs, edit, max_new_tokens=16)

    def hooked() -> None:
        with edit.attached(bare, rp.anatomy(model)), torch.no_grad():
            bare.generate(**batch.inputs, max_new_tokens=16, do_sample=False)

    found = interleaved({"forward": forward, "read": read}, options.repeats)
    found |= interleaved({"plain": plain, "steered": steered, "hooked": hooked}, max(3, options.repeats // 3))
    print(f"organism, {batch.size} prompts of up to {batch.length} tokens, one CPU thread")
    for name, run, base in (
        ("residuals of all layers, last prompt token, in a trace", "read", "forward"),
        ("generation, edit at every layer and step, in a trace", "steered", "plain"),
        ("generation, edit at every layer and step, torch hooks", "hooked", "plain"),
    ):
        ratios = [a / b for a, b in zip(found[run], found[base], strict=True)]
        print(f"{statistics.median(ratios):5.2f}x [{min(ratios):.2f}, {max(ratios):.2f}]  {name}")


if __name__ == "__main__":
    main()
