"""Compare defences on one model: fit on "train", price on "val", answer "test", each step kept as it is done.

    fits     every method with every seed                                      out/defences/*.safetensors
    price    the strength at the same mean KL over harmless validation answers out/stages/results.jsonl
    answers  to the test prompts at that strength, at multiples of it, and without any defence

Text and each medium have a price of their own: a defence knows what it is given.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..datasets import provenance
from ..defences import REGISTRY, Defence
from ..defences.run import DefenceRun
from ..directions.calibration import ITEMS, TARGET_KL, TOKENS
from ..errors import PromptError, StudyError
from ..evaluation import Contract, Judge, PhraseJudge, name_of
from ..inference.threads import few_threads
from ..models import anatomy, load
from ..models.own_prompts import defence_prompts
from ..models.provenance import versions
from ..progress import Progress
from ..prompts import Modality, PromptSet
from ..storage import Checkpoints, write_json
from .fits import Fits, Fitted, limited
from .kept_claims import kept_claims
from .measure import Plan, Settings, measure
from .results import Comparison, assemble

SCHEMA_VERSION = 1
SEEDS = (0, 1, 2, 3, 4)
DEFAULT = (
    "sarsteer",
    "sarsteer_v1",
    "sarsteer_v2",
    "mars",
    "mars_no_recentring",
    "mars_no_gate",
    "addition",
    "addition_all",
    "random",
    "shuffled",
    "mdsteer_h2s",
    "mdsteer_c2r",
    "ace",
    "cast",
    "adasteer",
    "alphasteer",
    "ras",
    "shiftdc",
    "omnisteer",
    "omnisteer_text",
    "prompt",
)
"""The methods of the default comparison; the project's claims are about the first ten without `addition_all`."""
PARETO = ("sarsteer", "mars", "addition", "random")
"""Methods that are also run at multiples of their matched strength, with the first seed."""
STRENGTHS = (0.25, 0.5, 2.0)
"""Those multiples."""
ON_CONTROL = ("sarsteer", "mars", "addition", "random")
"""Methods that are run on a control model."""


def compare_defences(
    model: Any = "organism",
    prompts: PromptSet | None = None,
    defences: Sequence[str | Defence] = DEFAULT,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seeds: Sequence[int] = SEEDS,
    target_kl: float = TARGET_KL,
    price_tokens: int = TOKENS,
    modalities: Sequence[Modality] | None = None,
    pareto: Sequence[str] = PARETO,
    control: Any = None,
    out: str | Path = "compare",
    judge: Judge | None = None,
    guard: Judge | None = None,
    limit: int | None = None,
    calibration_items: int = ITEMS,
    max_new_tokens: int = 128,
    max_rows: int = 128,
    token_budget: int = 8192,
    progress: Progress = None,
) -> Comparison:
    """Compare defences at matched cost and write `compare.json` and `index.html`.

    Args:
        model: a name, a folder, a hub id, or a loaded model.
        prompts: with roles, and splits unless they are to be drawn, training media included; the embedded model's
            own by default.
        defences: names of `REGISTRY`, or fitted defences.
        strengths: multiples of the matched strength at which the methods of `pareto` are run as well.
        seeds: fit seeds; each draws other training pairs. One seed says nothing about the spread between fits.
        target_kl: price at which methods are matched, nats per answer to a harmless validation prompt of the modality.
        price_tokens: of each answer that are priced, at most; 1 prices the first token alone.
        modalities: which; by default all that the model takes and the prompts have.
        pareto: names of the methods that are run at `strengths`.
        control: a model on which nothing should transfer ("organism-control"); compared with the same seed 0.
        out: folder of the results; an earlier, interrupted run there is continued.
        judge: who labels answers; the phrase judge by default. Another judge needs no new answers.
        guard: a second judge; its agreement with the first is reported per modality.
        limit: at most this many validation and test prompts each (a quick look; every interval widens).
        calibration_items: harmless validation prompts per modality behind each price.
        max_new_tokens: longest answer.
        max_rows, token_budget: limits of one batch.
        progress: None shows bars where somebody can see them.

    Returns:
        the content of compare.json.

    Raises:
        PromptError, DirectionError, DataError, StudyError: one line that says what to do.
    """
    names = [one if isinstance(one, str) else one.name for one in defences]
    check(defences, seeds, strengths, target_kl)
    model = load(model) if isinstance(model, (str, Path)) else model
    judge = PhraseJudge.for_model(model) if judge is None else judge
    prompts = defence_prompts(model) if prompts is None else PromptSet(prompts).assigned()
    if limit is not None:
        prompts = limited(prompts, limit)
    checkpoints = Checkpoints(Path(out) / "stages")
    started = datetime.now(UTC)
    settings: Settings = {
        "target_kl": target_kl,
        "price_tokens": price_tokens,
        "calibration_items": calibration_items,
        "max_new_tokens": max_new_tokens,
        "max_rows": max_rows,
        "token_budget": token_budget,
    }
    with few_threads(model):
        arena = DefenceRun(model, prompts, checkpoints, **settings)
        chosen = _modalities(arena, modalities)
        fits = Fits(model, prompts, Path(out) / "defences", checkpoints, arena.base)
        fitted = fits.all(defences, list(seeds), progress)
        if not fitted:
            why = next(iter(fits.refused.values()))
            raise StudyError("compare defences", f"none could be fitted ({why})", "see above")
        plan = Plan(chosen, tuple(strengths), frozenset(pareto))
        measured = measure(arena, fitted, plan, judge, progress, guard)
    rows = None
    if control is not None:
        found = compare_defences(
            control,
            None,
            [d for d in ON_CONTROL if d in names] or names,
            seeds=tuple(seeds)[:1],
            strengths=(),
            target_kl=target_kl,
            price_tokens=price_tokens,
            modalities=modalities,
            out=Path(out) / "control",
            judge=judge,
            limit=limit,
            calibration_items=calibration_items,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        rows = found
    facts = anatomy(model)
    results: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "model": facts.name,
        "judge": name_of(judge),
        "guard": guard and name_of(guard),
        "agreement": {m: found.to_json() for m, found in measured.agreement.items()},
        "weight_hash": arena.base["weights"],
        "template_hash": facts.template_hash,
        "created": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "versions": versions(),
        "contract": Contract.of(
            prompts.filter(split="test"), name_of(judge), max_new_tokens=max_new_tokens, system=""
        ).to_json(),
        "prompts": {"hash": prompts.hash, "limit": limit, "data": provenance(prompts)},
        "seeds": list(seeds),
        "target_kl": target_kl,
        "price_tokens": price_tokens,
        "calibration_items": calibration_items,
        "max_new_tokens": max_new_tokens,
        "methods": {f.name: _method(f) for f in reversed(fitted)},
        **assemble(measured, target_kl, fits.refused, rows, kept_claims(f.defence for f in fitted)),
    }
    write_json(Path(out) / "compare.json", results)
    from ..report.comparison import write_comparison

    write_comparison(results, Path(out) / "index.html")
    return Comparison(results)


def check(
    defences: Sequence[str | Defence], seeds: Sequence[int], strengths: Sequence[float], target_kl: float
) -> None:
    """Everything that can be wrong before a model is loaded.

    Raises:
        StudyError: one line that says what.
    """
    names = [one if isinstance(one, str) else one.name for one in defences]
    unknown = [one for one in defences if isinstance(one, str) and one not in REGISTRY]
    if unknown:
        raise StudyError(
            f"compare defence {unknown[0]!r}", "no such method", f"use some of {', '.join(sorted(REGISTRY))}"
        )
    if not names or len(set(names)) != len(names):
        raise StudyError("compare defences", f"{list(names)}", "name each once, and at least one")
    if not seeds or len(set(seeds)) != len(seeds):
        raise StudyError("compare defences", f"seeds {list(seeds)}", "give each once, and at least one")
    if any(not k > 0 for k in strengths) or not target_kl > 0:
        raise StudyError(
            "compare defences", f"strengths {list(strengths)}, target_kl {target_kl}", "use positive numbers"
        )


def _modalities(arena: DefenceRun, asked: Sequence[Modality] | None) -> tuple[Modality, ...]:
    have = arena.modalities
    missing = [m for m in asked or () if m not in have]
    if missing or not have:
        raise PromptError(
            f"compare defences on {missing[0] if missing else 'any modality'}",
            f"there are harmful test and harmless validation prompts for {', '.join(have) or 'none'}",
            "pass prompts with these, or raise --limit",
        )
    return tuple(m for m in have if asked is None or m in asked)


def _method(fitted: Fitted) -> dict[str, Any]:
    entry = REGISTRY.get(fitted.name)
    return {
        "summary": entry.summary if entry else "",
        "sees": entry.sees if entry else "",
        "control": bool(entry and entry.control),
        "switches": dict(fitted.defence.switches),
        "default_strength": fitted.defence.strength,
    }
