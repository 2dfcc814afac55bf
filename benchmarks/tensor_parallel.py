"""A model whose weights are spread over processes (tensor parallel), against the same model whole.

    torchrun --nproc-per-node 2 -m benchmarks.tensor_parallel         needs accelerate (pip install accelerate)

transformers cuts the weights (`from_pretrained(tp_plan="auto")`), nnsight wraps what it is given, and every process
traces the same prompts. The stream between blocks is whole in each of them, so reading, scoring and edited answers need
nothing new. Heads are spread, so head work is refused (`models/conservation.py` says why). Runs on CPU processes (gloo)
and on GPUs (nccl). The first process prints one line of JSON.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import refusal_plugin as rp
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.prompts import PromptSet

from .shapes import SIZES, random_qwen, word_prompts, words_tokenizer

SIZES.setdefault(
    "tiny",
    {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    },
)
REFUSAL = torch.tensor([50, 51])


def main() -> None:
    """Cut, load, compare."""
    gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpu else "gloo")
    torch.set_num_threads(1)
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    whole = random_qwen("tiny").eval().requires_grad_(False).to(place)
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    if dist.get_rank() == 0:
        whole.save_pretrained(Path(folder[0]))  # type: ignore[operator]
    dist.broadcast_object_list(folder)
    found = compared(spread(folder[0]), whole)
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def spread(folder: str) -> Any:
    """The model with a part of its weights in each process."""
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(folder, tp_plan="auto", dtype=torch.float32)
    module.generation_config.eos_token_id, module.generation_config.pad_token_id = None, 0
    return module.eval().requires_grad_(False)


def compared(parts: Any, whole: Any) -> dict[str, Any]:
    """Largest differences of streams and scores, and whether edited answers are the same tokens."""
    weight = parts.model.layers[0].mlp.down_proj.weight
    models = [rp.load(module, tokenizer=words_tokenizer()) for module in (parts, whole)]
    prompts = PromptSet(word_prompts(8, shortest=3, longest=9))
    edit = rp.addition({1: torch.ones(SIZES["tiny"]["hidden_size"])})
    streams = [rp.collect_activations(model, prompts, progress=False).values for model in models]
    scores = [refusal_scores(model, Encoded.of(model, prompts), REFUSAL, edit).score for model in models]
    answers = [rp.generate(model, prompts, edit, max_new_tokens=6, progress=False) for model in models]
    return {
        "processes": dist.get_world_size(),
        "share of a weight here": weight.to_local().numel() / weight.numel(),
        "streams differ by": float((streams[0] - streams[1]).abs().max()),
        "scores differ by": float((scores[0] - scores[1]).abs().max()),
        "same answers": answers[0] == answers[1],
        "heads": rp.anatomy(models[0]).conservation.leftover,
    }


if __name__ == "__main__":
    main()
