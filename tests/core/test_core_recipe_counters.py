"""What every recipe costs, by counters: passes, traces, positions, blocks and bytes, derived from its prompts.

A pass too many, streams that nobody reads or logits of every position that leave a trace fail here, on any machine.
"""

from collections.abc import Iterator, Sequence
from math import ceil, log2
from typing import Any

import pytest
from counting import DOUBLE, FLOAT, LONG, Counts, area, counted, made, run

from refusal_plugin.directions.selection_figures import GRID, TIGHT
from refusal_plugin.inference.continuation import TOKEN_BUDGET, planted
from refusal_plugin.inference.scores import Encoded
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import Batch, PromptSet, batches, encode
from refusal_plugin.prompts.neutral import neutral_prompts
from refusal_plugin.recipe_files import recipe, recipes
from refusal_plugin.traced import selecting
from refusal_plugin.transfer.effects import some_pairs

ROLES = ("harmful", "benign")


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    """Two of every split, modality and role."""
    from refusal_plugin.organism.data import organism_prompts

    return organism_prompts(limit=2, renderings=1)


def in_arms(model: Any, prompts: PromptSet, arms: int) -> Iterator[tuple[Batch, Batch]]:
    """The batches of prompts that are repeated once per arm, each with a batch that holds its prompts once."""
    limits = {"token_budget": 16384, "max_rows": 256}
    for rows, batch in batches(model, repeated(prompts, arms), **limits):
        yield batch, encode(model, prompts[sorted({row % len(prompts) for row in rows})])


def test_every_recipe_is_counted() -> None:
    tested = {name.removeprefix("test_recipe_") for name in globals() if name.startswith("test_recipe_")}
    assert set(recipes()) == tested | {"study"}, "the study is in test_core_study_counters.py"


def test_recipe_direction_extraction(organism: Any) -> None:
    """One pass per batch, one vector per prompt and layer, and never the head."""
    from refusal_plugin.organism.data import organism_prompts

    facts, text = anatomy(organism), organism_prompts(modality="text", limit=24)  # enough for several batches
    used = text.filter(split="train", role=ROLES) + text.filter(split="val")
    work = made(organism, used)
    found = run("direction_extraction", organism, text)
    assert len(work) > 1
    assert found == Counts(
        passes=len(work),
        traces=len(work),
        tokens=area(work),
        block_tokens=area(work) * facts.n_layers,
        head_tokens=0,
        bytes_out=FLOAT * len(used) * facts.n_layers * facts.d_model,
    )


def test_recipe_refusal_heads(organism: Any, prompts: PromptSet) -> None:
    """One pass per batch as far as the direction's layer, and one of a single prompt for the read vectors."""
    facts = anatomy(organism)
    text = prompts.filter(split="train", modality="text", role=ROLES)
    fit, look = made(organism, text), made(organism, prompts.filter(split="val", role=ROLES))
    one = encode(organism, text[[0]])
    depth = facts.n_layers // 2 + 1
    found = run("refusal_heads", organism, prompts)
    sums = len(fit) * (2 * facts.d_model * FLOAT + 2 * LONG)
    numbers = depth * (facts.n_heads + 3) + 1  # heads, bias, MLP and stream of every layer; the embedding
    assert found == Counts(
        passes=len(fit) + len(look) + 1,
        traces=len(fit) + len(look) + 1,
        tokens=area([*fit, *look, one]),
        block_tokens=depth * area([*fit, *look]) + area([one]),
        head_tokens=0,
        bytes_out=sums + FLOAT * numbers * sum(batch.size for batch in look),
    )


def test_recipe_cross_modal_transfer(organism: Any, prompts: PromptSet) -> None:
    """Reads every item once; per layer one pass over all directions as rows, and one over the prompts untouched."""
    facts, module = anatomy(organism), recipe("cross_modal_transfer")
    n_layers, names = facts.n_layers, facts.modalities
    fit, test = prompts.filter(split="train"), prompts.filter(split="test")
    arms = len(names) + module.DRAWS
    acted = [some_pairs(test.filter(modality=m), module.PAIRS).filter(role=role) for m in names for role in ROLES]
    jobs = [job for part in acted for job in in_arms(organism, part, arms)]
    steered, plain = [job[0] for job in jobs], [job[1] for job in jobs]
    reads, looks = made(organism, fit, max_rows=128), made(organism, test, max_rows=128)
    found = run("cross_modal_transfer", organism, prompts)
    tokens = area(reads) + area(looks) + area(plain) + n_layers * area(steered)
    streams = FLOAT * (len(fit) + len(test)) * n_layers * facts.d_model
    scores = FLOAT * (1 + n_layers) * sum(batch.size for batch in steered)
    assert found == Counts(
        passes=len(reads) + len(looks) + len(jobs) * (1 + n_layers),
        traces=len(reads) + len(looks) + len(jobs) * (1 + n_layers),
        tokens=tokens,
        block_tokens=tokens * n_layers,
        head_tokens=tokens - area(looks),
        bytes_out=streams + LONG * len(fit) + scores,
    )
    assert area(plain) * arms == area(steered), "an untouched prompt runs once, not once per direction"


def test_recipe_safe_space(organism: Any, prompts: PromptSet) -> None:
    """Sums leave the session, not streams: a covariance per modality and layer, whatever the number of items."""
    facts, module = anatomy(organism), recipe("safe_space")
    n_layers, d, names = facts.n_layers, facts.d_model, facts.modalities
    fit, test = prompts.filter(split="train"), prompts.filter(split="test")
    smallest = min(len(fit.filter(modality=m, role=("benign", "near_miss"))) for m in names)
    settings = sum(k < smallest for k in module.KS) + len(module.LAMBDAS)
    acted = [some_pairs(test.filter(modality=m), module.PAIRS).filter(role=role) for m in names for role in ROLES]
    jobs = [job for part in acted for job in in_arms(organism, part, settings)]
    steered, plain = [job[0] for job in jobs], [job[1] for job in jobs]
    reads = made(organism, fit, max_rows=128)
    text = made(organism, fit.filter(modality="text"), max_rows=128)
    with counted(organism) as found:
        result = module.run(organism, prompts)
    tokens = area(reads) + area(plain) + area(steered)
    sums = DOUBLE * (3 + 3 * n_layers * d + len(names) * (1 + n_layers * d + n_layers * d * d))
    opened = len(fit.filter(modality="text")) * (LONG + 1)
    ready = DOUBLE * n_layers * d + FLOAT * len(names) * settings * d
    scores = 3 * FLOAT * sum(batch.size for batch in steered)
    refusal_ids = found.bytes_out - sums - opened - ready - scores
    assert refusal_ids % LONG == 0 and 0 < refusal_ids <= LONG * len(fit.filter(modality="text", role="harmful"))
    found.bytes_out = 0
    assert found == Counts(
        passes=len(reads) + 2 * len(jobs),
        traces=len(reads) + 2 * len(jobs),
        tokens=tokens,
        block_tokens=tokens * n_layers,
        head_tokens=area(text) + area(plain) + area(steered),
    )
    assert len(result.settings) == settings and area(plain) * settings == area(steered)


def test_recipe_defence(organism: Any, prompts: PromptSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads every prompt once without the head; two answers of every test prompt, one position a step."""
    facts, module, steps = anatomy(organism), recipe("defence"), 4
    for name in ("max_new_tokens", "min_new_tokens"):  # answers of a known length
        monkeypatch.setitem(module.SETTINGS, name, steps)
    text, test = prompts.filter(modality="text", role=ROLES), prompts.filter(split="test")
    fit, held = text.filter(split="train"), text.filter(split="val")
    some = [p for role in ROLES for p in list(fit.filter(role=role))[: module.N_TEXTS // 2]]
    read = [*fit, *held]
    for m in facts.modalities[1:]:
        read += neutral_prompts(some, m, module.N_MEDIA, like=prompts.filter(modality=m))
    reads, asks = made(organism, read), made(organism, test)
    answered = 2 * sum(batch.size * (batch.length + steps - 1) for batch in asks)
    with counted(organism) as found:
        module.run(organism, prompts)
    assert found == Counts(
        passes=len(reads) + 2 * steps * len(asks),
        traces=len(reads) + 2 * len(asks),
        tokens=area(reads) + answered,
        block_tokens=(area(reads) + answered) * facts.n_layers,
        head_tokens=answered,
        bytes_out=FLOAT * len(read) * facts.n_layers * facts.d_model
        + 2 * LONG * sum(batch.size * (batch.length + steps) for batch in asks),
    )


def test_recipe_candidate_selection(organism: Any, prompts: PromptSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablations as rows of shared batches; additions begin behind their own block; the search beats bisection."""
    facts, module = anatomy(organism), recipe("candidate_selection")
    n_layers, text = facts.n_layers, prompts.filter(modality="text")
    fit, val = text.filter(split="train", role=ROLES), text.filter(split="val")
    harmful, benign, safe = (val.filter(role=role) for role in ("harmful", "benign", ("benign", "near_miss")))
    asked: list[int] = []

    def spy(state: Any, target: float) -> Any:
        where, which = ask(state, target)
        asked.append(len(which))
        return where, which

    ask = selecting.grid_ask
    monkeypatch.setattr(selecting, "grid_ask", spy)
    with counted(organism) as found:
        result = module.run(organism, prompts)
    shallow = [layer for layer in range(n_layers) if layer < module.MAX_DEPTH * n_layers]
    looks = searches(asked)
    assert len(looks) == len(shallow)
    assert sum(looks) <= len(shallow) * (1 + log2(GRID)), "no more looks than bisection takes"

    whole = made(organism, fit)
    # What is the same at every position runs on prefix trees where they pay, after a trial of one of them.
    bad, plain = made(organism, harmful), made(organism, safe)
    parts = {"bad": harmful, "good": safe, "kind": benign}
    grown = {name: planted(organism, Encoded.of(organism, part)) for name, part in parts.items()}
    trials = [trees.trial()[1] for trees in grown.values() if trees is not None]

    def alike(name: str, **limits: int) -> list[Any]:
        trees = grown[name]
        return made(organism, parts[name], **limits) if trees is None else [batch for _, batch in trees.batches]

    good, kind = alike("good"), alike("kind")
    removed = [*alike("bad", max_rows=TIGHT), *alike("kind", max_rows=TIGHT)]
    chunks = sum(ceil(n_layers / max(1, TOKEN_BUDGET // area([batch]))) for batch in removed)
    moves = n_layers * len(kind) + len(shallow) * (len(good) + len(bad))
    added = n_layers * len(kind) + len(shallow) * len(bad) + sum(looks) * len(good)
    passes = len(whole) + 2 * len(bad) + len(plain) + len(trials) + chunks + moves + added
    full = area(whole) + 2 * area(bad) + area(plain) + area(trials) + n_layers * area(removed)
    assert trials, "no trees: this test would not see what they cost"
    moved = n_layers * area(kind) + len(shallow) * (area(good) + area(bad))
    behind = [n_layers - 1 - layer for layer in range(n_layers)]
    assert (found.passes, found.traces) == (passes, passes)
    assert found.tokens == full + 2 * moved - len(shallow) * area(good) + sum(looks) * area(good)
    assert found.block_tokens == full * n_layers + moved + sum(behind) * area(kind) + sum(
        behind[layer] * (area(bad) + n * area(good)) for layer, n in zip(shallow, looks, strict=True)
    )
    d, rows = facts.d_model, result.direction.table
    streams = len(fit) * (FLOAT * n_layers * d + LONG) + 2 * FLOAT * n_layers * d + LONG * n_layers
    candidates = FLOAT * n_layers * (2 + d + len(val) + 1 + d) + FLOAT * 3 * len(shallow)
    assert len(rows) == n_layers
    assert found.bytes_out == streams + candidates


def searches(asked: Sequence[int]) -> list[int]:
    """Looks of each search, from the candidates that each question was about; a question about none ends a search."""
    found, n = [], 0
    for which in asked:
        n = n + 1 if which else n
        if not which:
            found, n = [*found, n], 0
    return found
