"""The study: does the refusal direction of text reach image, video and speech, and does adding it restore refusal?

Everything about refusal comes from text: the direction is fitted on text (train split) and its layer is selected on
text (val split). The strength is set by its price (`directions.calibration`): the largest that costs 0.1 nats per whole
answer to HARMLESS prompts of every modality (val split). No harmful medium is seen before the test split is looked at,
once.

Each stage is kept in `<out>/stages/`: an interrupted study continues where it stopped.
"""

import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets import provenance
from ..defences.run import DefenceRun
from ..directions.calibration import ITEMS, TARGET_KL, TOKENS, price
from ..directions.direction import Direction, fit_direction
from ..directions.selection import rank_agreement, select_direction
from ..errors import PromptError, RefusalPluginError
from ..evaluation import (
    Contract,
    Judge,
    Outcomes,
    PhraseJudge,
    compare_judges,
    label_answers,
    name_of,
    rate_changes,
    refusal_rates,
)
from ..evaluation.refusal_tokens import RefusalTokens, refusal_tokens
from ..inference.activations import Activations, collect_activations
from ..inference.answers import Answer, generate
from ..inference.edits import Edit, addition, attenuation
from ..inference.meter import metered_blocks, prompt_tokens
from ..inference.threads import few_threads
from ..models import anatomy, load
from ..models.own_prompts import own_prompts, with_media_to_train_on
from ..models.provenance import versions
from ..progress import Progress, track
from ..prompts import PromptSet
from ..report import write as write_report
from ..storage import Checkpoints, write_json
from .by_strength import rates_by_strength
from .defences import defence_rows
from .examples import examples, items
from .heads import heads_section
from .regime import regime
from .summary import (
    Study,
    answers_from_json,
    answers_to_json,
    counts,
    random_like,
    read_back,
    separation,
    study_cost,
)
from .transfer import SECTIONS, training_pairs, transfer_sections
from .twins import twins_section, twins_words

SCHEMA_VERSION = 1
POSITIONS = (-1,)  # the token that emits the first word of the answer: the one place every modality shares
NEEDED = {"train": ("harmful", "benign"), "val": ("harmful", "benign"), "test": ("harmful",)}


def run_study(
    model: Any = "organism",
    prompts: PromptSet | None = None,
    *,
    out: str | Path = "study",
    seed: int = 0,
    limit: int | None = None,
    max_new_tokens: int = 24,
    token_budget: int = 8192,
    judge: Judge | None = None,
    guard: Judge | None = None,
    progress: Progress = None,
) -> Study:
    """Run the study and write `results.json`, `direction.safetensors` and `index.html`.

    Args:
        model: a name, a folder, a hub id, or a loaded model.
        prompts: with splits and roles; the embedded model's own prompts by default.
        out: folder of the results; an earlier, interrupted run there is continued.
        seed: of the bootstrap, of the random control and of `limit`.
        limit: at most this many prompts in all (a quick look; every interval widens).
        max_new_tokens: longest answer.
        token_budget: most tokens of one batch where prompts are read or answered.
        judge: who labels answers; the phrase judge, which strips reasoning as the model's template writes it, by
            default. The results say who it was.
        guard: a second judge, say a guard model: its agreement with the first is reported per modality.
        progress: None shows bars where somebody can see them.

    Returns:
        the content of results.json.

    Raises:
        ModelError, PromptError, DirectionError, DataError, StudyError: one line that says what to do.
    """
    model = load(model) if isinstance(model, (str, Path)) else model
    facts = anatomy(model)
    judge = PhraseJudge.for_model(model) if judge is None else judge
    prompts = own_prompts(model) if prompts is None else PromptSet(prompts).assigned()
    every, prompts = prompts, prompts if limit is None else prompts.limit(limit, seed)
    lacking = missing(prompts)
    if lacking:
        smallest = next((n for n in range(limit or len(every), len(every)) if not missing(every.limit(n, seed))), None)
        do = f"use --limit {smallest} or more" if limit is not None and smallest else "add some"
        raise PromptError("run the study", lacking, do)
    modalities = [m for m in prompts.filter(split="test").modalities if facts.takes(m)]
    text = prompts.filter(modality="text")
    train, val, test = (text.filter(split=name) for name in ("train", "val", "test"))

    steps = 2 + len(modalities) * 5 + 3 + 2 + 1
    named = f"study of {facts.name}"
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "token_budget": token_budget}
    with few_threads(model), metered_blocks(model) as meter, track(steps, named, progress) as advance:
        stages = Checkpoints(
            Path(out) / "stages",
            {
                "schema": SCHEMA_VERSION,
                "weights": facts.weight_hash(),
                "template": facts.template_hash,
                "prompts": prompts.hash,
                "judge": name_of(judge),  # refusal tokens are what it calls a refusal, and the rest follows from them
                "seed": seed,
                "limit": limit,
                "tokens": max_new_tokens,
                "price": [TARGET_KL, TOKENS, ITEMS],
                "versions": versions(),
            },
            gauge=meter.tokens,
        )
        arena = DefenceRun(model, prompts, stages, **limits)
        # 1. The direction: fitted on text train, chosen on text val.
        tokens, direction, priced = the_direction(arena, train, val, judge, stages, Path(out))
        advance(2)
        arms = {
            "none": None,
            "addition": direction.addition(),
            "random": addition(
                {direction.layer: random_like(direction.vector, seed)}, strength=direction.strength, name="random"
            ),
        }

        # 2. Every modality of the test split, in the same way.
        sections: dict[str, Any] = {}
        seen: dict[str, dict[str, Any]] = {"streams": {}, "answers": {}, "understood": {}}
        shown: list[dict[str, Any]] = []
        every_item: list[dict[str, Any]] = []
        agreement: dict[str, Any] = {}
        for modality in modalities:
            asked = prompts.filter(split="test", modality=modality)
            readable = asked.where(lambda p: p.read_text is not None)
            heard = said(
                model,
                stages,
                f"read-{modality}",
                PromptSet(p.read_back() for p in readable),
                None,
                max_new_tokens,
                token_budget,
            )
            advance(1)
            reading, understood = read_back(list(readable), heard, seed)
            if not len(readable):
                understood = frozenset(p.id for p in asked)
            streams = the_streams(model, stages, modality, asked, direction.position, token_budget)
            advance(1)
            spoken = {}
            for name, edit in arms.items():
                spoken[name] = said(model, stages, f"{name}-{modality}", asked, edit, max_new_tokens, token_budget)
                advance(1)
            seen["streams"][modality], seen["answers"][modality] = streams, spoken["none"]
            seen["understood"][modality] = understood if len(readable) else None
            judged = {name: label_answers(asked, answers, judge) for name, answers in spoken.items()}
            if guard is not None:
                both = compare_judges(list(asked), spoken["none"], judge, guard, rng=np.random.default_rng(seed))
                agreement[modality] = both.to_json()
            sections[modality] = {
                **{f"n_{role}": n for role, n in counts(asked).items()},
                "read_back": reading.to_json(),
                **separation(direction, streams, understood, seed),
                "defences": {name: arm_rates(name, judged, seed) for name in arms},
                "by_strength": stages.run(
                    f"strengths-{modality}", partial(rates_by_strength, model, direction, tokens, asked, seed)
                ),
            }
            before, after = ((judged[name], spoken[name]) for name in ("none", "addition"))
            along = direction.coordinates(streams.values[:, 0])
            shown += examples(list(asked), before, after, along)
            every_item += items(list(asked), before, after, along)

        matched = twins_section(model, direction, prompts, stages, token_budget, seed)

        # 3. The causal test: with the coordinate along the direction set to its benign mean, does text refusal go?
        causal = {}
        for name, edit in causal_tests(direction, seed).items():
            answers = said(model, stages, f"causal-{name}", test, edit, max_new_tokens, token_budget)
            causal[name] = refusal_rates(label_answers(test, answers, judge), seed)
            advance(1)

        # SARSteer and MARS at the same price, beside the arms above.
        defended, unfitted = defence_rows(
            arena,
            lambda: with_media_to_train_on(model, prompts, modalities, training_pairs(limit)),
            tokens,
            stages,
            seen["answers"],
            seed=seed,
            judge=judge,
        )
        for name, rows in defended.items():
            sections[name]["defences"] |= rows
        advance(1)

        # Does one modality's direction reach the others, what is the gap made of, what lies in the safe spaces?
        across = transfer_sections(
            model,
            prompts,
            direction,
            tokens,
            stages,
            **seen,
            out=Path(out),
            limit=limit,
            seed=seed,
            max_new_tokens=max_new_tokens,
        )
        advance(1)

        # Which heads write the direction, and do the same ones write it in every modality?
        drawn = [row["id"] for row in shown if row["role"] == "harmful"]
        heads = stages.run("heads", lambda: heads_section(model, direction, tokens, prompts, drawn, seed))
        length = stages.run("length", lambda: prompt_tokens(model, prompts))
        advance(1)

    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": facts.name,
        "seed": seed,
        "limit": limit,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": versions(),
        "weight_hash": facts.weight_hash(),
        "template_hash": facts.template_hash,
        "prompts": {
            "hash": prompts.hash,
            "data": provenance(prompts),
            **{
                name: counts(part)
                for name, part in (("train", train), ("val", val), ("test", prompts.filter(split="test")))
            },
        },
        "contract": Contract.of(
            prompts.filter(split="test"), name_of(judge), max_new_tokens=max_new_tokens, system=""
        ).to_json(),
        "judge": {"name": name_of(judge), "guard": guard and name_of(guard), "agreement": agreement},
        "regime": regime(sections, direction.layer),
        "direction": direction_record(direction, tokens, priced, facts.n_layers),
        "modalities": sections,
        "twins": matched,
        "ablation": {name: found.to_json() for name, found in causal.items()},
        **{name: across[name] for name in (*SECTIONS, "findings")},
        "heads": heads,
        "examples": shown,
        "items": every_item,
        "timings": stages.seconds,
        "cost": study_cost(stages.work, len(prompts), length),
        "warnings": [
            *twins_words(matched, sections.get("text", {}), direction.layer),
            *warnings(sections, limit),
            *unfitted,
            *across["transfer_warnings"],
        ],
    }
    write_json(Path(out) / "results.json", results)
    write_report(results, Path(out) / "index.html")
    return Study(results)


def missing(prompts: PromptSet) -> str:
    """What the study lacks of text, in words; empty if nothing."""
    have = {(p.split, p.role) for p in prompts if p.modality == "text"}
    lacking = [(split, role) for split, roles in NEEDED.items() for role in roles if (split, role) not in have]
    return "no {1} text prompts in split {0!r}".format(*lacking[0]) if lacking else ""


def the_direction(
    arena: DefenceRun, train: PromptSet, val: PromptSet, judge: Judge, stages: Checkpoints, out: Path
) -> tuple[RefusalTokens, Direction, dict[str, Any]]:
    """Refusal tokens, direction and the price of its strength: from the folder if they are there, else found.

    The strength is priced in every modality of the arena's harmless validation prompts.

    The stage knows which direction it found: a file that another run wrote into the folder (another judge, other
    prompts) is not taken for its own.
    """
    path, model = out / "direction.safetensors", arena.model

    def work() -> dict[str, Any]:
        tokens = refusal_tokens(model, train, judge=judge)
        direction = select_direction(
            model, fit_direction(model, train, positions=POSITIONS), val, tokens, objective="defence"
        )
        parts = {m: arena.part(m, tokens.ids) for m in arena.tests if len(arena.harmless(m))}
        found = price(direction.addition, parts, arena.target_kl)
        on_text = price(direction.addition, {"text": parts["text"]}, arena.target_kl) if len(parts) > 1 else found
        priced = found.put_on(direction)
        priced.save(path)
        return {
            **vars(tokens),
            "ids": tokens.ids.tolist(),
            "refused": sorted(tokens.refused),
            "price": {**vars(found), "text_only": on_text.strength},
            "identity": identity(priced),
        }

    kept = stages.kept({**stages.facts, "stage": "direction"})
    there = False
    with suppress(RefusalPluginError):  # missing, spoiled, of another model or of another run: found again
        there = kept is not None and identity(Direction.load(path, model)) == kept["value"].get("identity")
    record = stages.run("direction", work, again=not there)
    tokens = RefusalTokens(
        torch.tensor(record["ids"]),
        tuple(record["words"]),
        record["harmful_refusal"],
        record["benign_refusal"],
        frozenset(record["refused"]),
        tuple(tuple(opening) for opening in record["openings"]),
    )
    return tokens, Direction.load(path, model), record["price"]


def identity(direction: Direction) -> str:
    """Hash of what a direction does: its vector, place and strength."""
    place = repr((direction.layer, direction.position, direction.strength)).encode()
    return hashlib.sha256(place + direction.vector.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:20]


def causal_tests(direction: Direction, seed: int) -> dict[str, Edit]:
    """Three ways to take a direction out of text.

    This one set to its benign mean, a random one likewise (the control), and this one projected out of every layer and
    position, as the reference does.
    """
    random = random_like(direction.unit, seed)
    return {
        "text": direction.set_to_benign_mean(),
        "random": attenuation(random.expand_as(direction.benign), direction.benign, keep=0.0),
        "projected_out": direction.ablation(),
    }


def the_streams(
    model: Any, stages: Checkpoints, modality: str, prompts: PromptSet, position: int, token_budget: int
) -> Activations:
    """`resid_post` of every layer at the token where the direction was read."""

    values = stages.tensor(
        f"streams-{modality}",
        lambda: collect_activations(model, prompts, positions=(position,), token_budget=token_budget).values,
    )
    return Activations(values, prompts, (position,), tuple(range(values.shape[2])), "resid_post", anatomy(model).name)


def said(
    model: Any, stages: Checkpoints, name: str, prompts: PromptSet, edit: Any, max_new_tokens: int, token_budget: int
) -> list[Answer]:
    """Answers of one arm on one modality, kept as a stage."""
    if not len(prompts):
        return []

    def work() -> list[Any]:
        return answers_to_json(generate(model, prompts, edit, max_new_tokens=max_new_tokens, token_budget=token_budget))

    return answers_from_json(stages.run(name, work))


def arm_rates(name: str, judged: dict[str, Outcomes], seed: int) -> dict[str, Any]:
    """Rates of one arm; for a defended one also its paired change."""
    if name == "none":
        return refusal_rates(judged[name], seed).to_json()
    return rate_changes(judged[name], judged["none"], seed).to_json()


def direction_record(
    direction: Direction, tokens: RefusalTokens, price: dict[str, Any], n_layers: int
) -> dict[str, Any]:
    """The section `direction` of results.json."""
    kept = [row for row in direction.table if row["kept"]]
    cosmic = max(kept, key=lambda row: row["cosmic"]) if kept else None
    return {
        "layer": direction.layer,
        "position": direction.position,
        "site": direction.site,
        "method": direction.method,
        "objective": direction.objective,
        "selection": direction.selection,
        "strength": direction.strength,
        "calibration": price,
        "norm": float(direction.vector.norm()),
        "n_layers": n_layers,
        "d_model": int(direction.vector.shape[0]),
        "refusal_tokens": list(tokens.words),
        "cosmic": {key: cosmic[key] for key in ("layer", "position", "cosmic")} if cosmic else None,
        "rank_agreement": rank_agreement(direction.table, direction.objective),
        "table": [{key: _null(value) for key, value in row.items()} for row in direction.table],
    }


def _null(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and value != value else value


def warnings(sections: dict[str, Any], limit: int | None) -> list[str]:
    """What a reader must know before believing a figure."""
    found = []
    if limit is not None:
        found.append(f"Only {limit} prompts were used (--limit): a look at the pipeline, not a result.")
    for name, record in sections.items():
        arms = record["defences"]
        if record["n_harmful"] < 30:
            found.append(
                f"{name}: only {record['n_harmful']} harmful prompts; differences under about 25 points are noise."
            )
        attacked = arms["none"]["harmful_refusal"]["value"]
        if attacked is not None and attacked >= 0.95:
            found.append(
                f"{name}: {100 * attacked:.0f}% of harmful prompts are refused already; steering has no headroom here."
            )
        reading = record["read_back"]["value"]
        if reading is not None and reading < 0.9:
            found.append(
                f"{name}: only {100 * reading:.0f}% are read back; unread harm cannot be refused. "
                "See the comprehended figures."
            )
        if reading is None:
            found.append(
                f"{name}: no read-back questions, so harm that is not seen cannot be told from harm that is not "
                "refused."
            )
        random = arms["random"].get("gain", {}).get("value")
        if random is not None and random > 0.05:
            found.append(f"{name}: a random direction of the same norm also adds {100 * random:.0f} points of refusal.")
    return found
