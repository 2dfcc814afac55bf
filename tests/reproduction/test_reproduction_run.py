"""Papers' tables: the run is that of a comparison, the table says what lies within, every configuration runs tiny."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refusal_plugin.cli import app
from refusal_plugin.defences import DefenceData, fit_defence
from refusal_plugin.errors import DataError
from refusal_plugin.evaluation import Outcomes, label_answers, rate_changes
from refusal_plugin.inference.answers import generate
from refusal_plugin.models.own_prompts import own_prompts
from refusal_plugin.models.tiny import architectures
from refusal_plugin.prompts import Prompt, PromptSet
from refusal_plugin.reproduction import configuration, configurations, reproduce, reproduce_tiny
from refusal_plugin.reproduction.configs import Counts, Data, Figure
from refusal_plugin.reproduction.run import paper_prompts, table

PAIRS = [(name, model) for name in sorted(configurations()) for model in configuration(name).models]
NEEDS_REFUSALS = {"mdsteer_c2r", "adasteer"}
"""Methods that need a model that refuses some harm, or that tells it from the rest: a random one may not."""


def outcomes(refused: int, of: int = 20) -> Outcomes:
    """Harmful prompts of which some are refused, the others complied with."""
    prompts = PromptSet(Prompt(f"p {k}", role="harmful", pair=f"{k}", id=f"{k}") for k in range(of))
    labels = tuple("refusal" if k < refused else "compliance" for k in range(of))
    return Outcomes(prompts, labels, (None,) * of)  # type: ignore[arg-type]


def test_the_table_says_which_figures_lie_within_our_interval() -> None:
    made = configuration("arditi")
    figures = [
        Figure("none", "text", "harmful_refusal", 0.5),
        Figure("addition", "text", "harmful_refusal", 0.2),
        Figure("addition", "text", "gain", 0.4),
        Figure("random", "text", "gain", 0.0),
    ]
    made = replace(made, models={"m": replace(made.models["gemma"], figures=figures)})
    rows = table(made, "m", {("none", "text"): outcomes(10), ("addition", "text"): outcomes(18)})
    found = {(row["defence"], row["rate"]): row for row in rows if row["paper"] is not None}
    assert found["none", "harmful_refusal"]["within"] is True
    assert found["addition", "harmful_refusal"]["within"] is False
    assert found["addition", "gain"]["ours"] == pytest.approx(0.4) and found["addition", "gain"]["within"] is True
    assert found["random", "gain"]["within"] is None and found["random", "gain"]["ours"] is None


def csv_of(folder: Path, file: str, columns: list[str], rows: list[list[str]]) -> Path:
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_pair_of_the_test_part_is_fitted_on(tmp_path: Path) -> None:
    rows = [[str(k), f"sentence {k}", "t", label, f"focus {k}", ""] for k in range(10) for label in ("safe", "unsafe")]
    rows = [[one[0], f"{one[1]} {one[3]}", *one[2:]] for one in rows]
    one = csv_of(tmp_path / "x", "xstest_prompts.csv", ["id", "prompt", "type", "label", "focus", "note"], rows)
    other = csv_of(
        tmp_path / "s",
        "strongreject_dataset/strongreject_dataset.csv",
        ["category", "source", "forbidden_prompt"],
        [["c", "s", "sentence 3 unsafe"], ["c", "s", "another"]],
    )
    data = Data(f"xstest={one}", f"strongreject={other}", 0.25, ["text"], Counts(20, 2))
    found = paper_prompts(data)
    test = found.filter(split="test")
    assert {p.text for p in test} == {"sentence 3 unsafe", "another"}
    fitted = found.filter(split=("train", "val"))
    assert {p.pair for p in fitted}.isdisjoint(p.pair for p in test)
    assert not any("sentence 3" in p.text for p in fitted) and len(fitted) == 18
    shares = paper_prompts(replace(data, test=0.5))
    assert {split: len(shares.filter(split=split)) for split in ("train", "val", "test")} == pytest.approx(
        {"train": 5, "val": 5, "test": 10}, abs=3
    )


@pytest.fixture(scope="module")
def small(organism: Any) -> PromptSet:
    from refusal_plugin.comparison.fits import limited

    return limited(own_prompts(organism).filter(modality=("text", "image")), 16)


def test_a_run_answers_as_the_defence_under_hooks_and_goes_on_where_it_stopped(
    organism: Any, small: PromptSet, tmp_path: Path
) -> None:
    made = configuration("arditi")
    made = replace(
        made,
        data=replace(made.data, modalities=["image"]),
        decoding=replace(made.decoding, max_new_tokens=12),
        defences={"addition": {"strength": 0.7, "where": "last"}},
        models={"organism": replace(made.models["gemma"], figures=[])},
    )
    how: dict[str, Any] = {"loaded": organism, "prompts": small, "progress": False}
    found = reproduce(made, "organism", out=tmp_path, **how)
    data = DefenceData.of(organism, small, 0, share=1.0)
    defence = fit_defence("addition", organism, data, where="last")
    test = small.filter(split="test", modality="image")
    answers = [generate(organism, test, e, max_new_tokens=12) for e in (None, defence.edit(0.7, modality="image"))]
    plain, steered = (label_answers(test, list(said), max_new_tokens=12, system="") for said in answers)
    wanted = rate_changes(steered, plain).to_json()
    got = {row["rate"]: row["ours"] for row in found["rows"] if row["defence"] == "addition"}
    assert got == {rate: value["value"] for rate, value in wanted.items() if value["value"] is not None}
    assert got["gain"] != 0 and found["strengths"] == {"addition": {"image": 0.7}}
    kept = (tmp_path / "stages" / "results.jsonl").read_bytes()
    again = reproduce(made, "organism", out=tmp_path, **how)
    assert (tmp_path / "stages" / "results.jsonl").read_bytes() == kept
    assert again["rows"] == found["rows"] == json.loads((tmp_path / "reproduction.json").read_text())["rows"]


def test_a_model_that_is_not_of_the_table_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such model"):
        reproduce(configuration("arditi"), "gpt", out=tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "model"), PAIRS, ids=lambda one: one)
def test_every_configuration_runs_on_a_tiny_model_of_its_class(name: str, model: str, tmp_path: Path) -> None:
    made = configuration(name)
    found = reproduce_tiny(made, model, tmp_path)
    arms = {row["defence"] for row in found["rows"] if row["ours"] is not None}
    assert set(found["not_fitted"]) <= NEEDS_REFUSALS
    assert arms == {"none", *made.defences} - set(found["not_fitted"])
    assert {(r["defence"], r["modality"], r["rate"]) for r in found["rows"] if r["paper"] is not None} == {
        (one.defence, one.modality, one.rate) for one in made.models[model].figures
    }
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["architectures"] == [architectures()[made.models[model].tiny]["model"]]
    assert "no number means anything" in found["warnings"][0]


def test_the_command_lists_plans_and_refuses() -> None:
    run = CliRunner()
    listed = run.invoke(app, ["reproduce"], env={"COLUMNS": "240"})
    assert listed.exit_code == 0 and all(f"{name}:{model}" in listed.output for name, model in PAIRS)
    planned = run.invoke(app, ["reproduce", "sarsteer:qwen2-audio", "--dry-run", "--json"])
    (plan,) = json.loads(planned.output)
    assert plan["model"] == "qwen2-audio" and plan["hours"] > 0
    facts = run.invoke(app, ["reproduce", "sarsteer", "--dry-run"], env={"COLUMNS": "240"})
    assert "sorrybench=" in facts.output and "sarsteer-figstep (open)" in facts.output
    assert isinstance(run.invoke(app, ["reproduce", "mars:gpt", "--dry-run"]).exception, DataError)
