"""A whole comparison on the embedded model: files, resuming, reuse, the page, the command."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refusal_plugin import cli
from refusal_plugin.comparison import compare_defences
from refusal_plugin.defences import Defence
from refusal_plugin.defences.run import DefenceRun, digest
from refusal_plugin.errors import PromptError, StudyError
from refusal_plugin.evaluation import PhraseJudge
from refusal_plugin.inference.answers import generate
from refusal_plugin.models.own_prompts import defence_prompts
from refusal_plugin.prompts import PromptSet
from refusal_plugin.report.comparison import render_comparison
from refusal_plugin.storage import Checkpoints

DEFENCES = ("addition", "random")


class Deaf(PhraseJudge):
    """A second judge that hears no refusal at all."""

    def label(self, prompts: Any, answers: Any) -> list[Any]:
        return ["compliance"] * len(answers)


OPTIONS: dict[str, Any] = {
    "seeds": (0, 1),
    "strengths": (2.0,),
    "pareto": ("addition",),
    "modalities": ("text", "image"),
    "calibration_items": 6,
    "max_new_tokens": 14,
    "guard": Deaf(),
    "progress": False,
}


@pytest.fixture(scope="module")
def prompts(organism: Any) -> PromptSet:
    """A few prompts of every split: text to train on, text and images to price and to answer."""
    every = defence_prompts(organism, media_pairs=2)
    parts = []
    for split, limit in (("train", 60), ("val", 24), ("test", 24)):
        some = every.filter(split=split, modality=("text",) if split == "train" else ("text", "image"))  # type: ignore[arg-type]
        parts += list(some.limit(limit, seed=0))
    return PromptSet(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def results(organism: Any, prompts: PromptSet, folder: Path) -> dict[str, Any]:
    return compare_defences(organism, prompts, DEFENCES, out=folder, **OPTIONS)


def lines(folder: Path) -> list[str]:
    return (folder / "stages" / "results.jsonl").read_text().splitlines()


def same(results: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on when and how often a comparison was interrupted."""
    return {k: v for k, v in results.items() if k not in ("created", "seconds")}


def test_a_second_judge_is_compared_on_the_answers_behind_the_rates(
    results: dict[str, Any], prompts: PromptSet
) -> None:
    assert results["guard"] == "Deaf" and set(results["agreement"]) == {"text", "image"}
    for modality, found in results["agreement"].items():
        told = json.dumps(found)
        asked = len(prompts.filter(split="test", modality=modality))
        # The undefended answers, and those of two methods at the matched price, by the first fit.
        assert f'"n": {3 * asked}' in told, told
        assert found["accuracy"]["value"] < 1
    assert results["contract"]["judge"] == "PhraseJudge" and results["contract"]["max_new_tokens"] == 14


def test_compare_json_holds_the_documented_sections(results: dict[str, Any], folder: Path) -> None:
    assert json.loads((folder / "compare.json").read_text()) == json.loads(json.dumps(results))
    assert results["kind"] == "comparison" and results["schema_version"] == 1
    kinds = [(r["defence"], r["modality"], r["seed"], r["kind"]) for r in results["rows"]]
    each = 2 * 2 + 1  # two methods of two fits at the price, one at twice that
    assert len(kinds) == len(set(kinds)) == 2 * each + 2, "and in media the control at the strength of addition"
    assert {(r["defence"], r["modality"]) for r in results["matched"]} == {
        (d, m) for d in DEFENCES for m in ("text", "image")
    }
    assert all(r["kl"] <= 0.1 for r in results["matched"])
    for r in results["matched"]:
        plain = results["undefended"][r["modality"]]
        assert 1 <= plain["perplexity"]["value"] < 2, "greedy answers are what the model would have said"
        assert r["perplexity"]["value"] >= 1 and r["perplexity"]["n"] == plain["n_benign"] + plain["n_near_miss"]
    double = next(r for r in results["rows"] if r["kind"] == "grid" and r["modality"] == "image")
    single = next(
        r
        for r in results["rows"]
        if r["kind"] == "matched" and r["modality"] == "image" and r["defence"] == "addition" and r["seed"] == 0
    )
    assert double["strength"] == pytest.approx(2 * single["strength"])
    longer = [r for r in results["rows"] if r["kind"] == "same_strength" and r["modality"] == "image"]
    assert {r["defence"] for r in longer} == {"random"} and single["strength"] in [r["strength"] for r in longer]
    assert {(r["defence"], r["of"]) for r in results["same_strength"]} == {("random", "addition")}
    assert results["undefended"]["image"]["power"]["pairs"] == results["undefended"]["image"]["n_harmful"]
    assert {c["defence"] for c in results["claims"]} == {"random"}, "claims only about what was run"
    assert any("underpowered" in w or "no headroom" in w for w in results["warnings"])


def test_the_same_question_is_not_asked_again(
    organism: Any, prompts: PromptSet, folder: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was answered before")

    before = lines(folder)
    monkeypatch.setattr("refusal_plugin.defences.run.generate_batches", never)
    monkeypatch.setattr("refusal_plugin.comparison.fits.fit_defence", never)
    again = compare_defences(organism, prompts, DEFENCES, out=folder, **OPTIONS)
    assert same(again) == same(results) and lines(folder) == before


def test_undefended_answers_are_shared_between_comparisons(
    organism: Any, prompts: PromptSet, folder: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = DefenceRun.answer_batch
    monkeypatch.setattr(DefenceRun, "answer_batch", lambda self, b, e, d, s: asked.append(d) or real(self, b, e, d, s))
    compare_defences(
        organism, prompts, ("shuffled",), out=folder, **{**OPTIONS, "seeds": (0,), "modalities": ("image",)}
    )
    assert asked and {} not in asked, "only the new method answers"


@pytest.mark.slow
def test_an_interrupted_run_loses_one_batch_at_most(
    organism: Any, prompts: PromptSet, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, stop_after = Checkpoints.put, 7

    def put(self: Checkpoints, facts: Any, value: Any) -> None:
        real(self, facts, value)
        if self.computed >= stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "put", put)
    with pytest.raises(KeyboardInterrupt):
        compare_defences(organism, prompts, DEFENCES, out=tmp_path, **OPTIONS)
    monkeypatch.undo()
    kept = lines(tmp_path)
    assert len(kept) == stop_after and not (tmp_path / "compare.json").exists()
    path = tmp_path / "stages" / "results.jsonl"
    path.write_text(path.read_text() + '{"key": "half')  # and the next line was being written
    finished = compare_defences(organism, prompts, DEFENCES, out=tmp_path, **OPTIONS)
    assert lines(tmp_path)[:stop_after] == kept, "nothing is done twice"
    assert same(finished) == same(results), "and nothing differs"


def test_rows_of_strengths_answer_as_single_runs_do(
    organism: Any, prompts: PromptSet, folder: Path, results: dict[str, Any], tmp_path: Path
) -> None:

    defence: Defence = Defence.load(folder / "defences" / "addition-0.safetensors", organism)
    arena = DefenceRun(organism, prompts, Checkpoints(tmp_path), max_new_tokens=14, max_rows=17)
    together = arena.answers(defence, "image", [0.3, 1.5])
    for c, found in zip((0.3, 1.5), together, strict=True):
        edit = defence.edit(c, modality="image")
        alone = generate(organism, arena.tests["image"], edit, max_new_tokens=14, progress=False)
        assert [a.prompt_id for a in found] == [a.prompt_id for a in alone]
        assert [a.ids for a in found] == [a.ids for a in alone]
    assert digest(defence) == digest(defence.at(9.0)), "a strength is no part of what was fitted"


def test_the_page_says_what_held_and_fetches_nothing(results: dict[str, Any], folder: Path) -> None:
    page = (folder / "index.html").read_text()
    assert "at the same price" in page and "underpowered" in page
    assert page.count("<svg") >= 2 and not re.search(r"(?:src|href)\s*=\s*[\"']?https?:", page)
    hostile = {**results, "warnings": ["<script>alert(1)</script>"]}
    assert "<script>alert" not in render_comparison(hostile)
    with pytest.raises(StudyError, match=r"compare\.json"):
        render_comparison({"schema_version": 1})


def test_what_cannot_be_fitted_is_named_and_the_rest_is_compared(
    organism: Any, prompts: PromptSet, folder: Path, results: dict[str, Any]
) -> None:
    options = {**OPTIONS, "seeds": (0,), "modalities": ("text",)}
    found = compare_defences(organism, prompts, ("addition", "mdsteer_h2s"), out=folder, **options)
    assert list(found["not_fitted"]) == ["mdsteer_h2s"] and {r["defence"] for r in found["matched"]} == {"addition"}
    assert any("mdsteer_h2s was not fitted" in w for w in found["warnings"])
    with pytest.raises(StudyError, match="none could be fitted"):
        compare_defences(organism, prompts, ("mdsteer_h2s",), out=folder, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"defences": ("magic",)}, "'magic': no such method"),
        ({"defences": ("random", "random")}, "name each once"),
        ({"defences": ()}, "at least one"),
        ({"seeds": ()}, "seeds"),
        ({"strengths": (0.0,)}, "positive"),
        ({"target_kl": -1.0}, "positive"),
        ({"modalities": ("audio",)}, "audio"),
    ],
)
def test_bad_questions(organism: Any, prompts: PromptSet, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    arguments = {"defences": DEFENCES, **OPTIONS, **change}
    with pytest.raises((StudyError, PromptError), match=re.escape(words)) as error:
        compare_defences(organism, prompts, arguments.pop("defences"), out=tmp_path, **arguments)
    assert "\n" not in str(error.value)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["refusal-plugin", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        text = capsys.readouterr()
        return SimpleNamespace(code=code, out=text.out, err=text.err)

    return run


def test_help_teaches_and_list_names_the_methods(command: Callable[..., SimpleNamespace]) -> None:
    found = command("compare", "--help")
    assert found.code == 0 and "refusal-plugin compare sarsteer" in found.out and "same price" in found.out
    listed = command("compare", "list")
    assert listed.code == 0
    for name in ("sarsteer", "sarsteer_v1", "mars", "random", "neutral media"):
        assert name in listed.out


@pytest.mark.slow
def test_the_command_compares(
    command: Callable[..., SimpleNamespace], prompts: PromptSet, folder: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    text = prompts.filter(modality="text").to_jsonl(tmp_path / "few.jsonl")
    out = tmp_path / "out"
    words = ("random", "--prompts", str(text), "--modality", "text", "--seeds", "1", "--out", str(out))
    found = command("compare", *words)
    assert found.code == 0, found.err
    assert "harmful refused" in found.out and "no defence" in found.out and "compare.json" in found.out
    assert json.loads((out / "compare.json").read_text())["control"] is None, "own prompts have no control model"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("magic",), "no such method"),
        (("random", "--target-kl", "0"), "positive"),
        (("random", "--model", "no-such-model"), "no-such-model"),
        (("random", "--prompts", "none.jsonl"), "none.jsonl"),
    ],
)
def test_errors_are_one_line(
    command: Callable[..., SimpleNamespace], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    found = command("compare", *words, "--out", str(tmp_path))
    assert found.code == 2 and found.err.startswith("error: ") and found.err.count("\n") == 1 and said in found.err
