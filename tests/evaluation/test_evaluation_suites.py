"""A steered model under lm-eval: its likelihoods are those of hooks, and a task file of our own runs on it."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from refusal_plugin.errors import DataError, OptionalDependencyError
from refusal_plugin.evaluation import label_answers
from refusal_plugin.evaluation.suites import SteeredModel, suite_model
from refusal_plugin.inference.answers import generate
from refusal_plugin.inference.edits import Edit, addition
from refusal_plugin.models import hf_module
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import PromptSet, encode

EXTRAS = os.environ.get("EVALS_EXTRAS")
"""A folder with lm-eval and lmms-eval, looked at last: what the project pins comes first."""
if EXTRAS:
    sys.path.append(os.path.abspath(EXTRAS))

HARNESS = importlib.util.find_spec("lm_eval") is not None
needs = pytest.mark.skipif(not HARNESS, reason="lm-eval is not installed (and EVALS_EXTRAS names no folder that has it)")


def requests(*pairs: Any) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


@pytest.fixture(scope="module")
def asked() -> PromptSet:
    """Benign text with known answers."""
    found = organism_prompts(split="test", modality="text").where(lambda p: p.role == "benign" and p.answer is not None)
    return found.limit(12, seed=0)


@pytest.fixture(scope="module")
def edit(organism: Any) -> Edit:
    """A push that changes answers, at every position."""
    torch.manual_seed(3)
    return addition({2: torch.randn(128)}, strength=20.0)


@pytest.mark.parametrize("steered", [False, True])
def test_likelihoods_are_those_of_a_pass_under_hooks(
    organism: Any, asked: PromptSet, edit: Edit, steered: bool
) -> None:
    chosen = edit if steered else None
    pairs = [(p.text, f" {asked[k].answer}") for p, k in zip(asked, (0, 2, 1), strict=False)]
    found = SteeredModel(organism, chosen).loglikelihood(requests(*pairs))
    for (text, said), (value, greedy) in zip(pairs, found, strict=True):
        ids = organism.tokenizer(said.strip(), add_special_tokens=False)["input_ids"]
        prompt = encode(organism, [text]).inputs["input_ids"][0].tolist()
        row = torch.tensor([[*prompt, *ids]])
        with torch.no_grad():
            if chosen is None:
                logits = hf_module(organism)(input_ids=row).logits
            else:
                with chosen.attached(organism):
                    logits = hf_module(organism)(input_ids=row).logits
        steps = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert value == pytest.approx(float(steps[range(len(ids)), ids].sum()), abs=1e-3)
        assert greedy == (steps.argmax(-1).tolist() == ids)


def test_answers_are_those_of_the_model_cut_where_the_task_says(organism: Any, asked: PromptSet, edit: Edit) -> None:
    whole = [answer.text for answer in generate(organism, asked, edit, max_new_tokens=12, progress=False)]
    end = whole[0][2:4]
    got = SteeredModel(organism, edit).generate_until(
        requests(*((p.text, {"until": [end, "no such end"], "max_gen_toks": 12}) for p in asked))
    )
    assert got == [text.split(end)[0] for text in whole]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda lm: lm.generate_until(requests(("a", {"do_sample": True}))), "sampling"),
        (lambda lm: lm.loglikelihood(requests(("a", ""))), "no token"),
        (lambda lm: lm.loglikelihood_rolling(requests(("a",))), "running text"),
    ],
)
def test_what_a_steered_model_cannot_do_is_said(organism: Any, ask: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        ask(SteeredModel(organism))


@pytest.mark.skipif(HARNESS, reason="lm-eval is installed")
def test_without_the_package_the_way_out_is_named(organism: Any) -> None:
    with pytest.raises(OptionalDependencyError, match=r"refusal-plugin\[evals\]"):
        suite_model(organism)


@needs
def test_a_task_file_of_our_own_runs_on_a_steered_model(
    organism: Any, asked: PromptSet, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    answers = [str(p.answer).removesuffix(" .") for p in asked]
    rows = [
        {"text": p.text, "answer": answer, "choices": [answer, other]}
        for p, answer, other in zip(asked, answers, [*answers[1:], answers[0]], strict=True)
        if answer != other
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{text}}",
    }
    choice = {
        "task": "own_choice",
        "output_type": "multiple_choice",
        "doc_to_target": 0,
        "doc_to_choice": "{{choices}}",
    }
    written = {"task": "own_answer", "output_type": "generate_until", "doc_to_target": "{{answer}}"}
    choice |= {"doc_to_target": 0, "metric_list": [{"metric": "acc"}]}
    written |= {"metric_list": [{"metric": "exact_match"}], "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12}}
    for task in (choice, written):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump({**shared, **task}), encoding="utf-8")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def scores(chosen: Edit | None) -> dict[str, float]:
        lm = suite_model(organism, chosen)
        found = simple_evaluate(lm, tasks=["own_choice", "own_answer"], task_manager=tasks, bootstrap_iters=0)
        assert found is not None
        results = found["results"]
        return {"acc": results["own_choice"]["acc,none"], "exact": results["own_answer"]["exact_match,none"]}

    plain, steered = scores(None), scores(edit)
    kept = PromptSet(p for p in asked if p.text in {row["text"] for row in rows})
    said = generate(organism, kept, max_new_tokens=12, progress=False)
    exact = label_answers(kept, list(said)).exact("benign")[0]
    assert plain["acc"] == 1.0 and plain["exact"] == pytest.approx(sum(exact) / len(exact)) and plain["exact"] > 0.8
    assert steered["exact"] < plain["exact"]
