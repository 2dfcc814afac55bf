"""The invariants of MARS on the embedded model, and what its switches do."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from refusal_plugin.defences import fit_defence
from refusal_plugin.errors import DataError, PromptError, RefusalPluginError
from refusal_plugin.evaluation import PhraseJudge
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.inference.answers import generate, generate_ids
from refusal_plugin.prompts import MODALITIES, PromptSet, encode
from refusal_plugin.prompts.neutral import neutral_prompts


@pytest.fixture(scope="module")
def mars(fitted: Any) -> Any:
    return fitted("mars")


def at_layer(model: Any, prompts: Any, layer: int) -> torch.Tensor:
    return collect_activations(model, prompts, layer_ids=[layer], progress=False).values[:, 0, 0]


def refused(model: Any, prompts: PromptSet, edit: Any = None) -> list[bool]:
    answers = generate(model, prompts, edit, progress=False)
    return [label == "refusal" for label in PhraseJudge().label(list(prompts), answers)]


def test_the_layer_has_the_best_sum_of_the_three_curves(mars: Any) -> None:
    tried = [value for value in mars.curves["total"] if value is not None]
    assert len(tried) == len([k for k in range(len(mars.curves["total"])) if k < 0.8 * len(mars.curves["total"])])
    assert mars.curves["total"][mars.layer] == max(tried)
    named = [[v for v in mars.curves[name] if v is not None] for name in ("consistency", "separability", "safety")]
    for k in range(len(tried)):
        parts = [(c[k] - min(c)) / (max(c) - min(c)) if max(c) > min(c) else 0.0 for c in named]
        assert tried[k] == pytest.approx(sum(parts), abs=1e-6)


def test_harmful_text_keeps_its_refusal(organism: Any, data: Any, mars: Any) -> None:
    asked = data.val("harmful")
    before, after = refused(organism, asked), refused(organism, asked, mars.edit(1.0, modality="text"))
    assert all(now for then, now in zip(before, after, strict=True) if then)


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_meaningless_media_beside_benign_text_leave_the_gate_closed(
    organism: Any, data: Any, mars: Any, modality: Any
) -> None:
    like = data.prompts.filter(modality=modality)
    shown = neutral_prompts(data.val("benign"), modality, 3, like=like, seed=77)  # colours and noise of no fit
    x = at_layer(organism, shown, mars.layer)
    p, step = mars.coordinates(x, modality)
    assert float((step == 0).float().mean()) >= 0.85, "the margin itself lets 5 % of benign text pass"
    assert bool(((p > mars.margin) == (step > 0)).all())


def test_harmful_media_lie_further_out_than_benign_ones(organism: Any, data: Any, mars: Any) -> None:
    for modality in ("image", "video", "audio"):
        p = {}
        for role in ("harmful", "benign"):
            asked = data.prompts.filter(split="val", modality=modality, role=role)
            p[role] = float(mars.coordinates(at_layer(organism, asked, mars.layer), modality)[0].mean())
        assert p["harmful"] > p["benign"]


def test_a_shift_towards_refusal_opens_the_gate_unless_it_is_taken_out(organism: Any, data: Any, mars: Any) -> None:
    """A planted modality whose mere presence shifts the stream by r: without S1 every benign input is steered."""
    shift = mars.norm * mars.unit + 5 * torch.nn.functional.normalize(torch.randn_like(mars.unit), dim=0)
    x = at_layer(organism, data.train("text", "benign"), mars.layer) + shift
    centres = {**mars.centres, "image": mars.centres["text"] + shift}
    with_it = replace(mars, centres=centres)
    without = replace(mars, centres={**centres, "image": mars.centres["text"]})
    opened = {
        name: float((found.coordinates(x, "image")[0] > mars.margin).float().mean())
        for name, found in (("with", with_it), ("without", without))
    }
    assert opened["with"] <= 0.05 and opened["without"] > 0.9


def test_rows_of_different_modalities(organism: Any, data: Any, mars: Any) -> None:
    asked = [data.prompts.filter(split="val", modality=m, role="harmful")[0] for m in MODALITIES]
    x = torch.stack([at_layer(organism, [prompt], mars.layer)[0] for prompt in asked])
    together = mars.coordinates(x, [p.modality for p in asked])
    for row, prompt in enumerate(asked):
        alone = mars.coordinates(x[row : row + 1], prompt.modality)
        for both, one in zip(together, alone, strict=True):
            assert float(both[row]) == pytest.approx(float(one[0]), abs=1e-3)
    mixed = encode(organism, asked).inputs
    ids = generate_ids(organism, mixed, mars.edit(1.0, modality=[p.modality for p in asked]), max_new_tokens=3)
    assert ids.shape[0] == len(asked)


def test_switches_do_what_they_say(organism: Any, data: Any, mars: Any) -> None:
    def fit(**switches: Any) -> Any:
        return fit_defence("mars", organism, data, **switches)

    plain = fit(recentre=False)
    assert all(torch.equal(centre, plain.centres["text"]) for centre in plain.centres.values())
    assert fit(q=None).margin == 0.0 and mars.margin >= 0.0
    below = [fit(q=q, relu=False).margin for q in (0.5, 0.95, 1.0)]
    assert below == sorted(below) and below[0] < 0.0
    assert fit(safe_roles=("benign", "near_miss"), relu=False).margin != below[1]
    assert fit(layer=0).layer == 0
    target = fit(mode="target", beta=0.5)
    assert target.target > fit(mode="target").target
    delta, _ = data.shift("image")
    torch.testing.assert_close(mars.centres["image"] - mars.centres["text"], delta[mars.layer], atol=1e-3, rtol=1e-3)
    neutral = fit(origin="neutral")
    _, mean = data.shift("image", beside="instructions")
    torch.testing.assert_close(neutral.centres["image"], mean[neutral.layer])
    assert torch.equal(neutral.centres["text"], mars.centres["text"])
    assert torch.equal(fit(origin="neutral", beside="text").centres["image"], data.shift("image")[1][neutral.layer])
    own = fit(neutral={"image": [data.prompts.filter(modality="image")[0].image]})
    assert not torch.allclose(own.centres["image"], mars.centres["image"], atol=1e-2)
    torch.testing.assert_close(own.centres["audio"], mars.centres["audio"])


def test_when_it_acts(organism: Any, bare: Any, data: Any) -> None:
    """Count the steps whose stream changes: the prompt, the first decode step, all decode steps, or all."""
    from refusal_plugin.models import anatomy, hf_layers

    prompt = data.prompts.filter(split="val", modality="image", role="benign")[0]
    inputs = encode(organism, prompt).inputs
    acted = {}
    for when in ("prefill", "first_decode", "every_decode", "every_step"):
        found = fit_defence("mars", organism, data, when=when, gate="none", q=None)
        found = replace(found, reach=1e4)  # so that every step is a real one
        seen: list[torch.Tensor] = []
        block = hf_layers(bare, anatomy(organism))[found.layer]
        before = block.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out[:, -1].clone()))
        with found.attached(bare, facts=anatomy(organism), modality="image"), torch.no_grad():
            after = block.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out[:, -1].clone()))
            bare.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        before.remove()
        after.remove()
        acted[when] = [not torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True)]
        traced = generate_ids(organism, inputs, found.edit(modality="image"), max_new_tokens=4)
        with found.attached(bare, facts=anatomy(organism), modality="image"), torch.no_grad():
            assert torch.equal(traced, bare.generate(**inputs, max_new_tokens=4, do_sample=False))
    assert acted == {
        "prefill": [True, False, False, False],
        "first_decode": [False, True, False, False],
        "every_decode": [False, True, True, True],
        "every_step": [True, True, True, True],
    }


@pytest.mark.parametrize(
    ("switches", "error", "match"),
    [
        ({"origin": "middle"}, DataError, "origin='middle'"),
        ({"gate": "open"}, DataError, "gate='open'"),
        ({"mode": "x"}, DataError, "mode='x'"),
        ({"when": "later"}, DataError, "when='later'"),
        ({"q": 1.5}, DataError, "q = 1.5"),
        ({"safe_roles": ()}, DataError, "safe_roles"),
        ({"layer": 99}, PromptError, "layers 0 to"),
        ({"n_texts": 3}, PromptError, "3 texts"),
    ],
)
def test_what_cannot_be_fitted(
    organism: Any, data: Any, switches: dict[str, Any], error: type[RefusalPluginError], match: str
) -> None:
    from jaxtyping import TypeCheckError

    with pytest.raises((error, TypeCheckError)) as raised:  # tests check types, users get our errors
        fit_defence("mars", organism, data, **switches)
    if isinstance(raised.value, RefusalPluginError):
        assert match in str(raised.value) and "\n" not in str(raised.value)
