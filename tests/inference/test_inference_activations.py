"""Residual streams are the model's own, whatever the batches, and cost one pass and no growing memory."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from refusal_plugin.errors import DataError, DirectionError, PromptError
from refusal_plugin.inference import streaming
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.inference.streaming import collect_moments
from refusal_plugin.models import anatomy, hf_layers, hf_module, load
from refusal_plugin.prompts import Prompt, PromptSet, batches, encode

TEXTS = PromptSet(
    Prompt(" ".join(f"w{(7 * k + j) % 50}" for j in range(2 + k % 5)), role=("harmful", "benign")[k % 2], id=str(k))
    for k in range(12)
)


def by_hooks(module: Any, facts: Any, inputs: dict[str, Tensor]) -> Tensor:
    """(batch, pos, layer, d_model) from plain forward hooks."""
    rows: list[Tensor] = []
    handles = [
        block.register_forward_hook(
            lambda _m, _a, out: rows.append((out if isinstance(out, Tensor) else out[0]).clone())
        )
        for block in hf_layers(module, facts)
    ]
    try:
        with torch.no_grad():
            module(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(rows, dim=2)


def test_values_equal_the_hidden_states_of_transformers(tiny: Callable[[str], Any]) -> None:
    made = tiny("gemma2")
    inputs = encode(made.model, list(TEXTS)).inputs
    with torch.no_grad():
        states = made.bare(**inputs, output_hidden_states=True).hidden_states
    found = collect_activations(made.model, TEXTS, positions=(-1, -3), progress=False)
    assert found.values.shape == (12, 2, 3, 32) and found.layers == (0, 1, 2) and found.positions == (-1, -3)
    for layer in (0, 1):  # transformers' last hidden state lies behind the final norm
        torch.testing.assert_close(found.values[:, 0, layer], states[layer + 1][:, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.values[:, 1, layer], states[layer + 1][:, -3], atol=1e-5, rtol=1e-5)
    last = by_hooks(made.bare, made.facts, inputs)[:, -1, 2]
    torch.testing.assert_close(found.values[:, 0, 2], last, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", ["text", "image", "video", "audio"])
def test_batched_rows_equal_single_rows(organism: Any, few: dict[str, PromptSet], modality: str) -> None:
    prompts = few[modality]
    role = "instruction" if modality == "text" else "media"
    for positions in ((-1,), role):
        together = collect_activations(organism, prompts, positions=positions, progress=False)  # type: ignore[arg-type]
        for row, prompt in enumerate(prompts):
            alone = collect_activations(organism, [prompt], positions=positions, progress=False).values[0]  # type: ignore[arg-type]
            scale = float(alone.abs().max())
            assert float((together.values[row] - alone).abs().max()) < 1e-5 * max(1.0, scale)


def test_a_role_is_averaged_over_its_own_tokens(organism: Any, bare: Any, few: dict[str, PromptSet]) -> None:
    batch = encode(organism, [few["image"][0]])
    stream = by_hooks(bare, anatomy(organism), batch.inputs)[0]
    expected = stream[batch.roles["media"][0]].mean(0)
    found = collect_activations(organism, [few["image"][0]], positions="media", progress=False).values[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((stream[-1] - expected).abs().max()) > 0.1


def test_rows_are_found_by_role_and_layers_by_number(tiny: Callable[[str], Any]) -> None:
    model = tiny("qwen2").model
    every = collect_activations(model, TEXTS, progress=False)
    some = collect_activations(model, TEXTS, layer_ids=[2, 0], progress=False)
    assert some.layers == (0, 2)
    torch.testing.assert_close(some.values, every.values[:, :, [0, 2]])
    torch.testing.assert_close(every.role("harmful"), every.values[::2])
    torch.testing.assert_close(every.of(lambda p: p.id == "3"), every.values[[3]])


@pytest.mark.parametrize("second", ["diagonal", "full"])
def test_streamed_moments_equal_those_of_all_rows(tiny: Callable[[str], Any], second: Any) -> None:
    model = tiny("qwen2").model
    rows = collect_activations(model, TEXTS, positions=(-1, -2), progress=False)
    found = collect_moments(model, TEXTS, positions=(-1, -2), second=second, max_rows=2, progress=False)
    assert sorted(found) == ["benign", "harmful"]
    for role, moments in found.items():
        chosen = rows.role(role).double()
        assert moments.n == 6
        torch.testing.assert_close(moments.mean, chosen.mean(0), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(moments.variance, chosen.var(0), atol=1e-5, rtol=1e-4)
        if second == "full":
            torch.testing.assert_close(moments.covariance[1, 2], torch.cov(chosen[:, 1, 2].T), atol=1e-5, rtol=1e-4)
    by_length = collect_moments(model, TEXTS, by=lambda p: str(len(p.text.split())), progress=False)
    assert {name: m.n for name, m in by_length.items()} == {"2": 3, "3": 3, "4": 2, "5": 2, "6": 2}


def test_one_pass_per_batch_and_it_stops_behind_the_last_layer_read(tiny: Callable[[str], Any]) -> None:
    made = tiny("qwen2")
    calls = [0, 0, 0]

    def count(layer: int) -> Callable[..., None]:
        def add(*_: Any) -> None:
            calls[layer] += 1

        return add

    blocks = hf_layers(hf_module(made.model), made.facts)
    handles = [block.register_forward_pre_hook(count(layer)) for layer, block in enumerate(blocks)]
    try:
        n = len(list(batches(made.model, TEXTS, max_rows=3)))
        assert n == 4
        collect_activations(made.model, TEXTS, max_rows=3, progress=False)
        assert calls == [n, n, n]
        collect_activations(made.model, TEXTS, layer_ids=[0, 1], max_rows=3, progress=False)
        assert calls == [2 * n, 2 * n, n]
    finally:
        for handle in handles:
            handle.remove()


def test_memory_does_not_grow_with_the_number_of_batches(
    tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen, alive = tiny("qwen2").model, [], []
    plain = streaming.group_moments

    def watched(rows: Tensor, *rest: Any) -> Any:
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
        seen.append(weakref.ref(rows))
        return plain(rows, *rest)

    monkeypatch.setattr(streaming, "group_moments", watched)
    collect_moments(model, TEXTS, max_rows=2, progress=False)
    assert len(alive) >= 6 and max(alive) <= 2, f"residuals of earlier batches are kept: {alive}"


@pytest.fixture(scope="module")
def broken() -> Any:
    """A model in which one word has become NaN after loading."""
    from tests.support.tiny import tiny_model

    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    with torch.no_grad():
        hf_module(model).get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("w33")] = float("nan")
    return model


@pytest.mark.parametrize("run", [collect_activations, collect_moments])
def test_nan_names_the_prompt(broken: Any, run: Callable[..., Any]) -> None:
    prompts = [Prompt("w1 w2", id="fine"), Prompt("w1 w33", id="the bad one"), Prompt("w4", id="fine too")]
    with pytest.raises(DataError, match="'the bad one'") as error:
        run(broken, prompts, progress=False)
    assert "\n" not in str(error.value)
    assert run(broken, prompts[::2], progress=False), "the others are served"


@pytest.mark.parametrize("run", [collect_activations, collect_moments])
@pytest.mark.parametrize(
    ("prompts", "options", "error", "match"),
    [
        ([], {}, PromptError, "0 prompts"),
        (TEXTS, {"positions": ()}, PromptError, "-1, -2"),
        (TEXTS, {"positions": (0,)}, PromptError, "not negative"),
        (TEXTS, {"positions": (-1, -40)}, PromptError, "it has . tokens"),
        (TEXTS, {"positions": "media"}, PromptError, "it has none"),
        (TEXTS, {"layer_ids": [0, 3]}, DirectionError, "layers 0 to 2"),
        (TEXTS, {"layer_ids": [-1]}, DirectionError, "layers 0 to 2"),
        (TEXTS, {"layer_ids": []}, DirectionError, "layers 0 to 2"),
        ([Prompt("w1 " * 130)], {}, PromptError, "context holds 128"),
        ([Prompt("w1", image=torch.zeros(4, 4, 3, dtype=torch.uint8).numpy())], {}, PromptError, "takes text"),
    ],
)
def test_what_cannot_be_read(
    tiny: Callable[[str], Any], run: Any, prompts: Any, options: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match) as raised:
        run(tiny("qwen2").model, prompts, progress=False, **options)
    assert "\n" not in str(raised.value)


def test_a_suffix_goes_into_the_user_turn(tiny: Callable[[str], Any]) -> None:
    model = tiny("qwen2").model
    with_suffix = collect_activations(model, [Prompt("w1 w2")], suffix="w3 w4", progress=False).values
    written = collect_activations(model, [Prompt("w1 w2 w3 w4")], progress=False).values
    torch.testing.assert_close(with_suffix, written)
    assert not torch.allclose(with_suffix, collect_activations(model, [Prompt("w1 w2")], progress=False).values)
