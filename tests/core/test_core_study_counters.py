"""What every stage of a study costs, by counters: nothing is asked twice, and a finished study runs nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, log2
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from counting import FLOAT, LONG, Counts, area, counted, made, run

from refusal_plugin.directions.calibration import ROUNDS, RUNGS, STEPS
from refusal_plugin.directions.figures import GRID
from refusal_plugin.directions.selection import MAX_DEPTH
from refusal_plugin.inference.streams import some_pairs
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import Prompt, PromptSet, batches
from refusal_plugin.recipe_files import recipe
from refusal_plugin.study.defences import NAMES
from refusal_plugin.study.heads import DRAWS
from refusal_plugin.study.stages import Stages
from refusal_plugin.study.summary import answers_from_json

ROLES = ("harmful", "benign")
LONGEST = 6  # tokens of an answer of the study


@pytest.fixture(scope="module")
def two() -> PromptSet:
    """Text and one medium: the others go the same way. Two of every split and role."""
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(limit=2, renderings=1).filter(modality=("text", "image"))


@pytest.fixture(scope="module")
def study(organism: Any, two: PromptSet, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What every stage of the study cost, its folder, its results, and what a second run costs."""
    folder, found, plain = tmp_path_factory.mktemp("counted"), {}, Stages._timed
    with pytest.MonkeyPatch.context() as patch, counted(organism) as whole:

        def timed(self: Stages, work: Any) -> Any:
            if self._inside:
                return plain(self, work)
            before = replace(whole)
            value, seconds = plain(self, work)
            spent.append(Counts(**{key: n - getattr(before, key) for key, n in vars(whole).items()}))
            return value, seconds

        spent: list[Counts] = []
        patch.setattr(Stages, "_timed", timed)
        options = {"out": folder, "max_new_tokens": LONGEST, "progress": False}
        results = recipe("study").run(organism, two, **options)
        found = dict(zip(results["timings"], spent, strict=True))
    return SimpleNamespace(stages=found, folder=folder, results=results, again=run("study", organism, two, **options))


def answered(model: Any, prompts: Sequence[Prompt], folder: Path, name: str) -> Counts:
    """One trace per batch, and a pass for every token of its longest answer, the end of the answer among them."""
    kept = json.loads((folder / "stages" / f"{name}.json").read_text())["value"]
    steps = {prompt.id: len(a.ids) + a.finished for prompt, a in zip(prompts, answers_from_json(kept), strict=True)}
    found, n_layers = Counts(), anatomy(model).n_layers
    for _, batch in batches(model, prompts):
        n = max(steps[p.id] for p in batch.prompts)
        found.passes, found.traces = found.passes + n, found.traces + 1
        found.tokens += batch.size * (batch.length + n - 1)
        found.bytes_out += LONG * batch.size * (batch.length + n)
    found.block_tokens, found.head_tokens = n_layers * found.tokens, found.tokens
    return found


@pytest.mark.slow
def test_recipe_study(organism: Any, two: PromptSet, study: SimpleNamespace) -> None:
    """Nothing is asked twice: one generation per arm, one reading of the test prompts, and nothing in a second run."""
    stages, facts, test = dict(study.stages), anatomy(organism), two.filter(split="test")
    for m in ("text", "image"):
        part = test.filter(modality=m)
        for arm in ("none", "addition", "random"):
            assert stages.pop(f"{arm}-{m}") == answered(organism, part, study.folder, f"{arm}-{m}")
        asked = PromptSet(p.read_back() for p in part)
        assert stages.pop(f"read-{m}") == answered(organism, asked, study.folder, f"read-{m}")
        work = made(organism, part)
        streams = FLOAT * len(part) * facts.n_layers * facts.d_model
        read = Counts(len(work), len(work), area(work), area(work) * facts.n_layers, 0, streams)
        assert stages.pop(f"streams-{m}") == read
    for arm in ("text", "random", "projected_out"):
        expected = answered(organism, test.filter(modality="text"), study.folder, f"causal-{arm}")
        assert stages.pop(f"causal-{arm}") == expected
    assert set(stages) == {"direction", "transfer", "defences", "heads"}, "the tests below"
    assert study.again == Counts(), "a finished study runs the model no more"


@pytest.mark.slow
def test_the_study_of_transfer(organism: Any, two: PromptSet, study: SimpleNamespace) -> None:
    """Arms are rows of shared passes; test streams and undefended answers are not asked for again."""
    test, names = two.filter(split="test"), ("text", "image")
    acted = sum(len(some_pairs(test.filter(modality=m), 36)) for m in names)
    # Untouched, the sources and two random directions in every layer, and ten more of these in the chosen one.
    rows = acted * (1 + anatomy(organism).n_layers * (len(names) + 2) + 10)
    spaces = study.results["safe_space"]["modalities"]
    swept = sum(len(test.filter(modality=m)) * (1 + len(spaces[m]["sweep"])) for m in names)
    spoken = 2 * len(names)  # direction added, and taken away
    found = study.stages["transfer"]
    # Beside every pass of cleaned vectors one over its prompts untouched; a pass holds at least eight rows.
    assert found.passes <= len(made(organism, two.filter(split="train"))) + (rows + 2 * swept) / 8 + LONGEST * spoken
    assert found.traces <= found.passes


@pytest.mark.slow
def test_the_rest_of_the_study(organism: Any, two: PromptSet, study: SimpleNamespace) -> None:
    """Direction and defences search, so their passes are bounded; those of the heads follow from what is shown."""
    n_layers, n_kinds = anatomy(organism).n_layers, 2
    shallow, harmless = ceil(MAX_DEPTH * n_layers), two.filter(split="val", role=("benign", "near_miss"))
    assert len(made(organism, two.filter(split="val"))) == n_kinds, "a batch for each kind of prompt"
    found = study.stages["direction"]
    bisection = round(log2(GRID)) + 1
    ablations, additions = 2, 2 * n_layers + shallow * (3 + bisection) + 1
    prices = n_kinds * (1 + 1 + 1 + STEPS)  # untouched, the bounds, and the halvings
    assert found.traces <= 1 + 1 + 2 + ablations + additions + prices, "answers, fit, untouched runs, figures, price"
    width = FLOAT * len(anatomy(organism).tokenizer)
    rows = 4 * (2 + shallow * (3 + bisection) + 2 * n_layers) + len(harmless) * (3 + STEPS)
    assert found.bytes_out < 2 * width * rows, "logits of one position per row, never of every position"
    found = study.stages["defences"]
    looks = 1 + ROUNDS + 1  # untouched, the rounds, and the strength that is taken
    assert found.traces <= n_kinds * (len(NAMES) * (looks + 2 + 1) + 6), "prices, sizes of edits, answers, and the fits"
    assert found.bytes_out < 2 * width * len(harmless) * len(NAMES) * (2 + ROUNDS * RUNGS)
    heads, found = study.results["heads"], study.stages["heads"]
    effects = 2 * len(heads["top"]) + n_kinds * (DRAWS + 1)
    drawn = 5 * len(heads["examples"]) + 2 * len(two.filter(split="test", role="benign", modality="text"))
    assert found.traces == 4 * n_kinds + effects + 3 * n_kinds + drawn
