"""What each method fits, against small cases worked out by hand and against the activations themselves."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from refusal_plugin.defences import REGISTRY, fit_defence
from refusal_plugin.defences.alphasteer import null_projector, steering_matrix
from refusal_plugin.defences.cast import best_threshold
from refusal_plugin.defences.sarsteer import remainder
from refusal_plugin.errors import DataError
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.prompts import encode


# -- by hand -----------------------------------------------------------------------------------------------------------
def test_sarsteer_takes_out_the_safe_space() -> None:
    v = torch.tensor([[3.0, 4.0, 5.0]])
    # Safe items vary along the first axis most, along the second a little, and lie at (7, 7, 7).
    safe = 7.0 + torch.tensor([[[2.0, 0, 0]], [[-2.0, 0, 0]], [[0, 1.0, 0]], [[0, -1.0, 0]]])
    torch.testing.assert_close(remainder(v, safe, k=1), torch.tensor([[0.0, 4.0, 5.0]]))
    torch.testing.assert_close(remainder(v, safe, k=2), torch.tensor([[0.0, 0.0, 5.0]]))
    torch.testing.assert_close(remainder(v, safe, k=1, lambda_=0.5), torch.tensor([[1.5, 4.0, 5.0]]))
    assert torch.equal(remainder(v, safe, safe_space=None), v)
    # The mean of the safe items points along (1, 1, 1): v loses its own mean.
    torch.testing.assert_close(remainder(v, safe, safe_space="mean"), torch.tensor([[-1.0, 0.0, 1.0]]))


@pytest.mark.parametrize(
    ("n", "k", "match"), [(4, 4, "k must lie in 1 .. 3"), (4, 0, "k must lie"), (1, 1, "k must lie in 1 .. 0")]
)
def test_sarsteer_needs_more_items_than_directions(n: int, k: int, match: str) -> None:
    with pytest.raises(DataError, match=match) as raised:
        remainder(torch.ones(1, 8), torch.randn(n, 1, 8), k=k)
    assert "\n" not in str(raised.value)


def test_sarsteer_refuses_safe_items_that_do_not_differ() -> None:
    with pytest.raises(DataError, match="vary in only 0 directions"):
        remainder(torch.ones(1, 8), torch.full((5, 1, 8), 3.0), k=2)


def test_alphasteer_sends_safe_inputs_to_zero_and_harmful_ones_to_r() -> None:
    safe = torch.tensor([[5.0, 0, 0, 0], [0, 4.0, 0, 0], [3.0, 3.0, 0, 0]])  # spans the first two axes
    projector = null_projector(safe, 0.5)
    torch.testing.assert_close(projector.float(), torch.diag(torch.tensor([0.0, 0, 1, 1])))
    r = torch.tensor([1.0, -2.0, 3.0, 4.0])
    harmful = torch.tensor([[9.0, 1.0, 2.0, 0.0], [-9.0, 5.0, 2.0, 0.0]])  # the null part is (2, 0) in both
    matrix = steering_matrix(harmful, r, projector, 1e-9)
    torch.testing.assert_close(harmful @ matrix, r.expand(2, 4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(safe @ matrix, torch.zeros(3, 4), atol=1e-4, rtol=1e-4)


def test_cast_finds_the_best_threshold() -> None:
    f1, cut = best_threshold(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0.0, 1.0]))
    assert f1 == 1.0 and 1.0 < cut < 2.0
    # {3, 4} above and {0, 2.5} below, one harmful item at 1: F1 of a cut at 0.5 is 6/7, of one at 2.75 it is 4/5.
    f1, cut = best_threshold(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0.0, 2.5]))
    assert f1 == pytest.approx(6 / 7) and 0.0 < cut < 1.0


# -- against the activations -------------------------------------------------------------------------------------------
def streams(model: Any, prompts: Any, **options: Any) -> torch.Tensor:
    return collect_activations(model, prompts, progress=False, **options).values[:, 0]


@pytest.fixture(scope="module")
def text(organism: Any, data: Any) -> dict[str, torch.Tensor]:
    return {role: streams(organism, data.train("text", role)) for role in ("harmful", "benign", "near_miss")}


def test_addition_is_the_difference_of_text_means(fitted: Any, text: dict[str, torch.Tensor]) -> None:
    r = text["harmful"].mean(0) - text["benign"].mean(0)
    every, one = fitted("addition_all"), fitted("addition")
    torch.testing.assert_close(every.vectors, r, atol=1e-3, rtol=1e-4)
    assert len(one.layers) == 1
    torch.testing.assert_close(one.vectors[0], r[one.layers[0]], atol=1e-3, rtol=1e-4)
    for name in ("random", "shuffled", "random_orthogonal", "shuffled_orthogonal"):
        control = fitted(name)
        cosine = torch.nn.functional.cosine_similarity(control.vectors[0], one.vectors[0], dim=0)
        assert abs(float(cosine)) < (1e-4 if "orthogonal" in name else 0.9)
        assert control.layers == one.layers
        assert float(control.vectors.norm()) == pytest.approx(float(one.vectors.norm()), rel=1e-4)
        assert not torch.allclose(control.vectors, one.vectors, rtol=0.1)


def test_sarsteer_keeps_the_medium_in_both_arms(organism: Any, data: Any, fitted: Any) -> None:
    harmful, safe = data.paired("image")
    assert [p.pair for p in harmful] == [p.pair for p in safe] and all(p.role != "harmful" for p in safe)
    assert {p.modality for p in harmful} == {p.modality for p in safe} == {"image"}
    p = "I cannot assist with that."
    v = (streams(organism, harmful, suffix=p) - streams(organism, harmful)).mean(0)
    torch.testing.assert_close(fitted("sarsteer_v1").vectors["image"], v, atol=1e-3, rtol=1e-4)
    s = streams(organism, safe)
    basis = torch.linalg.svd((s - s.mean(0)).movedim(0, 1), full_matrices=False).Vh[:, :4]  # (layer, 4, d)
    inside = torch.einsum("lkd,lke,le->ld", basis, basis, v)
    torch.testing.assert_close(fitted("sarsteer").vectors["image"], v - inside, atol=2e-3, rtol=1e-3)
    mean = torch.nn.functional.normalize(s.mean(0), dim=-1)
    along = (v * mean).sum(-1, keepdim=True) * mean
    torch.testing.assert_close(fitted("sarsteer_v2").vectors["image"], v - along, atol=2e-3, rtol=1e-3)


def test_sarsteer_on_text_and_on_all_media(organism: Any, data: Any) -> None:
    on_text = fit_defence("sarsteer", organism, data, k=4, fit_on="text")
    assert all(torch.equal(rows, on_text.vectors["text"]) for rows in on_text.vectors.values())
    pooled = fit_defence("sarsteer_v1", organism, data, fit_on="pooled")
    own = fit_defence("sarsteer_v1", organism, data)
    n = {m: own.figures["fit"][m]["n"] for m in data.media}
    mean = sum(n[m] * own.vectors[m] for m in data.media) / sum(n.values())
    torch.testing.assert_close(pooled.vectors["video"], mean, atol=1e-3, rtol=1e-4)
    assert torch.equal(pooled.vectors["video"], pooled.vectors["audio"])


def test_mdsteer_is_the_difference_of_media_means(organism: Any, data: Any, fitted: Any) -> None:
    harmful, safe = data.paired("audio")
    difference = streams(organism, harmful).mean(0) - streams(organism, safe).mean(0)
    torch.testing.assert_close(fitted("mdsteer_h2s").vectors["audio"], difference, atol=1e-3, rtol=1e-4)
    found = fitted("mdsteer_c2r")
    assert set(found.vectors) == {"text", *data.media}
    for figures in found.figures["fit"].values():
        assert figures["refused"] >= 2 and figures["complied"] >= 2


def test_ace_sets_the_coordinate_to_the_means(organism: Any, data: Any, fitted: Any, text: Any) -> None:
    ace = fitted("ace")
    layer = ace.layers[0]
    [part] = ace.edit(1.0).parts
    moved = part.function(text["near_miss"][:, layer].unsqueeze(1), **part.tensors)[:, 0]
    wanted = float(text["harmful"][:, layer].mean(0) @ ace.units[0])
    torch.testing.assert_close(moved @ ace.units[0], torch.full((len(moved),), wanted), atol=1e-2, rtol=1e-3)
    again = part.function(moved.unsqueeze(1), **part.tensors)[:, 0]
    torch.testing.assert_close(again, moved, atol=1e-2, rtol=1e-4)


def test_adasteer_ramps_from_benign_to_harmful_text(fitted: Any, text: Any) -> None:
    found = fitted("adasteer")
    function, condition = found.gate()
    a = {role: function(x[:, found.layer].unsqueeze(1), **condition).flatten() for role, x in text.items()}
    assert float((a["benign"] > 0).float().mean()) <= 0.1
    assert float(a["harmful"].mean()) > 0.8
    assert float(a["near_miss"].mean()) < 0.5


def test_cast_tells_harmful_text(fitted: Any, text: Any) -> None:
    found = fitted("cast")
    assert found.condition_layer <= found.layer
    function, condition = found.gate()
    fired = {role: function(x[:, found.condition_layer].unsqueeze(1), **condition) for role, x in text.items()}
    assert float(fired["harmful"].mean()) > 0.9 and float(fired["benign"].mean()) < 0.1


def test_alphasteer_on_the_model(fitted: Any) -> None:
    figures = fitted("alphasteer").figures
    assert 0.8 < figures["reached"][0] < 1.2 and figures["leaked"][0] < 0.2


def test_ras_never_overshoots(fitted: Any, text: Any) -> None:
    found = fitted("ras")
    assert found.bounds == (0.0, 1.0)
    for strength in (0.3, 1.0):
        remember, recall = found.edit(strength).ordered
        memory: dict[str, Any] = {}
        x = text["harmful"][:, found.layer].unsqueeze(1)
        remember.function(x.repeat(1, 2, 1), memory, *[remember.tensors[key] for key in ("gate", "condition")])
        moved = recall.function(x, **{**recall.tensors, "memory": memory})
        before, after = (x - found.target).norm(dim=-1), (moved - found.target).norm(dim=-1)
        assert bool((after <= before + 1e-3).all()) and float(after.mean()) < float(before.mean())


def test_shiftdc_undoes_the_shift_along_the_direction(data: Any, fitted: Any) -> None:
    found = fitted("shiftdc")
    layer = found.layers[0]
    u = torch.nn.functional.normalize(data.candidates().vectors[0][layer], dim=0)
    delta, _ = data.shift("video")
    torch.testing.assert_close(found.vectors["video"][0], -(delta[layer] @ u) * u, atol=1e-3, rtol=1e-3)
    assert not bool(found.vectors["text"].any())


def test_the_false_refusal_vector_is_orthogonal_to_the_direction(fitted: Any, text: Any) -> None:
    found = fitted("false_refusal")
    assert abs(float(found.unit @ found.vector)) < 1e-3 * float(found.vector.norm())
    near, benign = (text[role][:, found.layer].mean(0) for role in ("near_miss", "benign"))
    assert float((near - benign) @ found.unit) > 0
    first, second = found.edit(0.0).parts
    moved = second.function(first.function(near.reshape(1, 1, -1), **first.tensors), **second.tensors).flatten()
    assert float(moved @ found.unit) == pytest.approx(float(benign @ found.unit), abs=1e-2)


def test_the_system_prompt_is_a_text(organism: Any, fitted: Any, data: Any) -> None:
    found = fitted("prompt")
    assert found.edit() is None and found.system
    prompt = data.val("benign")[0]
    assert encode(organism, prompt, system=found.system).length > encode(organism, prompt).length + 10


# -- data and seeds ----------------------------------------------------------------------------------------------------
def test_a_seed_draws_pairs_and_nothing_of_the_test_split(organism: Any, data: Any, prompts: Any) -> None:
    other = data.reseed(1)
    assert {p.split for p in data.prompts} == {"train", "val"} and any(p.split == "test" for p in prompts)
    one, two = ({p.pair for p in d.train("text")} for d in (data, other))
    assert one != two and len(one) == len(two) < len({p.pair for p in prompts if p.split == "train"})
    assert {p.pair for p in data.train("image")} <= one, "media of the drawn pairs only"
    r = [fit_defence("addition_all", organism, d).vectors for d in (data, other, data.reseed(0))]
    assert torch.equal(r[0], r[2]) and not torch.allclose(r[0], r[1])
    for name in ("random", "shuffled"):
        v = [fit_defence(name, organism, data, seed=s).vectors for s in (0, 0, 1, 2)]
        assert torch.equal(v[0], v[1]) and not torch.allclose(v[0], v[3])
        torch.testing.assert_close(v[2], -v[0])  # opposite draws cancel what is linear


def test_streams_are_computed_once(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = data.train("text", "harmful")
    before = data.streams(chosen)
    monkeypatch.setattr("refusal_plugin.defences.data.collect_variants", None)  # a second pass would fail
    assert torch.equal(data.streams(chosen), before)
    assert torch.equal(data.reseed(3).streams(list(chosen)[:2]), before[:2])


@pytest.mark.parametrize("name", sorted(name for name, entry in REGISTRY.items() if entry.sees != "media"))
def test_what_says_it_sees_text_only_needs_no_media(organism: Any, data: Any, fitted: Any, name: str) -> None:
    if name == "shiftdc_content":
        pytest.skip("a variant that asks for media")
    text_only = replace(data, prompts=data.prompts.where(lambda p: p.modality == "text"))
    found = fit_defence(name, organism, text_only)
    wanted = fitted(name)
    if REGISTRY[name].sees == "text" and hasattr(found, "vectors"):
        assert torch.equal(found.vectors, wanted.vectors)
    assert {p.split("/")[1] for p in found.provenance["data_ids"]} <= {"text"}
