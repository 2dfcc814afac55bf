"""A tiny model with a refusal circuit along a known vector, the prompts that trigger it, and a judge that knows it."""

from typing import Any

import numpy as np
import torch
from torch import nn

from refusal_plugin.prompts import Prompt, PromptSet

REFUSE, ANSWER = "w50", "w51"
HARMFUL_WORDS, OTHER_WORDS = [f"w{k}" for k in range(10)], [f"w{k}" for k in range(10, 40)]


class WordJudge:
    """A planted model refuses with one word."""

    def label(self, prompts: Any, answers: Any) -> list[Any]:
        return ["refusal" if answer.text.startswith(REFUSE) else "compliance" for answer in answers]


def planted_prompts(n: int, split: str, seed: int) -> PromptSet:
    """`n` harmful and `n` benign prompts: a harmful one holds two harmful words among six."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(n):
        words = rng.choice(OTHER_WORDS, 6).tolist()
        made.append(Prompt(" ".join(words), role="benign", pair=f"{split}{k}", split=split, id=f"{split}-b{k}"))  # type: ignore[arg-type]
        places = rng.choice(6, 2, replace=False)
        for place in places:
            words[place] = str(rng.choice(HARMFUL_WORDS))
        made.append(Prompt(" ".join(words), role="harmful", pair=f"{split}{k}", split=split, id=f"{split}-h{k}"))  # type: ignore[arg-type]
    return PromptSet(made)


@torch.no_grad()
def plant(module: nn.Module, tokenizer: Any) -> torch.Tensor:
    """Write a refusal circuit along a known unit vector v into a tiny Qwen2, and return v.

    Harmful words carry +4 v; the first block's attention averages `v . x` over the prompt and writes it back along v,
    over a floor of noise; the blocks are near identities otherwise; the head reads `REFUSE` along v, and `ANSWER` along
    the embedding of the last prompt token.
    """
    m: Any = module
    generator = torch.Generator().manual_seed(7)
    v = torch.randn(32, generator=generator)
    v /= v.norm()
    b = torch.randn(32, generator=generator)
    b -= (b @ v) * v
    b /= b.norm()
    words = 0.4 * torch.randn(64, 32, generator=generator)
    words -= (words @ v).unsqueeze(1) * v
    ids = tokenizer.convert_tokens_to_ids
    words[ids(HARMFUL_WORDS)] += 4 * v
    words[ids("<assistant>")] = 4 * b
    m.model.embed_tokens.weight.copy_(words)
    for layer in m.model.layers:
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            part.weight.mul_(0.02)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.bias.zero_()
        layer.input_layernorm.weight.fill_(1.0)
    first = m.model.layers[0].self_attn
    first.q_proj.weight.zero_()
    first.v_proj.weight[0] = v
    first.o_proj.weight[:, 0] = 6 * v
    m.model.norm.weight.fill_(1.0)
    m.lm_head.weight.copy_(0.05 * torch.randn(64, 32, generator=generator))
    m.lm_head.weight[ids(REFUSE)] = 3 * v
    m.lm_head.weight[ids(ANSWER)] = 3 * b
    return v
