"""Answers that are mostly known before: read under the edit in one pass, generated only where they part.

    draft   y_1 ... y_n        what the untouched model said
    read    the edited model's most likely token after the prompt and after each y_t
    kept    up to and with the first one that differs; if none does, the edited answer IS the draft

Where they part, the rest may be an answer that the model gives elsewhere (its refusal), which is read in turn. Greedy
answers are a function of what stands before, so nothing is approximated. A row in which two tokens were all but equally
likely is left to `generate`: the two ways round differently.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..prompts import Prompt
from ..prompts.batch import Batch
from .answer_logits import answer_logits
from .answers import end_ids, generate_batches
from .edits import Edit
from .loop import ReEncode

ROUNDS = 2
"""Drafts that are read for a row before it is generated."""
SURE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Least lead of the most likely token, in nats, by the number format; 0.25 in half precision."""


def answers_from_drafts(
    model: Any,
    batch: Batch,
    drafts: Sequence[Sequence[int]],
    edit_of: Callable[[Sequence[int]], Edit | None],
    max_new_tokens: int,
    again: ReEncode,
) -> list[list[int]]:
    """Greedy answers to the rows of a batch under an edit, as `generate_batches` gives them.

    Args:
        model: a loaded model, on this machine.
        batch: the prompts.
        drafts: of each row, what it may say, without an end token.
        edit_of: the edit of some rows of the batch.
        max_new_tokens: longest answer.
        again: encodes some prompts of the batch anew.

    Raises:
        PromptError, DataError: as `generate_batches`.
    """
    stop = end_ids(model)
    known = Counter(tuple(draft) for draft in drafts)
    found: dict[int, list[int]] = {}
    waiting = {row: list(draft[:max_new_tokens]) for row, draft in enumerate(drafts)}
    unsure: list[int] = []
    for _round in range(ROUNDS):
        rows, some = list(waiting), _part(batch, list(waiting), again)
        reading = answer_logits(
            model,
            [(rows, some)],
            lambda row: waiting[row],  # noqa: B023  # read before the loop goes on
            edit_of,
            again,
        )
        following: dict[int, list[int]] = {}
        for part, logits in reading:
            for row, one in zip(part, logits, strict=True):
                said = agreed(one, waiting[row])
                if said is None:
                    unsure.append(row)
                elif said[-1] in stop or len(said) >= max_new_tokens:
                    found[row] = said[:max_new_tokens]
                elif (draft := _next_draft(said, known)) is not None:
                    following[row] = list(draft[:max_new_tokens])
                else:
                    unsure.append(row)
        waiting = following
        if not waiting:
            break
    left = sorted([*unsure, *waiting])
    if left:
        work = [(_part(batch, left, again), edit_of(left))]
        found |= dict(zip(left, generate_batches(model, work, max_new_tokens, again)[0], strict=True))
    return [found[row] for row in range(batch.size)]


def agreed(logits: Float[Tensor, "token vocab"], draft: Sequence[int]) -> list[int] | None:
    """The draft as far as the model would have said it, and the token that it says there; None where it is not sure.

    Args:
        logits: at the last prompt token and at each token of the draft; what comes behind is left out.
        draft: token ids.
    """
    best = logits[: len(draft) + 1].float().topk(2, dim=-1)
    said: list[int] = best.indices[:, 0].tolist()
    length = next((k for k, token in enumerate(draft) if said[k] != token), len(draft))
    lead = best.values[: length + 1, 0] - best.values[: length + 1, 1]
    return said[: length + 1] if bool((lead > SURE.get(logits.dtype, 0.25)).all()) else None


def _next_draft(said: list[int], known: Counter[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The most frequent known answer that goes on from what was said."""
    fits = (draft for draft, _ in known.most_common() if list(draft[: len(said)]) == said)
    return next(fits, None)


def _part(batch: Batch, rows: Collection[int], again: ReEncode) -> Batch:
    """Some rows of a batch, which is itself where these are all of them."""
    if len(rows) == batch.size:
        return batch
    prompts: list[Prompt] = [batch.prompts[row] for row in rows]
    return again(prompts)
