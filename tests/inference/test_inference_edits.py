"""An edit does the same in a trace and in plain torch hooks, at every step it should, and is gone afterwards."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.errors import DirectionError, ModelError
from refusal_plugin.inference.answers import generate, generate_ids
from refusal_plugin.inference.edits import Edit, SiteEdit, ablation, addition, attenuation, together
from refusal_plugin.models import anatomy, hf_layers, hf_module
from refusal_plugin.prompts import PromptSet, encode
from refusal_plugin.traced import write

NEW = 4
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]


def by_hooks(module: Any, facts: Any, inputs: dict[str, Tensor], edit: Edit) -> Tensor:
    with edit.attached(module, facts), torch.no_grad():
        ids: Tensor = module.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    return ids


def edits_of(facts: Any, scale: float) -> list[Edit]:
    vector = torch.randn(facts.d_model, generator=torch.Generator().manual_seed(3))
    vector *= scale / vector.norm()
    layer = facts.n_layers // 2
    found = [
        addition({layer: vector}, where=where, when=when, name=f"{where} {when}")  # type: ignore[arg-type]
        for where in ("last", "all")
        for when in ("prefill", "every_step")
    ]
    return [*found, ablation(vector / vector.norm(), range(facts.n_layers))]


@pytest.mark.parametrize("modality", ["text", "image", "video", "audio"])
def test_trace_and_hooks_give_the_same_ids_on_the_organism(
    organism: Any, bare: Any, few: dict[str, PromptSet], modality: str
) -> None:
    facts = anatomy(organism)
    inputs = encode(organism, list(few[modality])).inputs
    plain = generate_ids(organism, inputs, None, max_new_tokens=NEW)
    with torch.no_grad():
        assert torch.equal(plain, bare.generate(**inputs, max_new_tokens=NEW, do_sample=False))
    changed = []
    for edit in edits_of(facts, 150.0):
        traced = generate_ids(organism, inputs, edit, max_new_tokens=NEW)
        assert torch.equal(traced, by_hooks(bare, facts, inputs, edit)), edit.name
        changed.append(traced.shape != plain.shape or not torch.equal(traced, plain))
    assert any(changed), "an edit that changes nothing would prove nothing"


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_trace_and_hooks_give_the_same_ids_on_text_models(tiny: Callable[[str], Any], family: str) -> None:
    made = tiny(family)
    assert (made.facts.post_attention_norm is not None) == (family == "gemma2")
    inputs = encode(made.model, TEXTS).inputs
    plain = generate_ids(made.model, inputs, None, max_new_tokens=NEW)
    answers = set()
    for edit in edits_of(made.facts, 30.0):
        traced = generate_ids(made.model, inputs, edit, max_new_tokens=NEW)
        assert torch.equal(traced, by_hooks(made.bare, made.facts, inputs, edit)), edit.name
        answers.add(tuple(traced.flatten().tolist()))
    assert len(answers | {tuple(plain.flatten().tolist())}) >= 4, "where and when an edit acts must show"


def counting(where: str) -> tuple[list[tuple[int, ...]], Edit, Edit]:
    """Two edits that note the shape of what they are given, one per `when`."""
    seen: list[tuple[int, ...]] = []

    def note(x: Tensor, vector: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x + vector

    part = SiteEdit(1, "resid_post", note, {"vector": torch.zeros(32)}, where)  # type: ignore[arg-type]
    return seen, Edit("every", (part,), "every_step"), Edit("once", (part,), "prefill")


@pytest.mark.parametrize("way", ["trace", "hooks"])
def test_an_edit_acts_at_every_decode_step_or_once(tiny: Callable[[str], Any], way: str) -> None:
    made = tiny("qwen2")
    inputs = encode(made.model, TEXTS).inputs
    passes: list[int] = []
    module = hf_module(made.model) if way == "trace" else made.bare
    counter = hf_layers(module, made.facts)[0].register_forward_hook(lambda *_: passes.append(1))
    rows, length = inputs["input_ids"].shape

    def go(edit: Edit) -> None:
        if way == "trace":
            generate_ids(made.model, inputs, edit, max_new_tokens=5)
        else:
            with edit.attached(module, made.facts), torch.no_grad():
                module.generate(**inputs, max_new_tokens=5, do_sample=False)

    try:
        seen, every, once = counting("all")
        go(every)
        assert len(passes) == 5
        assert seen == [(rows, length, 32), *[(rows, 1, 32)] * 4]
        seen.clear()
        go(once)
        assert seen == [(rows, length, 32)]
        seen, every, _ = counting("last")
        go(every)
        assert seen == [(rows, 1, 32)] * 5
    finally:
        counter.remove()


def hooks_on(module: torch.nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_hooks_are_gone_after_the_block_and_after_an_error_in_it(tiny: Callable[[str], Any]) -> None:
    made = tiny("gemma2")
    inputs = encode(made.model, TEXTS).inputs
    edit = ablation(torch.nn.functional.normalize(torch.randn(32), dim=0), range(3))
    with torch.no_grad():
        before, hooks = made.bare(**inputs).logits, hooks_on(made.bare)
        with edit.attached(made.bare, made.facts):
            assert hooks_on(made.bare) == hooks + 12
            assert not torch.allclose(made.bare(**inputs).logits, before)
        assert torch.equal(made.bare(**inputs).logits, before) and hooks_on(made.bare) == hooks
        with pytest.raises(RuntimeError, match="mine"), edit.attached(made.bare, made.facts):
            raise RuntimeError("mine")
        assert torch.equal(made.bare(**inputs).logits, before) and hooks_on(made.bare) == hooks


def test_hooks_are_gone_when_setting_up_fails_half_way(tiny: Callable[[str], Any]) -> None:
    made = tiny("gemma2")
    inputs = encode(made.model, TEXTS).inputs
    first = addition({0: torch.full((32,), 5.0)}).parts[0]
    broken = Edit("broken", (first, SiteEdit(2, "attn_out", write.add, {"vector": torch.zeros(32)})))
    third = made.facts.parts[2]
    nothing = replace(third.writers, norm=None, mixer=None)
    no_attention = replace(third, attention=None, post_attention_norm=None, writers=nothing)
    odd = replace(made.facts, parts=(*made.facts.parts[:2], no_attention))
    with torch.no_grad():
        before, hooks = made.bare(**inputs).logits, hooks_on(made.bare)
        with pytest.raises(DirectionError, match="no such module"), broken.attached(made.bare, odd):
            raise AssertionError("the block must not be entered")
        assert hooks_on(made.bare) == hooks and torch.equal(made.bare(**inputs).logits, before)


def test_a_traced_run_leaves_the_model_as_it_was(tiny: Callable[[str], Any]) -> None:
    made = tiny("qwen2")
    module = hf_module(made.model)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    plain = generate(made.model, TEXTS, max_new_tokens=NEW)
    generate(made.model, TEXTS, addition({0: torch.full((32,), 9.0)}), max_new_tokens=NEW)
    assert generate(made.model, TEXTS, max_new_tokens=NEW) == plain
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


VECTOR = torch.ones(32)


def misplaced(**fields: str) -> Edit:
    """An edit with a field that the type checker of these tests would not let through."""
    part = addition({0: VECTOR}).parts[0]
    for name, value in fields.items():
        object.__setattr__(part, name, value)
    return Edit("odd", (part,))


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (addition({3: VECTOR}), "layers 0 to 2"),
        (addition({-1: VECTOR}), "layers 0 to 2"),
        (addition({0: torch.ones(31)}), "width 31"),
        (ablation(torch.ones(33), range(3)), "width 33"),
        (addition({0: VECTOR * float("nan")}), "NaN"),
        (addition({0: VECTOR * float("inf")}), "infinity"),
        (misplaced(site="resid_mid"), "resid_mid"),
        (misplaced(where="first"), "first"),
    ],
)
@pytest.mark.parametrize("way", ["trace", "hooks"])
def test_an_edit_that_does_not_fit_is_a_one_line_error(
    tiny: Callable[[str], Any], edit: Edit, found: str, way: str
) -> None:
    made = tiny("qwen2")
    with pytest.raises(DirectionError, match=found) as error:
        if way == "trace":
            generate(made.model, TEXTS, edit, max_new_tokens=2)
        else:
            with edit.attached(made.bare, made.facts):
                pass
    assert "\n" not in str(error.value)


def test_joined_edits_run_in_their_order_and_must_share_a_time(tiny: Callable[[str], Any]) -> None:
    made = tiny("qwen2")
    unit = torch.nn.functional.normalize(torch.randn(32), dim=0)
    remove, give = ablation(unit, [1]), addition({1: 3 * unit})
    inputs = encode(made.model, TEXTS).inputs
    seen: list[Tensor] = []
    handle = hf_layers(made.bare, made.facts)[2].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    try:
        for edit in (together("a", remove, give), together("b", give, remove)):
            with edit.attached(made.bare, made.facts), torch.no_grad():
                made.bare(**inputs)
    finally:
        handle.remove()
    torch.testing.assert_close(seen[0] @ unit, torch.full(seen[0].shape[:2], 3.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[1] @ unit, torch.zeros(seen[1].shape[:2]), atol=1e-4, rtol=0)
    with pytest.raises(DirectionError, match="give one time"):
        together("c", remove, addition({1: unit}, when="prefill"))


def test_attenuation_moves_the_last_token_half_way_to_the_benign_mean(tiny: Callable[[str], Any]) -> None:
    made = tiny("qwen2")
    inputs = encode(made.model, TEXTS).inputs
    units, benign = torch.nn.functional.normalize(torch.randn(3, 32), dim=-1), torch.randn(3, 32)
    edit = attenuation(units, benign, keep=0.5)
    assert [part.layer for part in edit.parts] == [0, 1, 2] and edit.when == "prefill"
    only = Edit("first", edit.parts[:1])
    rows: list[Tensor] = []
    handle = hf_layers(made.bare, made.facts)[1].register_forward_pre_hook(
        lambda _m, args: rows.append(args[0].clone())
    )
    try:
        with torch.no_grad():
            made.bare(**inputs)
            with only.attached(made.bare, made.facts):
                made.bare(**inputs)
    finally:
        handle.remove()
    before, after = rows
    expected = (before[:, -1] @ units[0] + benign[0] @ units[0]) / 2
    torch.testing.assert_close(after[:, -1] @ units[0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(before[:, :-1], after[:, :-1]), "earlier positions stay"


def test_an_ablated_stream_holds_nothing_along_the_direction(organism: Any, bare: Any, few: dict[str, Any]) -> None:
    facts = anatomy(organism)
    unit = torch.nn.functional.normalize(torch.randn(facts.d_model), dim=0)
    inputs = encode(organism, list(few["image"])).inputs
    with ablation(unit, range(facts.n_layers)).attached(bare, facts), torch.no_grad():
        streams = bare(**inputs, output_hidden_states=True).hidden_states[:-1]
    assert len(streams) == facts.n_layers
    for stream in streams:
        assert float((stream @ unit).abs().max()) < 1e-3 * float(stream.norm(dim=-1).max())


def test_a_bare_module_needs_its_anatomy(tiny: Callable[[str], Any]) -> None:
    made = tiny("qwen2")
    with pytest.raises(ModelError, match="load"), addition({0: VECTOR}).attached(made.bare):
        pass
    with addition({0: VECTOR}).attached(made.model) as module:
        assert module is hf_module(made.model)
