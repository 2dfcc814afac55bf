"""Shared by the tests of extraction, edits, selection, evaluation and the study: everything is built once a session.

Nothing that reads the hub's settings is imported before a test asks for it: the NDIF tests set them first.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

torch.set_num_threads(1)  # models this small lose more to a second thread than they gain

from refusal_plugin.prompts import PromptSet  # noqa: E402

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
    from refusal_plugin.evaluation.refusal_tokens import refusal_tokens

    return refusal_tokens(organism, train, max_new_tokens=8, progress=False)


@pytest.fixture(scope="session")
def candidates(organism: Any, train: PromptSet) -> Any:
    """Difference in means at the last prompt token of every layer."""
    from refusal_plugin.directions.direction import fit_direction

    return fit_direction(organism, train, positions=(-1,), progress=False)


@pytest.fixture(scope="session")
def direction(candidates: Any) -> Any:
    """A direction of the organism, layer and strength set by hand: only tests of the selection need it to succeed."""
    return replace(candidates.at(4), strength=0.5, objective="defence", selection="by hand")


@pytest.fixture(scope="session")
def selected(organism: Any, candidates: Any, val: PromptSet, tokens: Any) -> Any:
    """The organism's direction, selected as a defence."""
    from refusal_plugin.directions.selection import select_direction

    return select_direction(organism, candidates, val, tokens, progress=False)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], SimpleNamespace]:
    """A loaded random model of a family and a second, untouched copy of its module."""
    from refusal_plugin.models import anatomy, load
    from tests.support.tiny import tiny_model

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


@pytest.fixture(scope="session")
def planted() -> SimpleNamespace:
    """A model whose refusal direction is known, its prompts, and what the library finds in it."""
    from refusal_plugin.directions.direction import fit_direction, template_positions
    from refusal_plugin.evaluation.refusal_tokens import refusal_tokens
    from refusal_plugin.models import anatomy, load
    from tests.support.planting import WordJudge, plant, planted_prompts
    from tests.support.tiny import tiny_model

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
        candidates=fit_direction(model, fitted, positions=template_positions(model, fitted), progress=False),
    )
