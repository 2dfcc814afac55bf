"""Edits side by side in one batch: each row is what its edit alone makes of it."""

from typing import Any

import pytest
import torch

from refusal_plugin.errors import DirectionError, PromptError
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.arms import Strengths, edit_of_rows, generate_arms, score_arms
from refusal_plugin.inference.edits import Edit, SiteEdit, ablation, addition, removal, together
from refusal_plugin.inference.scores import Encoded, refusal_scores
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import PromptSet
from refusal_plugin.traced import gate
from refusal_plugin.traced.write import add
from tests.support.counting import counted


def edits_of(model: Any) -> dict[str, Edit | None]:
    """Plain, gated and remembering edits, of both times."""
    width = anatomy(model).d_model
    vector = 3 * torch.randn(width, generator=torch.Generator().manual_seed(0))
    unit = vector / vector.norm()
    note = {"memory": "steps", "gate": gate.always, "condition": {}}
    late = {"memory": "steps", "strength": 2.0, "function": add, "tensors": {"vector": -vector}, "first": 1, "last": 3}
    remembering = (SiteEdit(1, "resid_post", gate.remember, note), SiteEdit(1, "resid_post", gate.recall, late, "last"))
    return {
        "plain": None,
        "weak": addition({0: vector, 2: vector}, strength=0.5),
        "strong": addition({0: vector, 2: vector}, strength=2.0, where="last"),
        "prompt only": addition({1: vector}, when="prefill"),
        "without": ablation(unit, range(3)),
        "remembering": Edit("late", remembering),
        "remembering twice": together("both", Edit("late", remembering), addition({2: vector}, strength=0.1)),
    }


def by_name(edits: dict[str, Edit | None], found: list[Any]) -> dict[str, Any]:
    return dict(zip(edits, found, strict=True))


def test_answers_are_those_of_each_edit_alone(tiny: Any, planted: Any) -> None:
    model, prompts = tiny("qwen2").model, planted.val.limit(5, seed=0)
    edits = edits_of(model)
    found = by_name(edits, generate_arms(model, prompts, list(edits.values()), max_new_tokens=6, max_rows=9))
    for name, edit in edits.items():
        assert found[name] == generate(model, prompts, edit, max_new_tokens=6, progress=False), name
    assert len({tuple(answer.ids for answer in answers) for answers in found.values()}) >= 4, "the edits do something"


def test_media_rows_too(organism: Any, few: Any) -> None:
    facts = anatomy(organism)
    vector = torch.randn(facts.d_model, generator=torch.Generator().manual_seed(1))
    edits = {"plain": None, "a": addition({1: vector}), "b": addition({2: -vector}, strength=0.5)}
    prompts = PromptSet([*few["image"], *few["text"]])
    found = by_name(edits, generate_arms(organism, prompts, list(edits.values()), max_new_tokens=4))
    for name, edit in edits.items():
        assert found[name] == generate(organism, prompts, edit, max_new_tokens=4, progress=False), name


@pytest.mark.parametrize("modality", ["text", "image"])
def test_scores_are_those_of_each_edit_alone(organism: Any, few: Any, tokens: Any, modality: str) -> None:
    """Added, taken to a benign mean, projected out, and combinations of them; every arm in a row of its own."""
    facts, prompts = anatomy(organism), few[modality]
    vectors = 20 * torch.randn(3, facts.d_model, generator=torch.Generator().manual_seed(0))
    means = torch.randn(facts.n_layers, facts.d_model, generator=torch.Generator().manual_seed(1))
    plain = Encoded.of(organism, prompts)
    logits = refusal_scores(organism, plain, tokens.ids, keep_logits=True).logits
    arms: list[Edit | None] = [addition({2: v}, strength=k + 0.5) for k, v in enumerate(vectors)]
    arms += [removal(v, means, operator) for v in vectors for operator in ("benign_mean", "project_out")]
    arms += [None, together("both", removal(vectors[0], means, "project_out"), addition({1: vectors[1]}))]
    found = score_arms(organism, prompts, tokens.ids, arms, reference=logits)
    for arm, edit in enumerate(arms):
        alone = refusal_scores(organism, plain, tokens.ids, edit, reference=logits)
        torch.testing.assert_close(found.score[arm], alone.score, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(found.kl[arm], alone.kl, atol=1e-3, rtol=1e-4)


def test_strengths_of_one_method_are_arms(tiny: Any, planted: Any) -> None:
    model, prompts = tiny("qwen2").model, list(planted.val)[:3]
    vector = torch.randn(anatomy(model).d_model, generator=torch.Generator().manual_seed(2))

    def edit(strength: Any) -> Edit:
        return Edit(
            "own", (SiteEdit(1, "resid_post", add, {"vector": vector, "strength": strength.reshape(-1, 1, 1)}),)
        )

    values = (0.0, 0.5, 2.0)
    found = generate_arms(model, prompts, Strengths(edit, values), max_new_tokens=4)
    for arm, strength in zip(found, values, strict=True):
        assert arm == generate(model, prompts, addition({1: vector}, strength=strength), max_new_tokens=4)


def test_passes_are_those_of_one_run_not_of_one_per_edit(tiny: Any, planted: Any) -> None:
    """Seven arms are two batches (one for each time at which edits act), and a pass for each new token of these."""
    model, prompts = tiny("qwen2").model, planted.val.limit(4, seed=0)
    with counted(model) as found:
        generate_arms(model, prompts, list(edits_of(model).values()), max_new_tokens=3)
    assert found.traces == 0, "answers on this machine run in hooks"
    assert found.passes <= 2 * 3


def test_full_memory_halves_the_arms_with_their_rows(tiny: Any, planted: Any) -> None:
    model, prompts = tiny("qwen2").model, planted.val.limit(3, seed=0)
    edits = list(edits_of(model).values())
    expected = generate_arms(model, prompts, edits, max_new_tokens=3)

    def full(_module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[0] > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    handle = model._module.model.layers[0].register_forward_pre_hook(full, with_kwargs=True)
    try:
        assert generate_arms(model, prompts, edits, max_new_tokens=3) == expected
    finally:
        handle.remove()


def test_what_cannot_run_side_by_side(tiny: Any, planted: Any) -> None:
    model, vector = tiny("qwen2").model, torch.ones(32)
    bound = Edit("rows", (SiteEdit(0, "resid_post", add, {"vector": vector, "strength": torch.ones(2, 1, 1)}),))
    with pytest.raises(DirectionError, match="bound to 2 rows"):
        edit_of_rows([bound], [0, 0])
    with pytest.raises(DirectionError, match="they act at"):
        edit_of_rows([addition({0: vector}), addition({0: vector}, when="prefill")], [0, 1])
    with pytest.raises(DirectionError, match="width 3"):
        generate_arms(model, planted.val, [addition({0: torch.ones(3)})])
    for prompts, edits in (((), [None]), (planted.val, [])):
        with pytest.raises(PromptError, match="at least one"):
            generate_arms(model, prompts, edits)
