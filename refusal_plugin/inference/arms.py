"""Arms as rows: the same prompts under many edits in the same batches, each row a (prompt, arm).

    D defences x S strengths x N prompts     one pass for every batch of rows, instead of D x S x N runs

A row's edit acts on that row alone, so scores and answers are those of each edit by itself (tested with gated and
remembering edits). Edits that differ in vectors or numbers only are one edit whose rows have their own. Batches go
through the back-off loop: a batch that does not fit is halved, arms and all.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DirectionError, PromptError
from ..models import anatomy
from ..progress import Progress, track
from ..prompts import Prompt, batches
from ..prompts.encoding import as_prompts
from ..traced.gate import mars
from ..traced.measure import kl_divergence, refusal_score
from ..traced.write import add, blend, on_rows, set_coordinate, transform
from .answers import Answer, decoded, generate_batches
from .edits import Edit, SiteEdit
from .loop import Item, re_encoder, run_batches
from .scores import next_token

PER_ROW: dict[Any, dict[str, int]] = {
    add: {"vector": 1, "strength": 0},
    set_coordinate: {"unit": 1, "value": 0, "keep": 0},
    blend: {"strength": 0},
    transform: {"strength": 0},
    mars: {"strength": 0},
}
"""Edit functions and what they take for each row: vectors (1) as (row, 1, d_model), numbers (0) as (row, 1, 1)."""


@dataclass(frozen=True)
class Strengths:
    """One method at several strengths, each an arm.

    Attributes:
        edit: from strengths (row,), one per row of a batch, to the edit: `defence.edit`.
        values: the strength of every arm.
    """

    edit: Callable[[Float[Tensor, " row"]], Edit | None]
    values: Sequence[float]

    def __len__(self) -> int:
        return len(self.values)


Arms: TypeAlias = Sequence[Edit | None] | Strengths
"""What each arm does: an edit (None leaves the model as it is), or a strength of one method."""


def edit_of_rows(arms: Arms, which: Sequence[int]) -> Edit | None:
    """One edit for a batch whose row i belongs to arm `which[i]`.

    Raises:
        DirectionError: the arms act at different times, or one is bound to rows of a batch already.
    """
    if isinstance(arms, Strengths):
        return arms.edit(torch.tensor([float(arms.values[arm]) for arm in which]))
    used = {arm: arms[arm] for arm in sorted(set(which))}
    chosen = {arm: edit for arm, edit in used.items() if edit is not None and edit.parts}
    when = {edit.when for edit in chosen.values()}
    if len(when) > 1:
        raise DirectionError("run edits side by side", f"they act at {sorted(when)}", "batch those of one time")
    alike: dict[tuple[Any, ...], list[tuple[int, SiteEdit]]] = {}
    for arm, edit in chosen.items():
        if edit.rows is not None:
            raise DirectionError(
                f"run edit '{edit.name}' side by side", f"it is bound to {edit.rows} rows", "give one strength"
            )
        seen: Counter[tuple[int, str]] = Counter()
        for part in edit.parts:
            place = (part.layer, part.site)
            alike.setdefault((seen[place], *place, part.where, _kind(arm, part)), []).append((arm, part))
            seen[place] += 1
    # At one place the first part of every arm runs before the second of any: each arm keeps its own order.
    made: dict[Any, Tensor] = {}
    parts = [_as_one(alike[key], which, made) for key in sorted(alike, key=lambda key: int(key[0]))]
    return Edit("side by side", tuple(parts), when.pop()) if parts else None


def _kind(arm: int, part: SiteEdit) -> Any:
    """Equal for parts of one place that can be one edit of all their rows."""
    if "memory" in part.tensors:
        return arm
    own = PER_ROW.get(part.function, {})
    key: list[Any] = [part.function, *part.tensors]
    for name, value in part.tensors.items():
        if isinstance(value, Tensor):
            each = own.get(name) == value.ndim == 1
            # Tensors that rows cannot have of their own are equal where they are the same memory.
            key.append((value.shape, value.dtype) if each else (value.data_ptr(), value.shape, value.stride()))
        elif own.get(name) != 0:
            key.append(value)
    try:
        hash(tuple(key))
    except TypeError:
        return arm
    return tuple(key)


def _as_one(found: Sequence[tuple[int, SiteEdit]], which: Sequence[int], made: dict[Any, Tensor]) -> SiteEdit:
    """One edit of the rows of some arms from their parts, which are of one kind.

    Vectors that come again at the next layer are one tensor, which is kept, and sent, once: `made`.
    """
    order = {arm: place for place, (arm, _part) in enumerate(found)}
    rows = torch.tensor([row for row, arm in enumerate(which) if arm in order])
    own = torch.tensor([order[arm] for arm in which if arm in order])
    arm, part = found[0]
    inner = dict(part.tensors)
    if "memory" in inner:  # an edit's memory is its own, and holds its own rows only
        inner["memory"] = f"{arm}/{inner['memory']}"
    for name, ndim in PER_ROW.get(part.function, {}).items() if len(found) > 1 else ():
        each = [one.tensors[name] for _arm, one in found if name in one.tensors]
        if each and ndim == 1:
            same = (*order, *((one.data_ptr(), one.shape, one.stride()) for one in each))
            inner[name] = made.setdefault(same, torch.stack(each)[own].unsqueeze(1))
        elif len(set(each)) > 1:
            inner[name] = torch.tensor(each, dtype=torch.float32)[own].reshape(-1, 1, 1)
    if len(rows) == len(which):
        return SiteEdit(part.layer, part.site, part.function, inner, part.where)
    tensors = {"rows": rows, "function": part.function, "tensors": inner}
    return SiteEdit(part.layer, part.site, on_rows, tensors, part.where)


def generate_arms(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    arms: Arms,
    *,
    max_new_tokens: int = 32,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    remote: bool | str = False,
    progress: Progress = None,
) -> list[list[Answer]]:
    """Greedy answers to the same prompts in every arm, as rows of shared batches.

    Args:
        model: a loaded model.
        prompts: of any modality the model takes.
        arms: what each arm does.
        max_new_tokens: longest answer, in tokens.
        system: system text for every prompt.
        token_budget, max_rows: limits of one batch.
        remote: run on NDIF.
        progress: None shows a bar where somebody can see it.

    Returns:
        per arm its answers, in the order of the prompts.

    Raises:
        PromptError: 0 prompts, 0 arms, or 0 tokens asked for.
        DirectionError: an edit does not fit the model, or is bound to rows of a batch already.
        DataError: NaN or infinite logits.
        ModelError: a single row does not fit into memory.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    chosen = as_prompts(prompts)
    if max_new_tokens < 1:
        raise PromptError("generate answers", f"max_new_tokens = {max_new_tokens}", "give at least 1")
    _check(model, chosen, arms)
    answers: list[list[Answer | None]] = [[None] * len(chosen) for _ in range(len(arms))]
    where: dict[str, Any] = {"remote": remote, "new_tokens": max_new_tokens, "asked": "generate answers side by side"}
    again = re_encoder(model, system=system)
    with track(len(chosen) * len(arms), "answers", progress) as advance:
        for group in _of_one_time(arms):
            work = batches(model, chosen * len(group), token_budget=token_budget, max_rows=max_rows, system=system)

            def answer(items: list[Item], group: Sequence[int] = group) -> list[list[list[int]]]:
                edits = [edit_of_rows(arms, [group[row // len(chosen)] for row in rows]) for rows, _batch in items]
                for edit in edits if isinstance(arms, Strengths) else ():
                    if edit is not None:
                        edit.check(anatomy(model))
                some = [(batch, edit) for (_rows, batch), edit in zip(items, edits, strict=True)]
                return generate_batches(model, some, max_new_tokens, again, remote=remote)

            for (rows, batch), said in run_batches(work, answer, again, **where):
                for row, new in zip(rows, said, strict=True):
                    prompt = row % len(chosen)
                    answers[group[row // len(chosen)]][prompt] = decoded(model, chosen[prompt].id, new)
                advance(batch.size)
    return [[answer for answer in arm if answer is not None] for arm in answers]


def encode_arms(
    model: Any,
    prompts: Sequence[Prompt],
    n: int,
    *,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 256,
) -> list[Item]:
    """Every prompt n times over: row `arm * len(prompts) + prompt` of the batches is that prompt in that arm."""
    rows = list(prompts) * n
    return list(batches(model, rows, token_budget=token_budget, max_rows=max_rows, system=system))


@dataclass(frozen=True)
class ArmScores:
    """Of every arm and prompt.

    Attributes:
        score: refusal score in nats, positive towards refusal; NaN without refusal tokens.
        kl: KL(untouched || arm) of the next token in nats; zeros without a reference.
    """

    score: Float[Tensor, "arm prompt"]
    kl: Float[Tensor, "arm prompt"]


def score_arms(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    refusal_ids: Int[Tensor, " k"] | None,
    arms: Arms,
    *,
    reference: Float[Tensor, "prompt vocab"] | None = None,
    system: str | None = None,
    lenient: bool = False,
    work: Sequence[Item] | None = None,
    remote: bool | str = False,
) -> ArmScores:
    """Refusal score, and KL against `reference`, of the same prompts in every arm: one pass per batch of rows.

    Args:
        model: a loaded model.
        prompts: of any modality the model takes.
        refusal_ids: token ids that open a refusal; see `refusal_tokens`.
        arms: what each arm does. The next token is read in one pass, so what acts at every step acts once.
        reference: next-token logits of the untouched run, for the KL.
        system: system text for every prompt.
        lenient: give NaN where logits are NaN or infinite, instead of an error.
        work: `encode_arms` of these prompts and as many arms, which many calls may share.
        remote: run on NDIF.

    Raises:
        PromptError: 0 prompts or 0 arms.
        DirectionError, DataError, ModelError, RemoteError: as `generate_arms`.
    """
    chosen = as_prompts(prompts)
    _check(model, chosen, arms)
    if not isinstance(arms, Strengths):
        arms = [None if edit is None else replace(edit, when="prefill") for edit in arms]
    n = len(chosen)
    score, kl = torch.full((len(arms) * n,), torch.nan), torch.zeros(len(arms) * n)
    work = encode_arms(model, chosen, len(arms), system=system) if work is None else work
    again = re_encoder(model, system=system)
    options: dict[str, Any] = {"lenient": lenient, "remote": remote}

    def edit_of(rows: Sequence[int]) -> Edit | None:
        return edit_of_rows(arms, [row // n for row in rows])

    for rows, logits, _stream in next_token(model, work, edit_of, again, **options):
        if refusal_ids is not None:
            score[rows] = refusal_score(logits, refusal_ids).cpu()
        if reference is not None:
            kl[rows] = kl_divergence(logits, reference[[row % n for row in rows]]).cpu()
    return ArmScores(score.reshape(-1, n), kl.reshape(-1, n))


def _check(model: Any, prompts: Sequence[Prompt], arms: Arms) -> None:
    if not prompts or not len(arms):
        found = f"{len(prompts)} prompts, {len(arms)} arms"
        raise PromptError("run edits side by side", found, "give at least one of each")
    for edit in () if isinstance(arms, Strengths) else arms:
        if edit is not None:
            edit.check(anatomy(model))


def _of_one_time(arms: Arms) -> list[list[int]]:
    """Arms whose edits act at the same time; the untouched model goes with the first of them."""
    if isinstance(arms, Strengths):
        return [list(range(len(arms)))]
    groups: dict[str, list[int]] = {}
    plain = [arm for arm, edit in enumerate(arms) if edit is None or not edit.parts]
    for arm, edit in enumerate(arms):
        if edit is not None and edit.parts:
            groups.setdefault(edit.when, []).append(arm)
    made = list(groups.values()) or [[]]
    made[0] = [*plain, *made[0]]
    return made
