"""Prompts that many edits answer are read once: the tokens of each edit alone, any cache, and the work counted."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from counting import Counts, counted

from refusal_plugin import prefill
from refusal_plugin.inference.answers import generate, generate_ids
from refusal_plugin.inference.edits import Edit, SiteEdit, addition, together
from refusal_plugin.inference.side_by_side import generate_arms, side_by_side
from refusal_plugin.models import anatomy
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import Prompt, PromptSet, encode
from refusal_plugin.traced import gate
from refusal_plugin.traced.write import add, blend

PROMPTS = [Prompt(text, id=text) for text in ("w1 w2 w3", "w5 w6 w7 w8 w9 w10 w3 w4", "w11 w12")]
NEW = 5
# Plain keys and values, windows of four tokens, absolute positions, linear attention, three rows of positions.
FAMILIES = ("qwen2", "gemma3", "gpt2", "qwen3_next", "qwen2_vl")


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharing also where it saves too little to pay."""
    monkeypatch.setattr(prefill, "LEAST", 1)


def newest(model: Any, scale: float = 3.0) -> dict[str, Edit | None]:
    """Edits of the newest token, of every step: plain, gated, remembering, and none."""
    width = anatomy(model).d_model
    vector = scale * torch.randn(width, generator=torch.Generator().manual_seed(0))
    unit = vector / vector.norm()
    judge = {"memory": "prompt", "gate": gate.ramp, "condition": {"unit": unit, "low": -1.0, "high": 1.0}}
    act = {"memory": "prompt", "strength": 2.0, "function": add, "tensors": {"vector": -vector}, "first": 0}
    late = (
        SiteEdit(0, "resid_post", gate.remember, judge),
        SiteEdit(2, "resid_post", gate.recall, {**act, "first": 1, "last": 2}, "last"),
    )
    judged = (
        SiteEdit(0, "resid_post", gate.remember, judge, "last"),
        SiteEdit(1, "resid_post", gate.recall, {**act, "last": None}, "last"),
    )
    towards = {"target": 3 * vector, "strength": 0.3}
    return {
        "none": None,
        "weak": addition({0: vector, 2: vector}, strength=0.5, where="last"),
        "strong": addition({0: vector, 2: vector}, strength=-2.0, where="last"),
        "late": Edit("late", late),
        "judged": together("judged", Edit("judged", judged), addition({1: vector}, strength=0.1, where="last")),
        "near": Edit("near", (SiteEdit(1, "resid_post", blend, towards, "last"),)),
        "nearer": Edit("nearer", (SiteEdit(1, "resid_post", blend, {**towards, "strength": 0.6}, "last"),)),
    }


def alone(model: Any, prompts: Any, edits: dict[str, Edit | None]) -> dict[str, Any]:
    return {name: generate(model, prompts, edit, max_new_tokens=NEW, progress=False) for name, edit in edits.items()}


def positions(model: Any, prompts: Any, arms: int, *, shared: bool) -> int:
    """Input positions of one batch: prompts once, or for every arm, and one for each further token."""
    rows, length = encode(model, prompts).inputs["input_ids"].shape
    return rows * (length - 1) + arms * rows * NEW if shared else arms * rows * (length + NEW - 1)


def ran(model: Any, prompts: Any, edits: dict[str, Edit | None], *, shared: bool, different: int = 2) -> Counts:
    """Answers side by side, compared with each alone, and their work counted; the trial of the cache is over then."""
    expected = alone(model, prompts, edits)
    assert len({tuple(answer.ids for answer in one) for one in expected.values()}) >= different, "edits do something"
    assert generate_arms(model, prompts, edits, max_new_tokens=NEW) == expected
    with counted(model) as found:
        assert generate_arms(model, prompts, edits, max_new_tokens=NEW) == expected
    assert found.tokens == positions(model, prompts, len(edits), shared=shared)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_run_once_and_answers_are_those_of_each_edit_alone(tiny: Any, family: str) -> None:
    model = tiny(family).model
    found = ran(model, PROMPTS, newest(model), shared=True, different=4)
    assert found.passes == 1 + NEW and found.traces == 1


@pytest.mark.parametrize("when", ["prefill", "every_step"])
def test_edits_of_the_last_prompt_token_only(tiny: Any, when: Any) -> None:
    model = tiny("qwen2").model
    vectors = {0: 3 * torch.randn(32), 2: torch.randn(32)}
    edits: dict[str, Edit | None] = {
        f"{c}": addition(vectors, strength=c, where="last", when=when) for c in (0.0, 1.0, 3.0)
    }
    assert ran(model, PROMPTS, edits, shared=True).passes == 1 + NEW


def test_edits_that_look_back_read_every_prompt_themselves(tiny: Any) -> None:
    model = tiny("qwen2").model
    edits = {**newest(model), "all": addition({1: torch.ones(32)}, where="all")}
    ran(model, PROMPTS, edits, shared=False)


def test_the_organism_with_strengths_and_gates(organism: Any) -> None:
    prompts = PromptSet(list(organism_prompts(split="test", modality="text"))[:6])
    ran(organism, prompts, newest(organism, 2.0), shared=True, different=3)


def test_media_keep_the_plain_way(organism: Any, few: Any) -> None:
    inputs = encode(organism, [*few["image"]] * 2).inputs
    assert prefill.begun(organism, inputs, None) == {}
    edits = {name: edit for name, edit in newest(organism, 0.5).items() if name in ("none", "weak", "late")}
    found = generate_arms(organism, few["image"], edits, max_new_tokens=4)
    for name, edit in edits.items():
        assert found[name] == generate(organism, few["image"], edit, max_new_tokens=4), name


def test_strengths_bound_to_the_rows_of_a_batch(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama").model
    inputs = encode(model, PROMPTS).inputs
    vector, doses = torch.randn(32), torch.tensor([0.0, 1.0, -4.0])
    tensors = {"vector": vector, "strength": doses.repeat_interleave(3).reshape(-1, 1, 1)}
    rows = {name: value.repeat(3, 1) for name, value in inputs.items()}
    edit = Edit("doses", (SiteEdit(1, "resid_post", add, tensors, "last"),))
    assert prefill.begun(model, rows, edit)
    assert prefill.begun(model, inputs, edit) == {}, "rows that all differ have nothing to share"
    monkeypatch.setattr(prefill, "LEAST", 6 * (inputs["input_ids"].shape[1] - 1) + 1)
    assert prefill.begun(model, rows, edit) == {}, "a further pass for too few positions"
    monkeypatch.setattr(prefill, "LEAST", 1)
    together = generate_ids(model, rows, edit, max_new_tokens=NEW)
    for place, dose in enumerate(doses.tolist()):
        one = addition({1: vector}, strength=dose, where="last")
        single = generate_ids(model, inputs, one, max_new_tokens=NEW)
        assert torch.equal(together[3 * place : 3 * place + 3], single)


def fresh(tiny_of: Any, family: str = "qwen2") -> SimpleNamespace:
    """A model whose cache has not been tried."""
    made: SimpleNamespace = tiny_of(family)
    prefill._TRUSTED.pop(made.model, None)
    return made


@pytest.mark.parametrize("failure", ["lies", "refuses"])
def test_a_cache_that_lies_or_refuses_is_not_used(tiny: Any, monkeypatch: Any, failure: str) -> None:
    model, right = fresh(tiny).model, prefill._read

    def wrong(*args: Any) -> dict[str, Any]:
        if failure == "refuses":
            raise NotImplementedError("this cache cannot be copied")
        found = right(*args)
        for layer in found["past_key_values"].layers:
            layer.values = layer.values * 1.1
        return found

    monkeypatch.setattr(prefill, "_read", wrong)
    ran(model, PROMPTS, newest(model), shared=False)
    assert prefill._TRUSTED[model] is False
    fresh(tiny)


def test_full_memory_is_not_taken_for_a_bad_cache(tiny: Any) -> None:
    model = fresh(tiny).model
    edits = {name: edit for name, edit in newest(model).items() if name in ("none", "weak", "late")}
    expected = alone(model, PROMPTS, edits)

    def full(_module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[0] > 5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    handle = model._module.model.layers[0].register_forward_pre_hook(full, with_kwargs=True)
    try:
        assert generate_arms(model, PROMPTS, edits, max_new_tokens=NEW) == expected
    finally:
        handle.remove()
    assert prefill._TRUSTED[model]


def test_strengths_are_one_edit_of_all_rows(tiny: Any) -> None:
    """Additions at a layer differ in their vectors, blends in their strengths; edits with a memory stay apart."""
    edits = list(newest(tiny("qwen2").model).values())
    arms = [0, 1, 2, 5, 6, 1]
    made = side_by_side(edits, arms)
    assert [(part.layer, part.tensors["rows"].tolist()) for part in made.ordered] == [
        (0, [1, 2, 5]),
        (1, [3, 4]),
        (2, [1, 2, 5]),
    ]
    assert len(side_by_side(edits, [1, 2]).parts) == 2, "no row is left out: no choice of rows"
    assert len(side_by_side(edits, [3, 4]).parts) == 5


def test_an_edit_in_hooks_still_finds_the_prompt(tiny: Any) -> None:
    """It tells the prompt by its length, so a batch under it is not begun in its middle."""
    model = tiny("llama").model
    edits: dict[str, Edit | None] = {"none": None, "more": addition({1: torch.ones(32)}, where="last")}
    outer = addition({0: 4 * torch.randn(32)}, where="last", when="prefill")
    before = alone(model, PROMPTS, edits)
    with outer.attached(model), counted(model) as found:
        shared = generate_arms(model, PROMPTS, edits, max_new_tokens=NEW)
        assert found.passes == NEW
        assert shared == alone(model, PROMPTS, edits) != before
    assert prefill.begun(model, encode(model, PROMPTS * 2).inputs, None), "and the hooks are gone"


def test_prompts_with_one_token_before_the_last(tiny: Any) -> None:
    """The shortest there is; a row of a single token has no beginning and runs the plain way."""
    model = tiny("qwen2").model
    for n, shared in ((1, False), (2, True)):
        ids = torch.tensor([[1, 7, 9], [1, 7, 9], [0, 0, 8], [0, 0, 8]])[:, -n:]
        mask = ids.ne(0).long() if n > 1 else torch.ones_like(ids)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}
        if shared:
            inputs = {name: value[:2] for name, value in inputs.items()}
        assert bool(prefill.begun(model, inputs, None)) == shared
    ids = torch.tensor([[1, 7, 9], [1, 7, 9], [0, 0, 8]])
    inputs = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    assert prefill.begun(model, inputs, None) == {}
