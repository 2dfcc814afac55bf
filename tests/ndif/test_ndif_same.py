"""The same call here and on the server, in both of its modes: equal results, one request for each step."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch

from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.cost import estimate
from refusal_plugin.inference.edits import addition
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.inference.streaming import collect_moments
from refusal_plugin.prompts import PromptSet
from refusal_plugin.recipe_files import recipe, recipes, run_remotely
from refusal_plugin.remote import RemoteError, jobs, settings
from refusal_plugin.remote.backend import Remote, metered
from tests.support.requests import REQUESTS, WITHIN

pytestmark = pytest.mark.ndif

MODALITIES = ("text", "image", "video", "audio")
LOCAL_ONLY = {"study"}
"""Recipes that say so before they begin."""


def parts(value: Any) -> list[Any]:
    """Tensors, numbers and texts inside a result, in order; what differs by machine is left out."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        skipped = {"provenance", "prompts", "model", "seconds"}
        return [part for one in fields(value) if one.name not in skipped for part in parts(getattr(value, one.name))]
    if isinstance(value, dict):
        return [part for key in sorted(value, key=str) for part in parts(value[key])]
    if isinstance(value, list | tuple):
        return [part for one in value for part in parts(one)]
    if isinstance(value, bool | int | str) or value is None:
        return [value]
    if isinstance(value, float):
        return [torch.tensor(value)]
    return []


@pytest.fixture(scope="module")
def few() -> PromptSet:
    """Every modality and role, two renderings short."""
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(split="test", renderings=1, limit=1)


@pytest.mark.parametrize("name", sorted(set(recipes()) - LOCAL_ONLY))
def test_recipe(name: str, organism: Any, same: Callable[..., Any]) -> None:
    from refusal_plugin.models.own_prompts import with_media_to_train_on
    from refusal_plugin.organism.data import organism_prompts

    # Recipes that fit on media add some of the embedded model's own, and do not know it under its hub id.
    prompts = with_media_to_train_on(organism, organism_prompts(limit=8, renderings=1), MODALITIES)
    within = WITHIN.get(name, 1e-6)
    same(name, lambda model, remote: recipe(name).run(model, prompts, remote=remote), parts, REQUESTS[name], within)


def test_activations(few: PromptSet, same: Callable[..., Any]) -> None:
    same("activations, every modality", lambda m, r: collect_activations(m, few, remote=r).values, parts)


def test_moments(few: PromptSet, same: Callable[..., Any]) -> None:
    same(
        "moments of the media's tokens",
        lambda m, r: [
            (found.n, found.mean, found.m2)
            for _, found in sorted(
                collect_moments(m, few.filter(modality="audio"), positions="media", remote=r).items()
            )
        ],
        parts,
    )


def test_scores(few: PromptSet, organism: Any, same: Callable[..., Any]) -> None:
    from refusal_plugin.models import anatomy

    facts = anatomy(organism)
    edit = addition({facts.n_layers // 2: torch.randn(facts.d_model)}, strength=0.2)

    def run(model: Any, remote: bool) -> Any:
        ids = torch.tensor([20, 30])
        return refusal_scores(
            model, Encoded.of(model, few), ids, edit, keep_logits=True, keep_residual=True, remote=remote
        )

    same("refusal scores, edited", run, parts)


def test_answers(few: PromptSet, same: Callable[..., Any]) -> None:
    same("answers, every modality", lambda m, r: generate(m, few, max_new_tokens=8, remote=r), parts)


def test_candidate_selection(organism: Any, same: Callable[..., Any]) -> None:
    """`select_direction` by itself: the same candidate, strength and table, in one request."""
    from refusal_plugin.directions.direction import fit_direction
    from refusal_plugin.directions.selection import select_direction
    from refusal_plugin.evaluation.refusal_tokens import refusal_tokens
    from refusal_plugin.organism.data import organism_prompts

    train = organism_prompts(split="train", modality="text", limit=24)
    val = organism_prompts(split="val", modality="text", limit=4)
    tokens = refusal_tokens(organism, train, max_new_tokens=8, progress=False)
    candidates = fit_direction(organism, train, progress=False)

    def run(model: Any, remote: bool) -> Any:
        return select_direction(model, candidates, val, tokens, remote=remote, progress=False)

    found = same("select", run, parts)
    assert sum(row["chosen"] for row in found.table) == 1


LARGE = {"direction_extraction": 100, "refusal_heads": 4, "safe_space": 4, "candidate_selection": 4}
"""Recipes that are cut, and the prompts that make three requests or more of them."""


@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_too_large_for_one_request_is_cut(
    name: str, organism: Any, far: Any, client: Any, jobs_folder: Any
) -> None:
    """Several requests, the numbers of one; broken off in the middle, it goes on where it stopped."""
    from refusal_plugin.models.own_prompts import with_media_to_train_on
    from refusal_plugin.organism.data import organism_prompts

    prompts = with_media_to_train_on(organism, organism_prompts(limit=LARGE[name], renderings=1), MODALITIES, 6)
    module, sent = recipe(name), []
    here = parts(module.run(organism, prompts))

    def unwilling(self: Any, *args: Any) -> Any:
        if len(sent) == 2:
            raise RemoteError("run it", "the network is gone", "wait")
        sent.append(1)
        return send(self, *args)

    send = Remote.send_job
    with settings(max_tokens=1):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RemoteError, match="network is gone"):
            patch.setattr(Remote, "send_job", unwilling)
            run_remotely(module, far, prompts)
        assert [job.status for job in jobs.listed()] == ["COMPLETED"] * 2
        with metered() as meter:
            there = parts(run_remotely(module, far, prompts))
    assert meter.requests == len(meter.ids) - 2 > 0, "the two finished requests are read from disk"
    assert len(here) == len(there)
    for a, b in zip(here, there, strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.allclose(a.double(), b.double(), rtol=0, atol=WITHIN.get(name, 1e-6), equal_nan=True)
        else:
            assert a == b


def test_long_work_is_sent_in_parts(few: PromptSet, organism: Any, far: Any, client: Any) -> None:
    whole = collect_activations(organism, few, max_rows=2)
    cost = estimate(far, few, max_rows=2)
    with metered() as meter, settings(max_tokens=cost.tokens // 3):
        split = estimate(far, few, max_rows=2)
        found = collect_activations(far, few, max_rows=2, remote=True)
    assert meter.requests == split.requests > 1
    # Here a tower may have read a medium in another batch before: what it made of it is kept.
    torch.testing.assert_close(found.values, whole.values, rtol=0, atol=1e-5)


def test_the_estimate_is_near_what_is_sent(few: PromptSet, far: Any, client: Any) -> None:
    cost = estimate(far, few)
    with metered() as meter:
        collect_activations(far, few, remote=True)
    assert cost.requests == meter.requests == 1
    assert 0.2 < cost.bytes_down / meter.bytes_down < 5  # compressed, with headers
    assert meter.bytes_up < cost.bytes_up + 100_000  # media compress well; the block itself is small


def test_a_tiny_text_model_needs_no_weights(tiny: Any, client: Any) -> None:
    from refusal_plugin.models import anatomy, layers
    from refusal_plugin.models.wrapper import save
    from refusal_plugin.traced.read import residuals

    assert all(parameter.is_meta for parameter in tiny._module.parameters())
    inputs = {"input_ids": torch.arange(5, 13)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    blocks, last = layers(tiny), torch.tensor([[7]])
    with torch.no_grad(), tiny.session(remote=True):
        found = save([])
        with tiny.trace(**inputs):
            found.append(residuals(blocks, last))
    assert found[0].shape == (1, 1, anatomy(tiny).n_layers, anatomy(tiny).d_model)
