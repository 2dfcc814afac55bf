"""`check_model`: one row for each thing a study needs, with what to do where it does not work."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from refusal_plugin.cli import app
from refusal_plugin.models import check_model
from tests.support.media_models import HAS_VIDEO, save
from tests.support.tiny import tiny_model, tiny_tokenizer


def test_everything_works_on_the_embedded_model() -> None:
    rows = check_model("organism")
    assert [row.what for row in rows] == [
        "load",
        "chat template",
        "text",
        "image",
        "video",
        "audio",
        "residual stream",
        "steering",
        "answers",
        "heads",
    ]
    assert all(row.works and row.found and not row.do for row in rows)


@pytest.mark.skipif(HAS_VIDEO, reason="torchvision is installed here")
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_a_missing_part_comes_with_the_command_that_mends_it(tmp_path: Path, family: str) -> None:
    rows = {row.what: row for row in check_model(save(family, tmp_path))}
    assert not rows["video"].works and rows["video"].do == 'pip install "refusal-plugin[vision]"'
    assert rows["image"].works and rows["steering"].works and rows["answers"].works


@pytest.mark.parametrize(("family", "what"), [("gemma3n", "residual stream"), ("mllama", "heads")])
def test_what_an_architecture_does_not_allow_is_a_row(family: str, what: str) -> None:
    module, tokenizer = tiny_model(family)
    rows = {row.what: row for row in check_model(module, tokenizer=tokenizer)}
    assert not rows[what].works and rows[what].do
    assert rows["text"].works and rows["answers"].works


def test_a_base_model_and_a_fault_in_batches_are_told() -> None:
    module, _ = tiny_model("qwen2")
    layer = module.get_submodule("model.layers.0.mlp.down_proj")
    layer.register_forward_hook(lambda _m, _i, output: output + output.mean(0, keepdim=True))
    rows = {row.what: row for row in check_model(module, tokenizer=tiny_tokenizer(template=None))}
    assert not rows["chat template"].works
    assert rows["text"].works and "one prompt at a time (logits of a batch are off by" in rows["text"].found


def test_a_model_that_does_not_load_is_one_row() -> None:
    (row,) = check_model("/no/such/folder")
    assert (row.what, row.works) == ("load", False) and "no such folder" in row.found and row.do
    broken, tokenizer = tiny_model("qwen2")
    with torch.no_grad():
        broken.get_submodule("model.norm").weight[0] = float("nan")
    (row,) = check_model(broken, tokenizer=tokenizer)
    assert "not finite" in row.found


def test_the_command_prints_the_table_and_the_rows() -> None:
    run = CliRunner()
    table = run.invoke(app, ["check", "organism"])
    assert table.exit_code == 0 and "residual stream" in table.stdout
    rows = json.loads(run.invoke(app, ["check", "organism", "--json"]).stdout)
    assert rows[0]["what"] == "load" and all(row["works"] for row in rows)
    assert run.invoke(app, ["check", "/no/such/folder"]).exit_code == 2
