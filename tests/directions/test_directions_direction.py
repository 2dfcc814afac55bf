"""A direction is what was planted, and only goes back onto the model it came from."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from refusal_plugin.directions.direction import Direction, fit_direction, template_positions
from refusal_plugin.errors import DataError, DirectionError, PromptError
from refusal_plugin.inference.activations import collect_activations
from refusal_plugin.models import hf_module, load
from refusal_plugin.models.provenance import provenance
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.storage import read_tensors, write_tensors
from tests.support.planting import plant
from tests.support.tiny import tiny_model


def test_the_planted_direction_is_recovered_at_every_layer_and_position(planted: Any) -> None:
    found = planted.candidates
    assert found.positions == (-2, -1) and found.n_harmful == found.n_benign == 60
    vectors = torch.nn.functional.normalize(found.vectors, dim=-1)
    cosines = vectors @ planted.truth
    assert cosines.shape == (2, 3)
    assert float(cosines.min()) > 0.99, cosines


def test_the_direction_of_random_labels_is_not_the_planted_one(planted: Any) -> None:
    mixed = PromptSet(p.replace(role=("harmful", "benign")[k // 2 % 2]) for k, p in enumerate(planted.train))
    wrong = fit_direction(planted.model, mixed, positions=(-1,), progress=False)
    assert float(wrong.vectors[0, 1].norm()) < 0.4 * float(planted.candidates.vectors[1, 1].norm())


def test_fit_is_the_difference_in_means_of_the_two_roles(organism: Any, candidates: Any, train: PromptSet) -> None:
    rows = collect_activations(organism, train.filter(role=("harmful", "benign")), progress=False)
    expected = rows.role("harmful").mean(0) - rows.role("benign").mean(0)
    torch.testing.assert_close(candidates.vectors, expected, atol=1e-3, rtol=1e-4)
    assert (candidates.n_harmful, candidates.n_benign) == (len(rows.role("harmful")), len(rows.role("benign")))
    assert candidates.n_harmful + candidates.n_benign < len(train), "near misses are left out"
    torch.testing.assert_close(candidates.at(4).vector, candidates.vectors[0, 4])


def test_template_positions_are_those_behind_the_instruction(planted: Any, organism: Any, train: PromptSet) -> None:
    assert template_positions(planted.model, planted.train) == (-2, -1)  # "<eos> <assistant>"
    assert template_positions(organism, train)[-1] == -1


def test_a_filter_chooses_the_prompts(planted: Any) -> None:
    kept = planted.train.where(lambda p: int(p.id.split("-")[1][1:]) < 20)
    direct = fit_direction(planted.model, kept, positions=(-1,), progress=False)
    names = {p.id for p in kept}
    filtered = fit_direction(
        planted.model, planted.train, positions=(-1,), keep=lambda p: p.id in names, progress=False
    )
    torch.testing.assert_close(direct.vectors, filtered.vectors)
    assert filtered.n_harmful == 20
    assert filtered.provenance["data_ids"] == [p.id for p in kept]


def twins(prompts: PromptSet) -> PromptSet:
    """The same texts in both roles."""
    return PromptSet(Prompt(p.text, role=role, id=f"{role} {p.id}") for p in prompts for role in ("harmful", "benign"))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda p: p.filter(role="harmful"), PromptError, "0 benign prompts"),
        (lambda p: p.filter(role="benign"), PromptError, "0 harmful prompts"),
        (lambda p: p[:0], PromptError, "0 prompts"),
        (
            lambda p: PromptSet([p.filter(role="harmful")[0], *p.filter(role="benign")]),
            PromptError,
            "at least 2 harmful",
        ),
        (lambda p: twins(p[:2]), DirectionError, "the same mean"),
    ],
)
def test_what_cannot_be_fitted(planted: Any, change: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as raised:
        fit_direction(planted.model, change(planted.train), progress=False)
    assert "\n" not in str(raised.value)


def test_a_filter_that_leaves_nothing_is_an_error(planted: Any) -> None:
    with pytest.raises(PromptError, match="0 prompts"):
        fit_direction(planted.model, planted.train, keep=lambda _: False, progress=False)


def test_nan_activations_are_an_error() -> None:
    module, tokenizer = tiny_model("qwen2")
    model = load(module, tokenizer=tokenizer)
    with torch.no_grad():
        hf_module(model).get_submodule("model.layers.1.mlp.down_proj").weight[0, 0] = float("nan")
    prompts = PromptSet(Prompt(f"w{k}", role=("harmful", "benign")[k % 2], id=str(k)) for k in range(4))
    with pytest.raises(DataError, match="NaN"):
        fit_direction(model, prompts, progress=False)


@pytest.mark.parametrize(("layer", "position"), [(3, -1), (-1, -1), (0, -3), (0, 0)])
def test_unknown_candidates(planted: Any, layer: int, position: int) -> None:
    with pytest.raises(DirectionError, match="layers 0 to 2 and positions"):
        planted.candidates.at(layer, position)


def test_coordinates_are_zero_at_the_benign_and_one_at_the_harmful_mean(planted: Any) -> None:
    direction = planted.candidates.at(1)
    both = torch.stack([direction.benign, direction.harmful, (direction.benign + direction.harmful) / 2])
    torch.testing.assert_close(direction.coordinates(both), torch.tensor([[0.0], [1.0], [0.5]]).expand(3, 3))
    assert float(direction.unit.norm()) == pytest.approx(1.0)


def test_edits_of_a_direction_carry_its_layer_and_strength(planted: Any) -> None:
    direction = replace(planted.candidates.at(2), strength=0.5)
    (part,) = direction.addition().parts
    assert part.layer == 2 and part.site == "resid_post"
    torch.testing.assert_close(part.tensors["vector"], 0.5 * direction.vector)
    (stronger,) = direction.addition(2.0, where="last", when="prefill").parts
    torch.testing.assert_close(stronger.tensors["vector"], 2 * direction.vector)
    assert stronger.where == "last" and direction.addition(2.0, when="prefill").when == "prefill"
    assert {(p.layer, p.site) for p in direction.ablation().parts} == {
        (layer, site) for layer in range(3) for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")
    }


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    direction = replace(
        planted.candidates.at(1, -2), strength=0.7, objective="defence", table=({"layer": 1, "gain": 2.5},)
    )
    return direction.save(tmp_path_factory.mktemp("direction") / "direction.safetensors")


def test_a_saved_direction_comes_back_whole(planted: Any, saved: Path) -> None:
    found = Direction.load(saved, planted.model)
    assert (found.layer, found.position, found.strength) == (1, -2, 0.7)
    assert found.objective == "defence" and found.site == "resid_post" and found.table == ({"layer": 1, "gain": 2.5},)
    torch.testing.assert_close(found.vector, planted.candidates.at(1, -2).vector)
    record = found.provenance
    assert record == provenance(planted.model, planted.train)
    assert record["weight_hash"] and record["template_hash"] and record["data_hash"] == planted.train.hash
    assert len(record["data_ids"]) == 120 and record["splits"] == ["train"]
    assert set(record["versions"]) == {"refusal-plugin", "torch", "transformers", "nnsight"}


def test_the_file_holds_tensors_and_json_and_no_pickle(saved: Path) -> None:
    raw = saved.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert set(header) == {"__metadata__", "harmful", "benign"}
    assert json.loads(header["__metadata__"]["refusal_plugin"])["format"] == "refusal_plugin.direction.v1"
    assert set(load_file(saved)) == {"harmful", "benign"}
    assert not list(saved.parent.glob("*.partial"))


def other_weights() -> Any:
    module, tokenizer = tiny_model("qwen2", seed=1)
    return load(module, tokenizer=tokenizer)


def other_template() -> Any:
    module, tokenizer = tiny_model("qwen2")
    plant(module, tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("<assistant>", "w57 <assistant>")
    return load(module, tokenizer=tokenizer)


def other_family() -> Any:
    module, tokenizer = tiny_model("llama")
    return load(module, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (other_weights, "with other weights"),
        (other_template, "another chat template"),
        (other_family, "config differs"),
        (lambda: load("organism"), "this model has 8 of width 128"),
    ],
)
def test_a_direction_of_another_model_is_refused(saved: Path, build: Callable[[], Any], match: str) -> None:
    with pytest.raises(DirectionError, match=match) as error:
        Direction.load(saved, build())
    assert "\n" not in str(error.value)


def spoil(path: Path, saved: Path, kind: str) -> None:
    raw = saved.read_bytes()
    if kind == "truncated":
        path.write_bytes(raw[:-100])
    elif kind == "cut in the header":
        path.write_bytes(raw[:40])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no safetensors file, and long enough to look like a header")
    elif kind == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        torch.save({"harmful": torch.zeros(3, 32)}, path)
    elif kind == "flipped":
        path.write_bytes(raw[:20] + b"\xff\xfe" + raw[22:])


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "cut in the header", "empty", "text", "foreign", "folder", "pickle", "flipped"]
)
def test_a_spoiled_file_is_a_one_line_error(saved: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spoiled.safetensors"
    spoil(path, saved, kind)
    with pytest.raises(DataError, match=r"spoiled\.safetensors") as error:
        Direction.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"layer": 3}, "layer 3 of 3"),
        ({"layer": "1"}, "its layer is '1'"),
        ({"strength": float("nan")}, "its strength is 'nan'"),
        ({"strength": True}, "its strength"),
        ({"table": {}}, "its table"),
        ({"colour": 1}, "holds colour"),
        ({"layer": None}, "has no layer"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(saved: Path, tmp_path: Path, change: Any, match: str) -> None:
    tensors, record = read_tensors(saved)
    fields = {key: value for key, value in {**record["fields"], **change}.items() if value is not None}
    path = write_tensors(tmp_path / "odd.safetensors", tensors, {**record, "fields": fields})
    with pytest.raises(DataError, match=match):
        Direction.load(path)


def test_a_file_of_version_0_1_comes_back(saved: Path, tmp_path: Path) -> None:
    tensors, record = read_tensors(saved)
    flat = {"format": record["format"], **record["fields"]}
    again = Direction.load(write_tensors(tmp_path / "old.safetensors", tensors, flat))
    assert (again.layer, again.position, again.strength) == (1, -2, 0.7)


def test_nan_tensors_and_missing_provenance_are_refused(planted: Any, tmp_path: Path) -> None:
    direction = planted.candidates.at(0)
    bad = replace(direction, harmful=direction.harmful * float("nan")).save(tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match="NaN"):
        Direction.load(bad)
    bare = Direction(0, -1, direction.harmful, direction.benign).save(tmp_path / "bare.safetensors")
    assert Direction.load(bare).layer == 0, "without a model there is nothing to compare"
    with pytest.raises(DirectionError, match="does not say its model"):
        Direction.load(bare, planted.model)


def test_a_folder_that_cannot_be_written(planted: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "no" / "such" / "folder.safetensors", tmp_path / "file" / "x.safetensors"):
        with pytest.raises(DataError, match="write") as error:
            planted.candidates.at(0).save(target)
        assert "\n" not in str(error.value)


def test_the_organism_knows_itself(organism: Any, direction: Any, tmp_path: Path) -> None:
    again = Direction.load(direction.save(tmp_path / "d.safetensors"), organism)
    torch.testing.assert_close(again.unit, direction.unit)
    assert (again.layer, again.strength, again.selection) == (4, 0.5, "by hand")
