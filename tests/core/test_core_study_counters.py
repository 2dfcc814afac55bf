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
from refusal_plugin.directions.direction.selection_figures import GRID

from refusal_plugin.directions.calibration import ROUNDS, RUNGS, STEPS
from refusal_plugin.directions.selection import MAX_DEPTH
from refusal_plugin.inference.scores import Encoded
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import Batch, Prompt, PromptSet, batches
from refusal_plugin.recipe_files import recipe
from refusal_plugin.storage import Checkpoints
from refusal_plugin.study.defences import NAMES
from refusal_plugin.study.heads import DRAWS
from refusal_plugin.study.summary import answers_from_json
from refusal_plugin.transfer.effects import some_pairs

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
    folder, found, plain = tmp_path_factory.mktemp("counted"), {}, Checkpoints.timed
    with pytest.MonkeyPatch.context() as patch, counted(organism) as whole:

        def timed(self: Checkpoints, work: Any) -> Any:
            if self.inside:
                return plain(self, work)
            before = replace(whole)
            value, seconds = plain(self, work)
            spent.append(Counts(**{key: n - getattr(before, key) for key, n in vars(whole).items()}))
            return value, seconds

        spent: list[Counts] = []
        patch.setattr(Checkpoints, "timed", timed)
        options = {"out": folder, "max_new_tokens": LONGEST, "progress": False}
        results = recipe("study").run(organism, two, **options)
        found = dict(zip(results["timings"], spent, strict=True))
    return SimpleNamespace(stages=found, folder=folder, results=results, again=run("study", organism, two, **options))


def answered(model: Any, prompts: Sequence[Prompt], folder: Path, name: str) -> Counts:
    """One trace per batch, and a pass for every token of its longest answer, the end of the answer among them."""
    lines = [json.loads(line)["value"] for line in (folder / "stages" / "results.jsonl").read_text().splitlines()]
    (kept,) = (one["value"] for one in lines if isinstance(one, dict) and one.get("stage") == name)
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
    """Arms are rows: a pass per layer over all directions, answers of all arms at once; test streams are not reread."""
    facts, layer, names = anatomy(organism), study.results["direction"]["layer"], ("text", "image")
    fit, test = two.filter(split="train"), two.filter(split="test")
    n_fit = made(organism, fit, token_budget=8192, max_rows=128)
    single = list(n_fit)
    spoken: list[Batch] = []
    draws = {at: 12 if at == layer else 2 for at in range(facts.n_layers)}
    for m in names:
        part = some_pairs(test.filter(modality=m), 36)
        for role in ROLES:
            alone = part.filter(role=role)
            single += made_for_scores(organism, alone)
            for n in draws.values():
                single += made_for_scores(organism, repeated(alone, len(names) + n))
        for some in (part, part.filter(role="harmful")):
            spoken += made_for_scores(organism, repeated(some, len(names) + 1))
    spaces = study.results["safe_space"]["modalities"]
    for m in names:
        settings = len(spaces[m]["sweep"])
        safe = test.filter(modality=m, role=("benign", "near_miss"))
        single += made_for_scores(organism, safe)
        single += made_for_scores(organism, repeated(safe, settings))
        single += made_for_scores(organism, repeated(test.filter(modality=m, role="harmful"), settings))
    found = study.stages["transfer"]
    assert found.traces == len(single) + len(spoken)
    assert found.passes <= len(single) + LONGEST * len(spoken)
    assert found.tokens <= area(single) + sum(b.size * (b.length + LONGEST - 1) for b in spoken)


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


def made_for_scores(model: Any, prompts: PromptSet) -> list[Batch]:
    return [batch for _, batch in Encoded.of(model, prompts).batches]
