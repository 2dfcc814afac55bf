"""Shared by the tests of extraction, edits, selection, evaluation and the study: everything is built once a session."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

# The tiny models live beside their own tests.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

from tiny import TEMPLATE, tiny_model, tiny_tokenizer  # noqa: E402

from refusal_plugin.models import Anatomy, anatomy, load  # noqa: E402
from refusal_plugin.prompts import Prompt, PromptSet  # noqa: E402

MODALITIES = ("text", "image", "video", "audio")


@pytest.fixture(scope="session")
def train() -> PromptSet:
    """Harmful, benign and near-miss text of the organism's training split, 40 of each."""
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(split="train", modality="text", limit=40)


@pytest.fixture(scope="session")
def val() -> PromptSet:
    """Text of its validation split, 10 of each role."""
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(split="val", modality="text", limit=10)


@pytest.fixture(scope="session")
def few() -> dict[str, PromptSet]:
    """Per modality three test prompts of different roles, media as they ship."""
    from refusal_plugin.organism.data import organism_prompts

    return {m: organism_prompts(split="test", modality=m, renderings=1, limit=1) for m in MODALITIES}  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def bare(organism: Any) -> nn.Module:
    """The organism as transformers loads it: nnsight has never touched it."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    from refusal_plugin.organism import checkpoint_path

    module: nn.Module = Thinker.from_pretrained(checkpoint_path("organism"), dtype=torch.float32)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tokens(organism: Any, train: PromptSet) -> Any:
    """The organism's refusal tokens."""
    from refusal_plugin.scores import refusal_tokens

    return refusal_tokens(organism, train, max_new_tokens=8, progress=False)


@pytest.fixture(scope="session")
def candidates(organism: Any, train: PromptSet) -> Any:
    """Difference in means at the last prompt token of every layer."""
    from refusal_plugin.directions import fit

    return fit(organism, train, positions=(-1,), progress=False)


@pytest.fixture(scope="session")
def direction(organism: Any, candidates: Any, val: PromptSet, tokens: Any) -> Any:
    """The organism's direction, selected as a defence."""
    from refusal_plugin.selection import select

    return select(organism, candidates, val, tokens, progress=False)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], SimpleNamespace]:
    """A loaded random model of a family and a second, untouched copy of its module."""
    made: dict[str, SimpleNamespace] = {}

    def build(family: str) -> SimpleNamespace:
        if family not in made:
            module, tokenizer = tiny_model(family)
            twin, _ = tiny_model(family)
            module.generation_config.eos_token_id = twin.generation_config.eos_token_id = None  # never ends early
            model = load(module, tokenizer=tokenizer)
            made[family] = SimpleNamespace(model=model, bare=twin, facts=anatomy(model))
        return made[family]

    return build


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

    Harmful words carry +4 v; the first block's attention averages `v . x` over the prompt and writes it back along v, over
    a floor of noise; the blocks are near identities otherwise; the head reads `REFUSE` along v, and `ANSWER` along the
    embedding of the last prompt token.
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


@pytest.fixture(scope="session")
def planted() -> SimpleNamespace:
    """A model whose refusal direction is known, its prompts, and what the library finds in it."""
    from refusal_plugin.directions import fit
    from refusal_plugin.scores import refusal_tokens

    module, tokenizer = tiny_model("qwen2")
    truth = plant(module, tokenizer)
    model = load(module, tokenizer=tokenizer)
    fitted, validated = planted_prompts(60, "train", 1), planted_prompts(20, "val", 2)
    return SimpleNamespace(
        model=model,
        facts=anatomy(model),
        truth=truth,
        train=fitted,
        val=validated,
        tokens=refusal_tokens(model, fitted, judge=WordJudge(), max_new_tokens=2, progress=False),
        candidates=fit(model, fitted, progress=False),
    )


@pytest.fixture
def facts(organism: Any) -> Anatomy:
    """The organism's anatomy."""
    return anatomy(organism)


__all__ = ["TEMPLATE", "tiny_model", "tiny_tokenizer"]
