"""Steered generation with every defence: the same tokens here and on the server.

Trusted in every modality. The sandbox starts a process per request, so there each defence answers in one modality, in
turn.
"""

from collections.abc import Callable
from typing import Any

import pytest

from refusal_plugin.defences import REGISTRY, DefenceData, fit_defence
from refusal_plugin.inference.answers import generate
from refusal_plugin.organism.data import organism_prompts

pytestmark = pytest.mark.ndif

MODALITIES = ("text", "image", "video", "audio")


@pytest.fixture(scope="module")
def data(organism: Any) -> DefenceData:
    text = organism_prompts(split="train", modality="text", limit=24)
    media = [
        organism_prompts(split=s, modality=m, limit=20, renderings=1) for s in ("train", "val") for m in MODALITIES[1:]
    ]
    prompts = text + organism_prompts(split="val", modality="text", limit=8)
    for part in media:
        prompts = prompts + part
    return DefenceData.of(organism, prompts)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_steered_answers(name: str, mode: str, organism: Any, data: DefenceData, same: Callable[..., Any]) -> None:
    defence = fit_defence(name, organism, data)
    turn = sorted(REGISTRY).index(name) % len(MODALITIES)
    used = MODALITIES if mode == "trusted" else MODALITIES[turn : turn + 1]
    asked = {m: organism_prompts(split="test", modality=m, limit=1, renderings=1) for m in used}  # type: ignore[arg-type]

    def run(model: Any, remote: bool) -> list[Any]:
        said = []
        for modality, prompts in asked.items():
            edit = defence.edit(modality=modality)  # type: ignore[arg-type]
            said += generate(model, prompts, edit, system=defence.system, max_new_tokens=6, remote=remote)
        return [answer.ids for answer in said]

    same(f"answers with {name}", run, list, requests=len(used))
