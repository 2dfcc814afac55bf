"""Every result tells its finding and its caveat on one screen; the slips of a first day are one line each."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import refusal_plugin as rp
from refusal_plugin.report.shown import WIDTH, Shown

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Result(Shown):
    """What a user's own method might return."""

    layer: int
    vector: Tensor
    note: str = "two\nlines " * 200
    warnings: tuple[str, ...] = tuple(f"<b>{k}</b> " + "long " * 100 for k in range(9))
    many: dict[str, list[float]] = field(default_factory=lambda: {str(k): [0.5] * k for k in range(90)})


def one_screen(found: Any) -> str:
    """A result as a terminal shows it, which must be short and must not print a tensor."""
    text = repr(found)
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 3 * WIDTH, text
    assert "tensor(" not in text and text.startswith(type(found).__name__)
    return text


def test_a_dataclass_shows_itself_without_a_word_of_its_own() -> None:
    found = Result(3, torch.arange(1000.0))
    text = one_screen(found)
    assert "layer 3" in text and "(1000,)" in text and "90 entries" in text and "note: 5 more" in text
    page = found._repr_html_()
    assert "&lt;b&gt;0" in page and "<b>" not in page and "tensor(" not in page
    pytest.importorskip("pandas")
    assert found.to_frame().to_dict("records") == [{"layer": 3, "note": found.note}]


def test_rows_come_as_a_table_in_whole_at_the_top_or_drawn() -> None:
    pytest.importorskip("pandas")
    prompts = rp.organism_prompts(split="val", modality="text", limit=10)
    assert list(prompts.to_frame().id) == [p.id for p in prompts]
    assert list(prompts.head(3).id) == [p.id for p in prompts[:3]]
    drawn = prompts.sample(5, seed=1)
    assert len(set(drawn.id)) == 5 and list(drawn.id) == list(prompts.sample(5, seed=1).id) != list(prompts.head().id)
    assert len(prompts.sample(10_000)) == len(prompts)


# In an interpreter of its own: here annotations are checked as well, and would answer in the library's place.
SESSION = """
import json, sys, warnings
import torch
import refusal_plugin as rp
warnings.simplefilter("ignore")
model = rp.load("organism")
few = rp.organism_prompts(split="train", modality="text", limit=6)
val = rp.organism_prompts(split="val", modality="text", limit=6)
harmless = val.filter(role="benign")
candidates = rp.fit_direction(model, few)
direction = candidates.at(4)
tokens = rp.refusal_tokens(model, few)
answers = rp.generate(model, few, max_new_tokens=4)
labelled = rp.label_answers(few, answers)
defence = rp.fit_defence("addition", model, rp.DefenceData.of(model, few + val, tokens=tokens))
rates = rp.refusal_rates(labelled)
heads = rp.attribute_heads(model, direction, few)
results = {
    "prompts": few, "candidates": candidates, "direction": direction, "tokens": tokens, "answers": answers,
    "answer": answers[0], "labels": labelled, "rates": rates, "power": rp.statistical_power(labelled),
    "price": rp.calibrate(direction.addition, model, harmless), "defence": defence, "edit": direction.addition(),
    "activations": rp.collect_activations(model, few), "heads": heads,
    "scores": rp.refusal_scores(model, few, tokens.ids), "tokens along": rp.project_tokens(model, direction, val[:2]),
    "safe space": rp.SafeSpace.fit(rp.collect_activations(model, few).values[:, 0], 6),
    "batch": rp.encode(model, "hello"),
}
saved = direction.save(sys.argv[1] + "/direction.safetensors")
one = rp.PromptSet([few.filter(role=role)[0] for role in ("harmful", "benign")])
slips = {
    "strings to fit": lambda: rp.fit_direction(model, ["how do i bake bread ?", "how do i steal ?"]),
    "prompts and model swapped": lambda: rp.fit_direction(few, model),
    "one prompt a role": lambda: rp.fit_direction(model, one),
    "a layer that is not there": lambda: candidates.at(40),
    "a strength in words": lambda: direction.addition("strong"),
    "a defence's strength in words": lambda: defence.edit("strong"),
    "a direction to calibrate": lambda: rp.calibrate(direction, model, harmless),
    "a direction in the place of an edit": lambda: rp.generate(model, "hello", direction),
    "no refusal tokens": lambda: rp.select_direction(model, candidates, val, None),
    "results of the wrong kind": lambda: rp.SafeSpace.load(saved),
    "a name in the place of a model": lambda: rp.generate("organism", "hello"),
    "a mistyped model": lambda: rp.load("organsim"),
    "a mistyped role": lambda: few.filter(role="harm"),
}
said = {}
for name, slip in slips.items():
    try:
        said[name] = ["nothing", repr(slip())]
    except Exception as error:
        said[name] = [type(error).__mro__[-5].__name__, str(error)]
shown = {name: [type(one).__name__, repr(one), getattr(one, "_repr_html_", str)()] for name, one in results.items()}
frames = {name: len(one.head(3)) for name, one in results.items() if name != "batch"}
print(json.dumps([said, shown, frames]))
"""

SLIPS = {
    "strings to fit": ["'how do i bake bread ?'", "without a role", "Prompt(text, role='harmful')"],
    "prompts and model swapped": ["a TransformersModel", "PromptSet"],
    "one prompt a role": ["1 harmful", "at least 2"],
    "a layer that is not there": ["layer 40", "0 to 7"],
    "a strength in words": ["'strong'", "give a number"],
    "a defence's strength in words": ["'strong'", "give a number"],
    "a direction to calibrate": ["a Direction", "direction.addition"],
    "a direction in the place of an edit": ["a Direction", "direction.addition()"],
    "no refusal tokens": ["NoneType", "refusal_tokens("],
    "results of the wrong kind": ["a Direction", "Direction.load"],
    "a name in the place of a model": ["a str", "load("],
    "a mistyped model": ["organsim", "use organism"],
    "a mistyped role": ["'harm'", "harmful"],
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a first session prints: errors of slips, results as text and as HTML, heads of tables."""
    pytest.importorskip("pandas")
    command = [sys.executable, "-c", SESSION, str(tmp_path_factory.mktemp("session"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_of_the_first_day_is_one_line_that_says_what_to_do(session: list[Any], slip: str) -> None:
    kind, text = session[0][slip]
    assert kind == "RefusalPluginError" and "\n" not in text and "(rp-" in text, text
    assert not [word for word in SLIPS[slip] if word not in text], text


def test_every_result_fits_a_screen_and_prints_no_tensor(session: list[Any]) -> None:
    for name, (kind, text, page) in session[1].items():
        lines = text.splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 3 * WIDTH, f"{name}: {text}"
        assert "tensor(" not in text + page and "object at 0x" not in text, f"{name}: {text}"
        assert text.startswith(kind) or name == "batch", f"{name}: {text}"
        assert "<script" not in page and "http" not in page.replace("http://www.w3.org/2000/svg", ""), name
    assert {name for name, n in session[2].items() if not n} == {"direction"}, "one taken by hand has no table"


def test_a_result_tells_its_caveat_with_its_finding(session: list[Any]) -> None:
    shown = {name: text for name, (_, text, _) in session[1].items()}
    for name, words in {
        "candidates": "select_direction",
        "direction": "taken by hand",
        "answers": "cut at max_new_tokens",
        "price": "priced on text only",
        "heads": "conservation error",
        "power": "pair groups",
        "safe space": "for k = 6",
    }.items():
        assert words in shown[name], shown[name]


def test_help_on_every_exported_name_begins_with_a_sentence() -> None:
    for name in rp.__all__:
        found = getattr(rp, name)
        first = (found.__doc__ or "").strip().split("\n")[0]
        assert len(first.split()) >= 3 and first.endswith((".", ":", "?")), f"help({name}) begins with {first!r}"
