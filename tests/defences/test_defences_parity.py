"""Every method in every modality: the same ids from a traced generation and from plain torch hooks."""

from typing import Any

import pytest
import torch

from refusal_plugin.defences import REGISTRY
from refusal_plugin.inference.answers import generate_ids
from refusal_plugin.models import anatomy, hf_module
from refusal_plugin.prompts import MODALITIES, encode

NEW = 3
STRONG = {"prompt": 1.0, "ras": 1.0, "sarsteer": 1.0, "sarsteer_v1": 1.0, "sarsteer_v2": 1.0}
NOTHING_TO_SEE = {"prompt", "shiftdc", "shiftdc_content"}
"""A system text edits nothing; the modality's mean shift may be too small to change an answer."""


@pytest.fixture(scope="module")
def asked(organism: Any, data: Any) -> Any:
    """Per modality one batch, mostly harmful so that every gate finds something, and what the model says to it."""
    made = {}
    for modality in MODALITIES:
        val = data.prompts.filter(split="val", modality=modality)
        chosen = list(val.filter(role="harmful"))[:4] + list(val.filter(role="benign"))[:1]
        inputs = encode(organism, chosen).inputs
        made[modality] = (inputs, generate_ids(organism, inputs, None, max_new_tokens=NEW))
    return made


def by_hooks(bare: Any, organism: Any, defence: Any, inputs: Any, **options: Any) -> torch.Tensor:
    with defence.attached(bare, facts=anatomy(organism), **options), torch.no_grad():
        ids: torch.Tensor = bare.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    return ids


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_trace_and_hooks_agree(organism: Any, bare: Any, fitted: Any, asked: Any, name: str) -> None:
    defence = fitted(name)
    strength = STRONG.get(name, 1.5)
    changed = False
    # A variant runs the code of its method with other numbers: one modality tells.
    for modality in ("audio",) if REGISTRY[name].switches else MODALITIES:
        inputs, plain = asked[modality]
        edit = defence.edit(strength, modality=modality)
        traced = generate_ids(organism, inputs, edit, max_new_tokens=NEW)
        hooked = by_hooks(bare, organism, defence, inputs, strength=strength, modality=modality)
        assert torch.equal(traced, hooked), modality
        changed = changed or traced.shape != plain.shape or not torch.equal(traced, plain)
    assert changed != (name == "prompt") or name in NOTHING_TO_SEE, "an edit that changes nothing would prove nothing"


@pytest.mark.parametrize(
    "name", sorted(name for name, entry in REGISTRY.items() if name != "prompt" and not entry.switches)
)
def test_strengths_as_rows_are_single_strengths(organism: Any, fitted: Any, asked: Any, data: Any, name: str) -> None:
    defence, modality = fitted(name), "image"
    prompt = data.prompts.filter(split="val", modality=modality, role="harmful")[0]
    strengths = [0.0, 0.4, 1.0]
    twins = [prompt.replace(id=str(k)) for k in range(len(strengths))]
    edit = defence.edit(torch.tensor(strengths), modality=modality)
    assert edit.rows == len(strengths)
    together = generate_ids(organism, encode(organism, twins).inputs, edit, max_new_tokens=NEW)
    for row, strength in enumerate(strengths):
        alone = generate_ids(
            organism, encode(organism, prompt).inputs, defence.edit(strength, modality=modality), max_new_tokens=NEW
        )
        n = min(alone.shape[1], together.shape[1])
        assert torch.equal(alone[0, :n], together[row, :n]), strength


@pytest.mark.parametrize("name", ["mars", "cast", "sarsteer"])
def test_zero_strength_changes_nothing(organism: Any, fitted: Any, asked: Any, name: str) -> None:
    for modality in MODALITIES:
        inputs, plain = asked[modality]
        ids = generate_ids(organism, inputs, fitted(name).edit(0.0, modality=modality), max_new_tokens=NEW)
        assert torch.equal(ids, plain)


def hooks_on(module: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_the_model_is_as_it_was(organism: Any, bare: Any, fitted: Any, asked: Any) -> None:
    inputs, plain = asked["audio"]
    module = hf_module(organism)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    hooks = hooks_on(bare)
    for name in REGISTRY:
        defence = fitted(name)
        with (
            pytest.raises(RuntimeError, match="mine"),
            defence.attached(bare, facts=anatomy(organism), modality="audio"),
        ):
            assert hooks_on(bare) > hooks or defence.edit() is None
            raise RuntimeError("mine")
        assert hooks_on(bare) == hooks, name
    with torch.no_grad():
        assert torch.equal(bare.generate(**inputs, max_new_tokens=NEW, do_sample=False), plain)
    assert torch.equal(generate_ids(organism, inputs, None, max_new_tokens=NEW), plain)
    assert all(torch.equal(value, weights[key]) for key, value in module.state_dict().items())


def test_one_attachment_serves_many_prompts(organism: Any, bare: Any, fitted: Any, asked: Any) -> None:
    """What one prompt decided must not reach the next: the same block, two generations."""
    for name in ("cast", "adasteer", "ras"):
        defence = fitted(name)
        wanted = [by_hooks(bare, organism, defence, asked[m][0], strength=1.0) for m in ("text", "audio")]
        with defence.attached(bare, strength=1.0, facts=anatomy(organism)), torch.no_grad():
            for modality, ids in zip(("text", "audio"), wanted, strict=True):
                found = bare.generate(**asked[modality][0], max_new_tokens=NEW, do_sample=False)
                assert torch.equal(found, ids), name
