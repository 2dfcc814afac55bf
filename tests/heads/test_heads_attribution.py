"""Direct contributions: they add up on every architecture, and a head that was made to write r ranks first."""

from pathlib import Path
from typing import Any

import pytest
import torch

from refusal_plugin.errors import DataError, DirectionError, ModelError, PromptError
from refusal_plugin.heads import HeadAttribution, attribute_heads
from refusal_plugin.heads.attribution import direct_contributions
from refusal_plugin.heads.targets import targets
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.models import anatomy
from refusal_plugin.models.heads import head_reads, head_sites, norm_epsilons
from refusal_plugin.prompts import Prompt, PromptSet, encode
from refusal_plugin.traced.heads import read_by_calling
from refusal_plugin.traced.read import residual
from tests.support.tiny import FAMILIES

CANNOT = ("gemma3n", "qwen3_next", "opt_post_norm")  # their stream is not the sum of heads, biases and MLPs
CONSERVING = [name for name in FAMILIES if name not in CANNOT]
WORDS = PromptSet(
    Prompt(text, role=role, id=f"p{k}", pair=f"g{k // 2}")
    for k, (text, role) in enumerate(
        [("w1 w2 w3", "harmful"), ("w4 w5 w6 w7 w8", "benign"), ("w9 w1 w2 w7", "harmful"), ("w3 w3", "benign")]
    )
)


def unit(width: int, seed: int = 3) -> torch.Tensor:
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def test_enough_families_are_tried() -> None:
    assert len(CONSERVING) >= 20 and {"llava", "qwen2_audio", "qwen2_5_vl", "gemma3_multimodal", "omni"} <= set(
        CONSERVING
    )


@pytest.mark.parametrize("family", CONSERVING)
def test_contributions_add_up_to_the_stream(family: str, tiny: Any) -> None:
    """Against the stream itself, collected by another function; two directions at two layers at once."""
    model = tiny(family)
    r, q = unit(32), 5 * unit(32, 4)
    found = attribute_heads(model, {"deep": (r, 2), "shallow": (q, 1)}, WORDS, progress=False)
    assert found.conservation_error < 2e-5
    stream = collect_activations(model, WORDS, progress=False).values[:, 0]
    torch.testing.assert_close(found.total[:, 0], stream[:, 2] @ r, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.total[:, 1], stream[:, 1] @ unit(32, 4), rtol=1e-4, atol=1e-4)
    assert found.heads[:, 2, :, 1].abs().max() == 0, "a layer behind the direction's own"
    assert found.heads[:, 2, :, 0].abs().max() > 0
    assert found.norms.tolist() == pytest.approx([1.0, 5.0], rel=1e-5)


@pytest.mark.parametrize("family", [*CONSERVING])
def test_read_vectors_without_weights_equal_those_from_weights(family: str, tiny: Any) -> None:
    """Calling the projection with the identity inside a trace is what a remote run does."""
    model = tiny(family)
    r = torch.stack([unit(32), unit(32, 4)], dim=-1)
    sites, epsilons = head_sites(model, range(3)), norm_epsilons(model, range(3))
    batch, called = encode(model, list(WORDS)), []
    with torch.no_grad(), model.trace(**batch.inputs) as tracer:
        like = residual(sites[0]["layer"].output)
        for site, epsilon in zip(sites, epsilons, strict=True):
            called.append(read_by_calling(site, r, epsilon, like))
        called.save()
        tracer.stop()
    for one, other in zip(head_reads(model, r, range(3)), called, strict=True):
        for name in ("read", "constant", "scaled"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=2e-5)
        assert float(one["centred"]) == float(other["centred"])
        assert one["epsilon"] == pytest.approx(other["epsilon"], rel=1e-2, abs=1e-12)


@pytest.mark.parametrize("family", ["gemma3n", "opt_post_norm"])
def test_a_model_whose_stream_is_no_sum_is_refused(family: str, tiny: Any) -> None:
    with pytest.raises(ModelError, match="attribute the heads"):
        attribute_heads(tiny(family), (unit(32), 1), WORDS, progress=False)


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
def test_a_planted_head_ranks_first(family: str) -> None:
    """Its output matrix writes r, and its value tells harmful words from the others."""
    from refusal_plugin.models import load
    from tests.support.planting import HARMFUL_WORDS
    from tests.support.tiny import tiny_model

    module, tokenizer = tiny_model(family)
    model = load(module, tokenizer=tokenizer)
    facts, r = anatomy(model), unit(32)
    blocks = module.get_submodule(facts.layers_path)
    projection = blocks[1].get_submodule(facts.attention_out)
    span = slice(2 * facts.d_head, 3 * facts.d_head)
    with torch.no_grad():
        weight = projection.weight if type(projection).__name__ == "Linear" else projection.weight.T
        weight[:, span] = 0
        weight[:, 2 * facts.d_head] = 40 * r
        # Harmful words differ from the others along one axis, so this head's first value does.
        axis = unit(32, 9)
        module.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(HARMFUL_WORDS)] += 6 * axis
    texts = ["w1 w2 w3 w4", "w20 w21 w22 w23", "w5 w6 w7 w0", "w24 w25 w26 w27", "w8 w9 w1 w3", "w30 w31 w32 w33"]
    made = PromptSet(
        Prompt(text, role=("harmful", "benign")[k % 2], id=str(k), pair=str(k)) for k, text in enumerate(texts)
    )
    found = attribute_heads(model, (r, 2), made, progress=False)
    share = found.contrast().value.abs().flatten()
    assert int(share.argmax()) == 1 * facts.n_heads + 2
    sign = 1 if found.contrast().value[1, 2] > 0 else -1
    first = attribute_heads(model, (sign * r, 2), made, progress=False).top(1)[0]
    assert (first.layer, first.head) == (1, 2)
    assert first.contrast == pytest.approx(first.harmful - first.benign, rel=1e-4)
    assert first.low <= first.contrast <= first.high


def test_rows_do_not_depend_on_padding_or_batches(organism: Any, direction: Any, prompts: Any) -> None:
    together = attribute_heads(organism, direction, prompts, progress=False)
    alone = attribute_heads(organism, direction, prompts, max_rows=1, progress=False)
    torch.testing.assert_close(together.heads, alone.heads, rtol=1e-4, atol=1e-5)
    assert together.conservation_error < 1e-5 and set(together.labels.kinds()) == {"text", "image", "video", "audio"}
    n = together.heads.shape[1]
    assert n == direction.layer + 1, "layers behind the direction are not even run"


def test_a_second_position_is_read_where_the_direction_was(organism: Any, direction: Any, prompts: Any) -> None:
    from dataclasses import replace

    text = prompts.filter(modality="text")
    found = attribute_heads(organism, replace(direction, position=-2), text, progress=False)
    stream = collect_activations(organism, text, positions=(-2,), progress=False).values[:, 0, direction.layer]
    torch.testing.assert_close(found.total[:, 0], stream @ direction.unit, rtol=1e-4, atol=1e-4)


def test_it_is_kept_and_read_back(organism: Any, direction: Any, prompts: Any, tmp_path: Path) -> None:
    found = attribute_heads(organism, direction, prompts, progress=False)
    again = HeadAttribution.load(found.save(tmp_path / "heads.safetensors"))
    assert torch.equal(again.heads, found.heads) and again.labels == found.labels and again.names == found.names
    assert again.top(3, "text") == found.top(3, "text")
    (tmp_path / "other.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="readable"):
        HeadAttribution.load(tmp_path / "other.safetensors")


def test_an_unfit_direction_is_refused(organism: Any, direction: Any, prompts: Any) -> None:
    width = anatomy(organism).d_model
    for aim, words in (
        ({}, "0 directions"),
        ((unit(32), 0), "d_model"),
        ((unit(width), 99), "layers 0 to"),
        ((torch.zeros(width), 0), "zero"),
        ((torch.full((width,), float("nan")), 0), "NaN"),
    ):
        with pytest.raises(DirectionError, match=words):
            attribute_heads(organism, aim, prompts, progress=False)
    with pytest.raises(PromptError, match="0 prompts"):
        attribute_heads(organism, direction, [], progress=False)
    found = attribute_heads(organism, direction, prompts.filter(role="harmful"), progress=False)
    with pytest.raises(ValueError, match="benign"):
        found.contrast()
    with pytest.raises(DirectionError, match="no-such"):
        found.direction("no-such")


def test_a_mixture_of_layers_is_masked_but_measured_once(organism: Any, direction: Any, prompts: Any) -> None:
    text = prompts.filter(modality="text")
    both = attribute_heads(organism, {"a": direction, "b": (direction.vector, 0)}, text, progress=False)
    one = attribute_heads(organism, direction, text, progress=False)
    torch.testing.assert_close(both.heads[..., 0], one.heads[..., 0], rtol=1e-4, atol=1e-6)
    assert isinstance(both, HeadAttribution) and both.heads[:, 1:, :, 1].abs().max() == 0


def test_the_measurement_gives_one_dict_a_batch(organism: Any, direction: Any, prompts: Any) -> None:
    aims = targets(organism, direction)
    batch = encode(organism, list(prompts.filter(modality="text")))
    ((_, found),) = direct_contributions(organism, aims, [(list(range(batch.size)), batch)], None)
    assert found["heads"].shape[:2] == (batch.size, 1)
