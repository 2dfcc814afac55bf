"""Head attribution against the bare forward pass, and against TransformerLens' `stack_head_results @ r`.

    python -m benchmarks.heads JOB SHAPE      prints the bytes that a job adds to the loaded model

All layers, all heads, the direction behind the last layer. Ours keeps d_head numbers per head at one token; the peer
builds every head's write of width d_model at every position it caches (asked for the last one only). Without
TransformerLens its rows are left out. Prompts are encoded before the clock starts, on both sides.
"""

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

import refusal_plugin as rp
from refusal_plugin.heads.attribution import direct_contributions
from refusal_plugin.heads.targets import targets

from .clock import Job, Row, against, faster, summary
from .memory import answers, reset, status
from .shapes import random_qwen, word_prompts, words_tokenizer

PROMPTS, WORDS = 8, 96


def rows(*, quick: bool = False) -> Iterable[Row]:
    """Added time, and time and memory beside the peer where it is installed."""
    size, repeats = ("0.1B", 3) if quick else ("0.5B", 3)
    name = f"head attribution, {PROMPTS} prompts of {WORDS} words, all heads"
    bare, ours = forward_job(size), attribute_job(size)
    yield against(f"{name}, against the bare forward pass", size, ours, bare, repeats=repeats, target="<= 1.15")
    if importlib.util.find_spec("transformer_lens") is None:
        return
    name += ", against stack_head_results"
    yield faster(name, size, ours, stack_job(size), repeats=max(2, repeats // 2))
    ratios = []
    for _ in range(1 if quick else 2):
        mine, theirs = answers(*(["benchmarks.heads", job, size] for job in ("attribute", "stack")))
        ratios.append(mine["bytes"] / theirs["bytes"])
    yield summary(f"memory of {name}", size, ratios, "<= 0.20", "x memory")


def batch_of(model: Any = None) -> Any:
    """The prompts, encoded as one batch; every shape reads the same words."""
    source = model or rp.load(random_qwen("0.1B").eval(), tokenizer=words_tokenizer())
    return rp.encode(source, list(word_prompts(PROMPTS, shortest=WORDS, longest=WORDS)))


def direction_of(module: nn.Module) -> tuple[torch.Tensor, int]:
    """A random unit direction behind the last layer."""
    config: Any = module.config
    drawn = torch.randn(config.hidden_size, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm(), config.num_hidden_layers - 1


def forward_job(size: str) -> Job:
    """The module that nothing has wrapped."""
    module = random_qwen(size).eval().requires_grad_(False)
    batch = batch_of()

    def forward() -> None:
        with torch.no_grad():
            module(**batch.inputs, logits_to_keep=1)

    return forward


def attribute_job(size: str) -> Job:
    """What `attribute_heads` does behind encoding: read vectors, one trace, a few numbers back."""
    module = random_qwen(size).eval().requires_grad_(False)
    model = rp.load(module, tokenizer=words_tokenizer())
    batch, aims = batch_of(model), targets(model, direction_of(module))
    work = [(list(range(batch.size)), batch)]

    def attribute() -> object:
        return list(direct_contributions(model, aims, work, None))

    return attribute


def stack_job(size: str) -> Job:
    """TransformerLens: cache what `stack_head_results` needs, build the heads' writes at the last token, project."""
    from transformer_lens.model_bridge.sources.transformers import boot
    from transformers import PreTrainedTokenizerFast

    module = random_qwen(size).eval().requires_grad_(False)
    r, layer = direction_of(module)
    batch = batch_of()
    with tempfile.TemporaryDirectory() as folder:
        words_tokenizer().save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        bridge: Any = boot("qwen2", hf_model=module, tokenizer=tokenizer, device="cpu")
    ids = batch.inputs["input_ids"]

    def stack() -> object:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(ids, return_type=None)
            return cache.stack_head_results(layer=layer + 1, pos_slice=-1) @ r

    return stack


JOBS: dict[str, Callable[[str], Job]] = {"forward": forward_job, "attribute": attribute_job, "stack": stack_job}


def main() -> None:
    """Load, reset the mark, work, report."""
    job = JOBS[sys.argv[1]](sys.argv[2])
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    before = status("VmRSS")
    reset()
    job()
    print(json.dumps({"bytes": max(1, status("VmHWM") - before)}))


if __name__ == "__main__":
    main()
