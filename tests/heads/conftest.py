"""Tiny models of many families, built once a session, and the embedded model with a direction."""

from collections.abc import Callable
from typing import Any

import pytest

from refusal_plugin.models import load
from tests.support.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Any]:
    """A loaded random model of a family."""
    made: dict[str, Any] = {}

    def build(family: str) -> Any:
        if family not in made:
            module, tokenizer = tiny_model(family)
            made[family] = load(module, tokenizer=tokenizer)
        return made[family]

    return build


@pytest.fixture(scope="session")
def prompts() -> Any:
    """Test prompts of the embedded model, three of each role and modality."""
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(split="test", renderings=1, limit=3)


@pytest.fixture(scope="session")
def direction(organism: Any) -> Any:
    """A direction of the embedded model in the middle of it."""
    from refusal_plugin.directions.direction import fit_direction
    from refusal_plugin.organism.data import organism_prompts

    train = organism_prompts(split="train", modality="text", limit=24)
    found = fit_direction(organism, train, positions=(-1,), progress=False)
    return found.at(found.n_layers // 2)
