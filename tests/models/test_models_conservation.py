"""The conservation check itself: it fails when it must, and one head's contribution is what that head writes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from refusal_plugin.models import anatomy, load
from refusal_plugin.models.conservation import head_reader, through
from refusal_plugin.models.norms import measure
from refusal_plugin.models.probe import record
from refusal_plugin.models.structure import find
from tests.support.tiny import tiny_model


def _break_layer(module: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> None:
    module.get_submodule(path).register_forward_hook(lambda _module, _inputs, output: change(output))


@pytest.mark.parametrize("amount", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("family", ["omni", "gemma2", "gpt2"])
def test_a_stream_that_something_else_writes_to_fails(family: str, amount: float) -> None:
    module, tokenizer = tiny_model(family)
    path = anatomy(load(module, tokenizer=tokenizer)).layers_path
    module, tokenizer = tiny_model(family)
    _break_layer(module, f"{path}.1", lambda output: output + amount * output.roll(1, -1))
    conservation = anatomy(load(module, tokenizer=tokenizer)).conservation
    assert not conservation.ok
    assert conservation.layer == 1
    assert "layer 1" in conservation.leftover


def test_a_change_between_the_layers_is_named_as_such() -> None:
    module, tokenizer = tiny_model("qwen2")
    layer = module.get_submodule("model.layers.2")
    layer.register_forward_pre_hook(lambda _module, args: (args[0] + 0.1, *args[1:]))
    conservation = anatomy(load(module, tokenizer=tokenizer)).conservation
    assert not conservation.ok
    assert "between layers 1 and 2" in conservation.leftover


def test_an_attention_that_writes_more_than_its_projection_fails() -> None:
    module, tokenizer = tiny_model("qwen2")

    def add(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        return (output[0] + 0.05, output[1])

    module.get_submodule("model.layers.0.self_attn").register_forward_hook(add)
    conservation = anatomy(load(module, tokenizer=tokenizer)).conservation
    assert not conservation.ok
    assert conservation.layer == 0


def test_a_stream_of_nan_fails() -> None:
    module, tokenizer = tiny_model("qwen2")
    _break_layer(module, "model.layers.1", lambda output: output * float("nan"))
    assert not anatomy(load(module, tokenizer=tokenizer)).conservation.ok


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2", "glm4", "olmo2", "granite", "falcon", "deepseek_v3"])
@torch.no_grad()
def test_a_head_contributes_what_it_writes(family: str) -> None:
    """Against the definition: put one head alone through projection and norm, the norm's scale held fixed."""
    module, _ = tiny_model(family)
    recording = record(module, family)
    structure = find(module, recording, family)
    direction = torch.randn(32)
    for index, parts in enumerate(structure.parts):
        layer = f"{structure.layers_path}.{index}"
        attention, projection = (recording.one(f"{layer}.{part}") for part in (parts.attention, parts.attention_out))
        assert attention is not None and projection is not None
        z, output = projection.input_value, attention.output_value
        assert z is not None and output is not None
        z, output = z.view(1, 9, -1), output.view(1, 9, -1)
        norm, gain = None, torch.ones(32)
        if parts.post_attention_norm is not None:
            post = module.get_submodule(f"{layer}.{parts.post_attention_norm}")
            norm = measure(post, 32, output)
            gain = post(output) / (output * norm.scale(output)[..., None])  # the gain as it acts on the whole
        reader = head_reader(projection.module, norm, direction, 4, parts.residual_multiplier)
        found = reader.heads(z, output)
        bias = projection.module(torch.zeros_like(z))
        for head in range(4):
            alone = torch.zeros_like(z)
            width = z.shape[-1] // 4
            alone[..., head * width : (head + 1) * width] = z[..., head * width : (head + 1) * width]
            written = (projection.module(alone) - bias) * reader.scale(output)[..., None] * gain
            expected = parts.residual_multiplier * written @ direction
            torch.testing.assert_close(found[..., head], expected, rtol=1e-4, atol=1e-4)


class Adapted(nn.Module):
    """A projection with a low-rank adapter, as adapters wrap it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base_layer(x) + self.up(self.down(x))
        return result


def test_an_adapted_projection_is_taken_as_it_acts() -> None:
    module, tokenizer = tiny_model("llama")
    for index in range(3):
        attention = module.get_submodule(f"model.layers.{index}.self_attn")
        attention.o_proj = Adapted(attention.o_proj).eval()
    found = anatomy(load(module, tokenizer=tokenizer))
    assert found.attention_out == "self_attn.o_proj"
    assert found.conservation.ok, found.conservation


def test_through_a_matrix_equals_its_gradient() -> None:
    from refusal_plugin.models.conservation import through_gradient

    projection, direction = nn.Linear(12, 32), torch.randn(32)
    read, bias = through(projection, direction)
    again, offset = through_gradient(projection, direction)
    torch.testing.assert_close(read, again)
    assert bias == pytest.approx(offset, abs=1e-5)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_a_norm_is_measured(centred: bool, told: bool) -> None:
    gain, bias, epsilon = torch.randn(32), torch.randn(32), 1e-5

    class Strange(nn.Module):
        """A norm whose gain is stored as `gain - 1`."""

        def __init__(self) -> None:
            super().__init__()
            if told:
                self.eps = epsilon

        def forward(self, x: Tensor) -> Tensor:
            x = x - x.mean(-1, keepdim=True) if centred else x
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * (1 + (gain - 1)) + bias

    norm = measure(Strange(), 32, torch.zeros(1))
    assert norm.centred == centred
    torch.testing.assert_close(norm.gain, gain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.bias, bias, rtol=1e-4, atol=1e-4)
    assert norm.epsilon == pytest.approx(epsilon, rel=1e-2)
    x, direction = torch.randn(5, 32), torch.randn(32)
    left = Strange()(x) @ direction - norm.bias @ direction
    torch.testing.assert_close(left, norm.scale(x) * (x @ norm.pull_back(direction)), rtol=1e-4, atol=1e-4)


def test_half_precision_has_its_own_tolerance() -> None:
    module, tokenizer = tiny_model("qwen2")
    conservation = anatomy(load(module.to(torch.bfloat16), tokenizer=tokenizer)).conservation
    assert conservation.ok
    assert conservation.error > 1e-5
