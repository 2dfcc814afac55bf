"""Edits side by side in one batch: each row is what its edit alone makes of it."""

from typing import Any

import pytest
import torch
from counting import counted

from refusal_plugin.errors import DirectionError, PromptError
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.edits import Edit, SiteEdit, ablation, addition, together
from refusal_plugin.inference.side_by_side import generate_arms, side_by_side
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import PromptSet
from refusal_plugin.traced import gate
from refusal_plugin.traced.write import add


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


def test_answers_are_those_of_each_edit_alone(tiny: Any, planted: Any) -> None:
    model, prompts = tiny("qwen2").model, planted.val.limit(5, seed=0)
    edits = edits_of(model)
    found = generate_arms(model, prompts, edits, max_new_tokens=6, max_rows=9)
    assert list(found) == list(edits)
    for name, edit in edits.items():
        assert found[name] == generate(model, prompts, edit, max_new_tokens=6, progress=False), name
    assert len({tuple(answer.ids for answer in answers) for answers in found.values()}) >= 4, "the edits do something"


def test_media_rows_too(organism: Any, few: Any) -> None:
    facts = anatomy(organism)
    vector = torch.randn(facts.d_model, generator=torch.Generator().manual_seed(1))
    edits = {"plain": None, "a": addition({1: vector}), "b": addition({2: -vector}, strength=0.5)}
    prompts = PromptSet([*few["image"], *few["text"]])
    found = generate_arms(organism, prompts, edits, max_new_tokens=4)
    for name, edit in edits.items():
        assert found[name] == generate(organism, prompts, edit, max_new_tokens=4, progress=False), name


def test_passes_are_those_of_one_run_not_of_one_per_edit(tiny: Any, planted: Any) -> None:
    """Seven arms are two batches (one for each time at which edits act), and a pass for each new token of these."""
    model, prompts = tiny("qwen2").model, planted.val.limit(4, seed=0)
    with counted(model) as found:
        generate_arms(model, prompts, edits_of(model), max_new_tokens=3)
    assert found.traces == 2 and found.passes <= 2 * 3


def test_full_memory_halves_the_arms_with_their_rows(tiny: Any, planted: Any) -> None:
    model, prompts = tiny("qwen2").model, planted.val.limit(3, seed=0)
    edits = edits_of(model)
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
        side_by_side([bound], [0, 0])
    with pytest.raises(DirectionError, match="they act at"):
        side_by_side([addition({0: vector}), addition({0: vector}, when="prefill")], [0, 1])
    with pytest.raises(DirectionError, match="width 3"):
        generate_arms(model, planted.val, {"a": addition({0: torch.ones(3)})})
    for prompts, edits in (((), {"a": None}), (planted.val, {})):
        with pytest.raises(PromptError, match="at least one"):
            generate_arms(model, prompts, edits)
