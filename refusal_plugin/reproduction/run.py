"""A paper's table again: fit on "train", select and price on "val", answer "test", judge, and set ours beside theirs.

    fits      every defence of the configuration                         out/defences/*.safetensors
    answers   of the model as it is and of each defence, by modality      out/stages/results.jsonl
    table     paper | ours with its 95 % interval | within it?            out/reproduction.json

Everything is run as a comparison runs it; a strength is the paper's own, or "matched": that of a comparison.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..comparison.fits import Fits, limited
from ..datasets import load_sets, provenance
from ..datasets.loading import joined
from ..defences import Defence
from ..defences.run import DefenceRun
from ..directions.calibration import TARGET_KL
from ..errors import DataError, PromptError, RefusalPluginError
from ..evaluation import (
    Contract,
    GenerativeJudge,
    Judge,
    Outcomes,
    PhraseJudge,
    label_answers,
    name_of,
    rate_changes,
    refusal_rates,
)
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.answers import Answer
from ..inference.prefix import device_of
from ..inference.threads import few_threads
from ..models import anatomy, load
from ..models.provenance import versions
from ..progress import Progress, track
from ..prompts import Modality, PromptSet, Split
from ..report.shown import Shown
from ..storage import Checkpoints, write_json
from .configs import MATCHED, NONE, PHRASES, Configuration, Data, check

SCHEMA_VERSION = 1


class Reproduction(Shown, dict[str, Any]):
    """The content of reproduction.json, which shows itself."""

    def finding(self) -> str:
        rows = [row for row in self["rows"] if row["within"] is not None]
        within = sum(row["within"] for row in rows)
        lines = [f"{self['configuration']}, {self['model']}: {within} of {len(rows)} figures within our interval"]
        for row in rows:
            ours = f"{row['ours']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            verdict = "within" if row["within"] else "outside"
            said = f"{row['defence']} on {row['modality']}, {row['rate'].replace('_', ' ')}"
            lines.append(f"{said}: paper {row['paper']:.3f}, ours {ours}, {verdict}")
        return "\n".join(lines)

    def caveats(self) -> Sequence[str]:
        return [*self["warnings"], *self["notes"]]

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per defence, modality and rate."""
        yield from self["rows"]


def reproduce(
    made: Configuration,
    model: str,
    *,
    out: str | Path = "reproduction",
    loaded: Any = None,
    prompts: PromptSet | None = None,
    judge: Judge | None = None,
    tokens: RefusalTokens | None = None,
    limit: int | None = None,
    token_budget: int = 8192,
    progress: Progress = None,
) -> Reproduction:
    """Make one model's rows of a paper's table again and write `reproduction.json`.

    Args:
        made: the configuration.
        model: a name among its models.
        out: folder of the results; an earlier, interrupted run there is continued.
        loaded: the model, loaded already; by the configuration's id and revision by default.
        prompts: with roles and splits, instead of the configuration's data.
        judge: who labels, instead of the configuration's.
        tokens: refusal tokens if they are known already.
        limit: at most this many validation and test prompts each (a quick look; every interval widens).
        token_budget: most tokens of one batch.
        progress: None shows bars where somebody can see them.

    Returns:
        the content of reproduction.json: `rows` with the paper's figure, ours, its interval and whether the one lies
        within the other (None where either is missing).

    Raises:
        DataError: the configuration is wrong, has no such model, or a set cannot be loaded.
        PromptError: no test prompt of any modality of the table.
        ModelError: model or judge cannot be loaded.
    """
    check(made)
    if model not in made.models:
        raise DataError(f"reproduce '{made.name}:{model}'", "no such model", f"use one of {', '.join(made.models)}")
    entry, started = made.models[model], datetime.now(UTC)
    prompts = paper_prompts(made.data) if prompts is None else PromptSet(prompts).assigned(made.data.seed)
    prompts = prompts if limit is None else limited(prompts, limit)
    loaded = load(entry.id, revision=entry.revision) if loaded is None else loaded
    checkpoints, tokens_long = Checkpoints(Path(out) / "stages"), made.decoding.max_new_tokens
    said: dict[tuple[str, Modality], list[Answer]] = {}
    defences: dict[str, Defence] = {}
    strengths: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    with few_threads(loaded):
        arena = DefenceRun(
            loaded,
            prompts,
            checkpoints,
            target_kl=TARGET_KL,
            max_new_tokens=tokens_long,
            token_budget=token_budget,
        )
        chosen = [m for m in arena.tests if m in made.data.modalities and len(arena.tests[m])]
        if not chosen:
            wanted = ", ".join(made.data.modalities)
            found = f"no test prompt of {wanted} that '{anatomy(loaded).name}' takes"
            raise PromptError(f"reproduce '{made.name}:{model}'", found, "see `refusal-plugin check MODEL`")
        how: dict[str, Any] = {"share": 1.0, "limit": max(128, len(prompts)), "tokens": tokens}
        fits = Fits(loaded, prompts, Path(out) / "defences", checkpoints, arena.base, **how)
        steps = len(made.defences) + len(chosen) * (1 + len(made.defences))
        with track(steps, f"{made.name} on {anatomy(loaded).name}", progress) as advance:
            for name in made.defences:
                try:
                    defences[name] = fits.one(name, made.data.seed, **made.switches(name))
                except RefusalPluginError as error:
                    refused[name] = str(error)
                advance(1)
            for m in chosen:
                arena.forget()
                said[NONE, m] = arena.answers(None, m)[0]
                advance(1)
                for name, defence in defences.items():
                    asked = made.strength(name)
                    c = arena.price(defence, m).strength if asked == MATCHED else asked
                    c = defence.strength if c is None else float(c)
                    strengths.setdefault(name, {})[m] = c
                    said[name, m] = arena.answers(defence, m, [c])[0]
                    advance(1)
    judge = paper_judge(made, loaded) if judge is None else judge
    outcomes = {
        (name, m): label_answers(
            arena.tests[m],
            answers,
            judge,
            max_new_tokens=tokens_long,
            system=(defences[name].system if name in defences else None) or "",
        )
        for (name, m), answers in said.items()
    }
    rows = table(made, model, outcomes)
    facts = anatomy(loaded)
    left = [m for m in made.data.modalities if m not in chosen]
    results = Reproduction(
        schema_version=SCHEMA_VERSION,
        kind="reproduction",
        configuration=made.name,
        paper=made.paper,
        arxiv=made.arxiv,
        shows=made.shows,
        model=model,
        id=entry.id,
        revision=entry.revision or facts.revision,
        weight_hash=arena.base["weights"],
        template_hash=facts.template_hash,
        created=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round((datetime.now(UTC) - started).total_seconds(), 1),
        versions=versions(),
        contract=Contract.of(
            prompts.filter(split="test"), name_of(judge), max_new_tokens=tokens_long, system=""
        ).to_json(),
        prompts={"hash": prompts.hash, "limit": limit, "data": provenance(prompts)},
        strengths=strengths,
        switches={name: dict(defence.switches) for name, defence in defences.items()},
        rows=rows,
        not_fitted=refused,
        warnings=[
            *(f"{name} was not fitted: {why}" for name, why in refused.items()),
            *(f"{m} is left out: no test prompts, or '{facts.name}' does not take it" for m in left),
        ],
        notes=list(made.notes),
    )
    write_json(Path(out) / "reproduction.json", results)
    return results


def table(made: Configuration, model: str, outcomes: Mapping[tuple[str, Any], Outcomes]) -> list[dict[str, Any]]:
    """Every rate of every arm with the paper's figure beside it; figures of arms that were not run stay, without ours.

    `within` says whether the paper's figure lies in our 95 % interval.
    """
    theirs = {(one.defence, one.modality, one.rate): one.paper for one in made.models[model].figures}
    rows: list[dict[str, Any]] = []
    for (name, m), found in outcomes.items():
        plain = outcomes[NONE, m]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a prompt defence has a system text, and that is its point
            rates = refusal_rates(found) if name == NONE else rate_changes(found, plain)
        for rate, ours in rates.to_json().items():
            paper, low, high = theirs.pop((name, m, rate), None), ours["low"], ours["high"]
            if ours["value"] is None and paper is None:
                continue
            within = None if paper is None or low is None or high is None else bool(low <= paper <= high)
            facts = {"ours": ours["value"], "low": low, "high": high, "n": ours["n"], "within": within}
            rows.append({"defence": name, "modality": m, "rate": rate, "paper": paper, **facts})
    empty = {"ours": None, "low": None, "high": None, "n": 0, "within": None}
    return rows + [
        {"defence": name, "modality": m, "rate": rate, "paper": paper, **empty}
        for (name, m, rate), paper in theirs.items()
    ]


def paper_prompts(data: Data) -> PromptSet:
    """The public sets of a configuration, in splits: no pair in two of them, the test part's own where it has one.

    Raises:
        DataError, OptionalDependencyError: a set cannot be loaded.
        PromptError: too few pairs for the shares.
    """
    train = load_sets(data.train, limit=data.train_limit, seed=data.seed)
    if not isinstance(data.test, str):
        shares: dict[Split, float] = {"train": 1 - data.test - data.val, "val": data.val, "test": data.test}
        return PromptSet(p for part in train.split(shares, data.seed).values() for p in part)
    test = load_sets(data.test, limit=data.test_limit, seed=data.seed)
    own = {prompt.id for prompt in test}
    every = joined([*(p for p in train if p.id not in own), *test])
    tested = {p.pair for p in every if p.id in own}
    kept = PromptSet(p for p in every if p.id not in own and p.pair not in tested)
    if lost := len(every) - len(own) - len(kept):
        warnings.warn(f"{lost} training prompts share a pair with a test prompt and are left out.", stacklevel=2)
    drawn = kept.split({"train": 1 - data.val, "val": data.val}, data.seed)
    return PromptSet(
        [*(p for part in drawn.values() for p in part), *(p.replace(split="test") for p in every if p.id in own)]
    )


def paper_judge(made: Configuration, model: Any) -> Judge:
    """The judge of a configuration, loaded.

    Raises:
        ModelError: it cannot be loaded.
    """
    asked = made.judge
    if asked.format == PHRASES or asked.model is None:
        return PhraseJudge.for_model(model)
    device = device_of(model)
    where = None if device.type == "cpu" else str(device)
    return GenerativeJudge.load(asked.model, asked.format, device_map=where, dtype="auto", revision=asked.revision)
