"""A steered model under lm-eval and lmms-eval: likelihoods are those of hooks, task files of our own run on it."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

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
MEDIA_HARNESS = importlib.util.find_spec("lmms_eval") is not None
needs = pytest.mark.skipif(
    not HARNESS, reason="lm-eval is not installed (and EVALS_EXTRAS names no folder that has it)"
)

needs_media = pytest.mark.skipif(
    not MEDIA_HARNESS, reason="lmms-eval is not installed (and EVALS_EXTRAS names no folder that has it)"
)


def requests(*pairs: Any) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


def answerable(modality: str, number: int) -> PromptSet:
    found = organism_prompts(split="test", modality=modality)
    return found.where(lambda p: p.role == "benign" and p.answer is not None).limit(number, seed=0)


@pytest.fixture(scope="module")
def asked() -> PromptSet:
    """Benign text with known answers."""
    return answerable("text", 12)


@pytest.fixture(scope="module")
def shown() -> PromptSet:
    """The same of each medium."""
    return PromptSet(p for kind in ("image", "video", "audio") for p in answerable(kind, 3))


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


@pytest.mark.skipif(HARNESS or MEDIA_HARNESS, reason="lm-eval or lmms-eval is installed")
@pytest.mark.parametrize(
    ("suite", "do"), [("lm-eval", r"refusal-plugin\[evals\]"), ("lmms-eval", r"refusal-plugin\[evals-media\]")]
)
def test_without_the_package_the_way_out_is_named(organism: Any, suite: str, do: str) -> None:
    with pytest.raises(OptionalDependencyError, match=rf"{suite} cannot be imported .*{do}"):
        suite_model(organism, suite=suite)


def test_an_unknown_suite_is_refused_with_those_there_are(organism: Any) -> None:
    with pytest.raises(DataError, match="lm-eval, lmms-eval, lmms-eval-simple"):
        suite_model(organism, suite="lms-eval")


def task_of(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What task files over these rows share."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "text",
    }


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
    shared = task_of(tmp_path, rows) | {"doc_to_text": "{{text}}"}
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


def lmms_model(suite: str, model: Any, edit: Any, docs: list[Any]) -> Any:
    """A model of lmms-eval that has been given the documents of a task."""
    lm = suite_model(model, edit, suite=suite)
    lm.task_dict["own"] = {"test": docs}
    return lm


def instance(kind: Any, *args: Any) -> Any:
    from lmms_eval.api.instance import Instance

    return Instance(kind, args, 0, {"task": "own", "doc_id": args[-3], "repeats": 1})


@needs_media
def test_media_reach_the_model_in_whatever_form_a_task_gives_them(organism: Any, shown: PromptSet, edit: Edit) -> None:
    how = {"max_new_tokens": 12, "until": ["\n"], "do_sample": False, "temperature": 0}
    sounds = [{"array": p.audio, "sampling_rate": 16_000} if p.audio is not None else None for p in shown]
    docs = [
        sound or (Image.fromarray(p.image) if p.image is not None else [Image.fromarray(f) for f in p.video])
        for p, sound in zip(shown, sounds, strict=True)
    ]
    wanted = [answer.text for answer in generate(organism, shown, edit, max_new_tokens=12, progress=False)]
    simple = [instance("generate_until", p.text, how, lambda d: [d], k, "own", "test") for k, p in enumerate(shown)]
    assert lmms_model("lmms-eval-simple", organism, edit, docs).generate_until(simple) == wanted

    def turns(p: Any) -> Any:
        def messages(doc: Any) -> list[dict[str, Any]]:
            content = [{"type": p.modality, "url": doc}, {"type": "text", "text": ""}, {"type": "text", "text": p.text}]
            return [{"role": "user", "content": content}]

        return messages

    chat = [instance("generate_until", p.text, turns(p), how, k, "own", "test") for k, p in enumerate(shown)]
    assert lmms_model("lmms-eval", organism, edit, docs).generate_until(chat) == wanted
    assert len(set(wanted)) > 1


@needs_media
def test_likelihoods_see_the_medium(organism: Any, shown: PromptSet) -> None:
    """The right answer is likelier beside its own medium than beside another one of its kind."""
    asked = [p for p in shown if p.modality == "audio"][:2]
    docs = [{"array": np.tile(p.audio, (2, 1)), "sampling_rate": 16_000} for p in asked]
    lm = lmms_model("lmms-eval-simple", organism, None, docs)

    def seen(shift: int) -> list[float]:
        found = [
            instance("loglikelihood", p.text, f" {p.answer}", lambda d: [d], (k + shift) % 2, "own", "test")
            for k, p in enumerate(asked)
        ]
        return [value for value, _ in lm.loglikelihood(found)]

    own, other = seen(0), seen(1)
    assert len({p.answer for p in asked}) == 2
    assert all(a > b + 1 for a, b in zip(own, other, strict=True))


@needs_media
@pytest.mark.parametrize(
    ("doc", "said"),
    [
        ({"url": "clip.mp4", "type": "video", "video_start": 1.0}, "section of a video"),
        (3.5, "shows a float"),
        ({"bytes": b"RIFF"}, "shows a dict"),
    ],
)
def test_a_medium_that_cannot_be_shown_is_said(organism: Any, doc: Any, said: str) -> None:
    ask = instance("generate_until", "what ?", {}, lambda d: [d], 0, "own", "test")
    with pytest.raises(DataError, match=said):
        lmms_model("lmms-eval-simple", organism, None, [doc]).generate_until([ask])


@needs_media
def test_several_rounds_are_refused(organism: Any) -> None:
    with pytest.raises(DataError, match="several rounds"):
        suite_model(organism, suite="lmms-eval").generate_until_multi_round([])


@needs_media
def test_a_task_file_of_media_runs_on_a_steered_model(
    organism: Any, shown: PromptSet, edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    shown.to_jsonl(tmp_path / "prompts.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [
        {"text": p.text, "medium": str(tmp_path / row[p.modality]), "answer": p.answer, "choices": [p.answer, "no"]}
        for p, row in zip(shown, rows, strict=True)
    ]
    shared = task_of(tmp_path, rows) | {"doc_to_visual": "medium"}
    written = shared | {"task": "own_media", "output_type": "generate_until", "doc_to_target": "answer"}
    written |= {"metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}
    written |= {"generation_kwargs": {"until": ["\n"], "max_new_tokens": 16, "do_sample": False}}
    (tmp_path / "own_media.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def run(suite: str, chosen: Edit | None) -> Any:
        lm = suite_model(organism, chosen, suite=suite)
        return simple_evaluate(lm, tasks=["own_media"], task_manager=tasks, bootstrap_iters=0)

    for suite in ("lmms-eval", "lmms-eval-simple"):
        said = [sample["resps"][0][0] for sample in run(suite, edit)["samples"]["own_media"]]
        assert said == [a.text for a in generate(organism, shown, edit, max_new_tokens=16, progress=False)]
    plain = run("lmms-eval", None)
    right = [
        a.text == p.answer
        for a, p in zip(generate(organism, shown, max_new_tokens=16, progress=False), shown, strict=True)
    ]
    assert plain["results"]["own_media"]["exact_match,none"] == pytest.approx(sum(right) / len(right))
    assert sum(right) / len(right) > 0.8
