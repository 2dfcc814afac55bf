"""Several sets of prompts, each under edits of its own, as one piece of work: one request where it is remote.

    set 1: prompts x arms   set 2: prompts x arms   ...       rows are numbered through, each knows its set and its arm

Prompts are encoded once; a batch holds a few of them, repeated as often as it has room for arms. Scores and prices are
reduced beside the weights, so that two numbers per row come back and no logits; there the prompts are repeated, too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import DataError, PromptError
from ..models import anatomy, hf_module, layers
from ..models.running import running
from ..models.wrapper import save
from ..prompts import PromptSet, batches
from ..prompts.batch import Batch
from ..prompts.light import next_token_inputs
from ..traced.arms import score_rows
from ..traced.measure import kl_divergence, refusal_score
from .answers import Answer, decoded, generate_batches
from .arms import ArmScores, edit_of_rows
from .edits import NO_EDIT, Edit, site_modules
from .loop import Item, re_encoder, run_batches
from .prefix import on_device, shared_logits
from .trunk import untouched_blocks

TOGETHER = 8
"""Prompts in one batch where there are arms to fill it: little is padded."""


@dataclass(frozen=True)
class ArmSet:
    """Prompts, and what is done with each of them.

    Attributes:
        prompts: may be empty.
        edits: one per arm; an edit without parts is the model as it is.
    """

    prompts: PromptSet
    edits: Sequence[Edit]

    @property
    def rows(self) -> int:
        """Prompts times arms."""
        return len(self.prompts) * len(self.edits)


def score_arm_sets(
    model: Any,
    sets: Sequence[ArmSet],
    refusal_ids: Int[Tensor, " k"],
    *,
    price: bool = False,
    remote: bool | str = False,
) -> list[ArmScores]:
    """Refusal scores of every prompt in every arm of its set, with the price of the edit if asked for.

    Args:
        model: a loaded model.
        sets: see `ArmSet`. The next token is read in one pass, so what acts at every step acts once.
        refusal_ids: token ids that open a refusal; see `refusal_tokens`.
        price: also KL(untouched || edited) of the next token; each batch then runs its prompts untouched, too.
        remote: run on NDIF: one request, or several where one would be too large.

    Returns:
        per set, scores and prices in nats, (arm, prompt) each.

    Raises:
        DirectionError: an edit does not fit the model, or is bound to rows of a batch already.
        DataError: NaN or infinite logits.
        ModelError: a single row does not fit into memory.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    blocks = layers(model)
    sets = [ArmSet(one.prompts, [replace(edit, when="prefill") for edit in one.edits]) for one in sets]

    def measure(items: list[Item]) -> list[Tensor]:
        work = []
        for rows, batch in items:
            edit = _edit_of(sets, rows)
            work.append((next_token_inputs(model, batch), copies_of(batch), site_modules(model, edit), edit.plan()))
        with torch.no_grad(), model.session(remote=remote):
            found = save(score_rows(model, blocks, work, refusal_ids, price))
        return list(found)

    def local(items: list[Item]) -> list[Tensor]:
        """As `measure`, with what the rows of a batch have in common read once, where that is possible."""
        ((rows, batch),) = items
        prompts = replace(batch, prompts=batch.prompts[: batch.size // copies_of(batch)])
        with running(model, asked):
            logits = shared_logits(model, repeated(prompts, copies_of(batch)), _edit_of(sets, rows), again)
            if logits is None:
                return measure(items)
            score = refusal_score(logits, refusal_ids)
            cost = torch.zeros_like(score)
            if price:
                inputs = on_device(model, next_token_inputs(model, prompts))
                with torch.no_grad():
                    plain = hf_module(model)(**inputs).logits[:, -1]
                cost = kl_divergence(logits, plain.repeat(copies_of(batch), 1))
        return [torch.stack([score, cost]).cpu()]

    values = torch.zeros(2, sum(one.rows for one in sets))
    asked, again = f"score prompts on {anatomy(model).name}", re_encoder(model)
    options: dict[str, Any] = {"asked": asked, "remote": remote, "passes": lambda item: copies_of(item[1]) + price}
    some = _work(model, sets, like=None if remote else lambda edit: untouched_blocks(model, edit))
    work = ((rows, replace(batch, prompts=batch.prompts * copies)) for rows, batch, copies in some)
    for (rows, batch), found in run_batches(work, measure if remote else local, again, **options):
        finite = found.isfinite().all(0)
        if not bool(finite.all()):
            name = batch.prompts[int((~finite).int().argmax())].id
            what = f"NaN or infinite logits at prompt '{name}'"
            raise DataError(asked, what, "check the edit's strength and the dtype")
        values[:, rows] = found
    parts = torch.split(values, [one.rows for one in sets], dim=1)
    shaped = [part.reshape(2, len(one.edits), len(one.prompts)) for part, one in zip(parts, sets, strict=True)]
    return [ArmScores(part[0], part[1]) for part in shaped]


def generate_arm_sets(
    model: Any, sets: Sequence[ArmSet], *, max_new_tokens: int, remote: bool | str = False
) -> list[list[list[Answer]]]:
    """Greedy answers of every prompt in every arm of its set.

    Args:
        model: a loaded model.
        sets: the edits of one set act at the same time.
        max_new_tokens: longest answer, in tokens.
        remote: run on NDIF: one request, or several where one would be too large.

    Returns:
        per set and arm, answers in the order of the prompts.

    Raises:
        PromptError: 0 tokens asked for, or more than the model's context holds.
        Others as in `score_arm_sets`.
    """
    if max_new_tokens < 1:
        raise PromptError("generate answers", f"max_new_tokens = {max_new_tokens}", "give at least 1")
    found: list[Answer | None] = [None] * sum(one.rows for one in sets)
    options: dict[str, Any] = {"asked": "generate answers", "remote": remote, "new_tokens": max_new_tokens}

    def answer(items: list[Item]) -> list[list[list[int]]]:
        some = [(batch, _edit_of(sets, rows)) for rows, batch in items]
        return generate_batches(model, some, max_new_tokens, remote=remote)

    work = ((rows, repeated(batch, copies)) for rows, batch, copies in _work(model, sets))
    for (rows, batch), said in run_batches(work, answer, re_encoder(model), **options):
        for row, prompt, new in zip(rows, batch.prompts, said, strict=True):
            found[row] = decoded(model, prompt.id, new)
    every = iter([one for one in found if one is not None])
    return [[[next(every) for _ in one.prompts] for _ in one.edits] for one in sets]


def _work(
    model: Any,
    sets: Sequence[ArmSet],
    *,
    like: Callable[[Edit], Any] | None = None,
    token_budget: int = 8192,
    max_rows: int = 256,
) -> Iterator[tuple[list[int], Batch, int]]:
    """Rows (first of the set + arm * prompts + prompt), a batch of prompts, and how often these stand in the rows.

    Where `like` is given, the neighbouring arms of a batch agree in it.
    """
    for one in sets:
        for edit in one.edits:
            edit.check(anatomy(model))
    for first, one in zip(_firsts(sets), sets, strict=True):
        n = len(one.prompts)
        for rows, batch in batches(model, one.prompts, max_rows=TOGETHER) if n else ():
            copies = max(1, min(max_rows // batch.size, token_budget // (batch.size * batch.length)))
            runs = [len(list(run)) for _, run in groupby(one.edits, like or (lambda _edit: None))]
            cuts = [0, *accumulate(runs)]
            for arms in (range(a, min(a + copies, b)) for start, b in pairwise(cuts) for a in range(start, b, copies)):
                yield [first + arm * n + row for arm in arms for row in rows], batch, len(arms)


def _firsts(sets: Sequence[ArmSet]) -> list[int]:
    """The first row of every set."""
    return list(accumulate([one.rows for one in sets], initial=0))[:-1]


def _edit_of(sets: Sequence[ArmSet], rows: Sequence[int]) -> Edit:
    """The edit of a batch, all of whose rows belong to one set."""
    place = max(k for k, first in enumerate(_firsts(sets)) if first <= rows[0] and sets[k].rows)
    first, one = _firsts(sets)[place], sets[place]
    return edit_of_rows(list(one.edits), [(row - first) // len(one.prompts) for row in rows]) or NO_EDIT


def copies_of(batch: Batch) -> int:
    """How often the inputs of a batch stand in its rows: they are sent once, and repeated beside the weights."""
    return batch.size // len(batch.inputs["input_ids"])


def repeated(batch: Batch, copies: int) -> Batch:
    """A batch whose rows stand several times; media are joined in the order of the rows, so they repeat likewise."""
    if copies == 1:
        return batch

    def again(value: Tensor) -> Tensor:
        return value.repeat(copies, *[1] * (value.ndim - 1))

    inputs = {name: again(value) for name, value in batch.inputs.items()}
    roles = {name: again(mask) for name, mask in batch.roles.items()}
    return Batch(inputs, roles, batch.prompts * copies, batch.unknown * copies, again(batch.turns))
