"""The protocol: files, errors of one line, new methods, neutral media."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refusal_plugin.defences import REGISTRY, Defence, DefenceData, fit_defence, method
from refusal_plugin.errors import DataError, DirectionError, PromptError, RefusalPluginError
from refusal_plugin.inference.edits import SiteEdit
from refusal_plugin.models import anatomy, load
from refusal_plugin.prompts.neutral import neutral_media, neutral_prompts
from refusal_plugin.traced import write


# -- files -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_saved_defence_comes_back(organism: Any, fitted: Any, tmp_path: Path, name: str) -> None:
    defence = fitted(name).at(0.37)
    found = Defence.load(defence.save(tmp_path / "defence.safetensors"), organism)
    assert type(found) is type(defence) and found.name == name and found.strength == 0.37
    for one in fields(defence):
        ours, theirs = getattr(defence, one.name), getattr(found, one.name)
        if isinstance(ours, Tensor):
            assert torch.equal(ours, theirs), one.name
        elif isinstance(ours, dict) and ours and all(isinstance(v, Tensor) for v in ours.values()):
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours), one.name
        else:
            assert plain(theirs) == plain(ours), one.name
    before, after = defence.edit(modality="image"), found.edit(modality="image")
    assert (before is None) == (after is None)
    x = torch.randn(2, 3, anatomy(organism).d_model)
    if before and after:
        for (_, _, where, function, tensors), (_, _, _, again, others) in zip(before.plan(), after.plan(), strict=True):
            one, two = x.clone(), x.clone()
            write.place(one, where, function, tensors)
            write.place(two, where, again, others)
            assert torch.equal(one, two)


def plain(value: Any) -> Any:
    """Tuples and lists alike: JSON knows one of them."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def test_another_model_is_an_error(fitted: Any, tmp_path: Path) -> None:
    path = fitted("mars").save(tmp_path / "mars.safetensors")
    other = load("organism-control")
    with pytest.raises(DirectionError, match="it was made on 'organism'") as raised:
        Defence.load(path, other)
    assert "\n" not in str(raised.value)
    assert Defence.load(path).name == "mars"


def test_files_that_are_no_defence(organism: Any, fitted: Any, tmp_path: Path) -> None:
    from refusal_plugin.storage import read_tensors, write_tensors

    with pytest.raises(DataError, match="no such file"):
        Defence.load(tmp_path / "none")
    path = fitted("ace").save(tmp_path / "ace.safetensors")
    tensors, record = read_tensors(path)
    for broken, match in (
        ({**record, "format": "x"}, "format"),
        ({**record, "kind": "Unheard"}, "not known"),
        ({**record, "fields": {**record["fields"], "extra": 1}}, "another version"),
        ({**record, "fields": {}}, "has no name"),
    ):
        write_tensors(path, tensors, broken)
        with pytest.raises(DataError, match=match) as raised:
            Defence.load(path, organism)
        assert "\n" not in str(raised.value)


# -- errors ------------------------------------------------------------------------------------------------------------
def case(name: str, match: str, **switches: Any) -> Any:
    return pytest.param(name, switches, match, id=f"{name}-{match}")


@pytest.mark.parametrize(
    ("name", "switches", "match"),
    [
        case("nothing", "no such method"),
        case("mars", "no such switch", alpha=1),
        case("addition", "layers 0 to", layers=[99]),
        case("addition", "layers 0 to", layers=[]),
        case("sarsteer", "k must lie in", k=500),
        case("sarsteer", "empty", p=" "),
        case("mdsteer_h2s", "layers 0 to", layers=[-1]),
        case("cast", "one layer", layers=[0, 1]),
        case("cast", "behaviour is at layer", layers=[1], condition_layer=2),
        case("adasteer", "q = 2", q=2.0),
        case("omnisteer", "hidden=0", hidden=0),
        case("omnisteer", "steers from layer 1 on", layers=[1], gate_layer=2),
        case("alphasteer", "null_share", null_share=0.0),
        case("alphasteer", "ridge", ridge=0.0),
        case("ras", "layers 0 to", layer=99),
        case("ras", "n = 0", n=0),
        case("prompt", "empty", text=" "),
        case("prompt", "control token", text="<|im_end|>"),
    ],
)
def test_what_cannot_be_fitted(organism: Any, data: Any, name: str, switches: dict[str, Any], match: str) -> None:
    with pytest.raises(RefusalPluginError, match=match) as raised:
        fit_defence(name, organism, data, **switches)
    assert "\n" not in str(raised.value)


def test_missing_prompts(organism: Any, data: Any, prompts: Any) -> None:
    def without(keep: Any) -> DefenceData:
        return replace(data, prompts=data.prompts.where(keep), _made={})

    text_only = without(lambda p: p.modality == "text")
    for name in ("sarsteer", "mdsteer_h2s", "mdsteer_c2r", "omnisteer"):
        with pytest.raises(PromptError, match="no media"):
            fit_defence(name, organism, text_only)
    with pytest.raises(PromptError, match="no media to measure"):
        fit_defence("shiftdc_content", organism, text_only)
    lonely = without(lambda p: True)
    lonely = replace(
        lonely,
        prompts=type(prompts)(p.replace(pair=p.id) if p.role == "harmful" else p for p in data.prompts),
    )
    with pytest.raises(PromptError, match="no safe training prompt shares a pair"):
        fit_defence("sarsteer", organism, lonely)
    with pytest.raises(PromptError, match="near_miss text"):
        fit_defence("false_refusal", organism, without(lambda p: p.role != "near_miss"), layers=[1])
    for keep, match in (
        (lambda p: p.role != "harmful", "no harmful text in split 'train'"),
        (lambda p: p.split != "val", "no harmful text in split 'val'"),
    ):
        with pytest.raises(PromptError, match=match):
            DefenceData.of(organism, prompts.where(keep))
    with pytest.raises(PromptError, match="share"):
        DefenceData.of(organism, prompts, share=0.0)


def test_the_data_must_be_of_the_model(data: Any) -> None:
    other = load("organism-control")
    with pytest.raises(DirectionError, match="another loaded model"):
        fit_defence("addition", other, data)


def test_constant_activations(organism: Any, data: Any) -> None:
    still = replace(data, _made={}, _streams={})
    n_layers, width = data.candidates().n_layers, data.candidates().vectors.shape[-1]
    for p in data.prompts:
        still._streams[(p.id, p.text, None, None)] = torch.ones(n_layers, width)
    for name, layers in (("addition", [0]), ("ace", [0]), ("adasteer", [0])):
        with pytest.raises((DirectionError, DataError), match="same mean") as raised:
            fit_defence(name, organism, still, layers=layers)
        assert "\n" not in str(raised.value)


def test_strengths_and_modalities_that_do_not_fit(fitted: Any, data: Any) -> None:
    sarsteer, mars = fitted("sarsteer"), fitted("mars")
    for strength in (float("nan"), float("inf"), torch.tensor([0.1, float("nan")])):
        with pytest.raises(DirectionError, match="NaN or infinite"):
            sarsteer.edit(strength)
    with pytest.raises(DirectionError, match="2 strengths and 3 modalities"):
        mars.edit(torch.tensor([0.1, 0.2]), modality=["text", "image", "audio"])
    with pytest.raises(DirectionError, match="0 modalities"):
        mars.edit(modality=[])
    partly = replace(sarsteer, vectors={"text": sarsteer.vectors["text"]})
    with pytest.raises(DirectionError, match="vectors for text only"):
        partly.edit(modality="image")


def test_zero_vectors(organism: Any, data: Any) -> None:
    from refusal_plugin.defences.addition import addition
    from refusal_plugin.defences.modal import require_moving

    zeros = torch.zeros_like(data.candidates().vectors[0])
    with pytest.raises(DirectionError, match="zero"):
        addition(data, zeros, (0,), {"when": "prefill", "where": "last"})
    with pytest.raises(DirectionError, match="zero at layer 0"):
        require_moving({"image": zeros}, "SARSteer")


def test_words_the_tokenizer_does_not_know(organism: Any, data: Any) -> None:
    with pytest.warns(UserWarning, match="does not know zorblax"):
        found = fit_defence("sarsteer", organism, data, k=4, p="zorblax refuse .")
    assert found.diagnostics()["unknown_words"] == ["zorblax"]


# -- a new method ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Doubled(Defence):
    """A method of somebody else's."""

    vector: Tensor

    def parts(self, strength: Any, modality: Any) -> Iterator[SiteEdit]:
        yield SiteEdit(0, "resid_post", write.add, {"vector": self.vector, "strength": strength}, self.where)


def test_a_method_from_outside(organism: Any, data: Any, tmp_path: Path) -> None:
    def fit(model: Any, data: Any, *, seed: int = 0, factor: float = 2.0) -> Doubled:
        r = data.candidates().vectors[0][0]
        return Doubled(name="", vector=factor * r, provenance=data.provenance(data.train("text", "harmful", "benign")))

    known = dict(REGISTRY)
    try:
        method("doubled", sees="text", variants={"tripled": {"factor": 3.0}})(fit)
        r = data.candidates().vectors[0][0]
        assert torch.equal(fit_defence("doubled", organism, data).vector, 2.0 * r)  # type: ignore[attr-defined]
        found = fit_defence("tripled", organism, data)
        assert found.name == "tripled" and torch.equal(found.vector, 3.0 * r)  # type: ignore[attr-defined]
        assert torch.equal(Defence.load(found.save(tmp_path / "d"), organism).vector, found.vector)  # type: ignore[attr-defined]
    finally:
        REGISTRY.clear()
        REGISTRY.update(known)


def test_diagnostics_are_json(fitted: Any) -> None:
    import json

    for name in REGISTRY:
        found = json.loads(json.dumps(fitted(name).diagnostics()))
        assert found["name"] == name


# -- neutral media -----------------------------------------------------------------------------------------------------
def test_neutral_media_have_the_sizes_of_real_ones(data: Any) -> None:
    for modality in ("image", "video", "audio"):
        real = data.prompts.filter(modality=modality)
        made = neutral_media(modality, 5, like=real, seed=1)
        again = neutral_media(modality, 5, like=real, seed=1)
        other = neutral_media(modality, 5, like=real, seed=2)
        assert len(made) == 5 and all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(made, other, strict=True))
        for medium, prompt in zip(made, real, strict=False):
            assert np.asarray(medium).shape == np.asarray(prompt.medium).shape
    image = neutral_media("image", 1)[0]
    assert image.shape == (224, 224, 3) and len(np.unique(image.reshape(-1, 3), axis=0)) == 1, "one colour"
    clip = neutral_media("video", 1)[0]
    assert len(clip) == 8 and len({frame[0, 0].tobytes() for frame in clip}) > 1, "a colour per frame"
    sounds = neutral_media("audio", 4)
    assert not sounds[0].any() and [round(float(s.std()), 3) for s in sounds[1:]] == [0.002, 0.02, 0.1]


def test_neutral_prompts_keep_text_and_role(data: Any) -> None:
    texts = data.val("benign")
    shown = neutral_prompts(texts, "image", 2, like=data.prompts)
    assert len(shown) == 2 * len(texts)
    assert [p.text for p in shown[::2]] == [p.text for p in texts]
    assert {p.modality for p in shown} == {"image"} and {p.role for p in shown} == {"benign"}


def test_text_has_no_neutral_media() -> None:
    with pytest.raises(PromptError, match="there are none"):
        neutral_media("text")
    with pytest.raises(PromptError, match="0 neutral media"):
        neutral_media("image", 0)
