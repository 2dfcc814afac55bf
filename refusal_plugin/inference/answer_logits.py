"""Logits over answers that are given: prompt and answer in one pass, no generation.

    answer   y_1 ... y_n                    read with the prompt
    logits   of y_1, ..., y_n, y_{n+1}      at the last prompt token and at each token of the answer

With an edit these are the logits that generation under the edit would have, had it said the same so far
(`traced.answer`). Rows that repeat a few prompts read each of them once, where the edit and the model allow it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import hf_module
from ..models.running import running
from ..prompts.batch import Batch
from ..prompts.input_spec import input_spec_of
from ..prompts.light import continued_inputs
from ..traced.answer import through_answer
from .edits import NO_EDIT, Edit, flat
from .loop import Item, ReEncode, run_batches
from .prefix import REST, Stems, on_device, shared_stem, shared_trunk
from .trunk import left_out

ASKED = "read answers"
LOGITS = 2**28
"""Bytes of float32 logits that one pass may give."""


def rows_at_once(model: Any, tokens: int) -> int:
    """Rows of which logits over answers of some length are held at once."""
    words = input_spec_of(model).vocabulary or len(input_spec_of(model).tokenizer)
    return max(1, LOGITS // (4 * words * (tokens + 1)))


def answer_logits(
    model: Any,
    work: Iterable[Item],
    answer_of: Callable[[int], Sequence[int]],
    edit_of: Callable[[list[int]], Edit | None],
    again: ReEncode | None,
    *,
    kept: Stems | None = None,
) -> Iterator[tuple[list[int], Float[Tensor, "row token vocab"]]]:
    """Logits over the answers of some rows, batch by batch, halved where a batch does not fit.

    Args:
        model: a loaded model, on this machine.
        work: row numbers and the batch of their prompts.
        answer_of: the tokens given to a row, perhaps none.
        edit_of: the edit of a batch, from the numbers of its rows.
        again: encodes some prompts of a batch anew; None where an edit is bound to the rows of a batch.
        kept: beginnings of the prompts for the next call, see `shared_stem`; of calls with one system text only.

    Yields:
        row numbers, and their logits; tokens behind the end of a row's own answer mean nothing.

    Raises:
        DirectionError: an edit does not fit the model.
        ModelError: a single row does not fit into memory, or the weights are elsewhere.
    """

    def measure(items: list[Item]) -> list[Tensor]:
        ((rows, batch),) = items
        with running(model, ASKED):
            return [_logits(model, batch, [list(answer_of(row)) for row in rows], edit_of(rows), again, kept)]

    for (rows, _batch), logits in run_batches(work, measure, again, asked=ASKED):
        yield rows, logits


def over_answer(edit: Edit, prompt: int) -> Edit:
    """The edit for one pass over prompt and answer.

    Args:
        edit: as for generation.
        prompt: columns of the prompt.
    """
    parts = []
    for part in edit.parts:
        if part.where == "all" and edit.when == "every_step" and "memory" not in dict(flat(part.tensors)):
            parts.append(part)  # it acts everywhere anyway
            continue
        how = {"prompt": prompt, "where": part.where, "when": edit.when}
        tensors = {**how, "function": part.function, "tensors": part.tensors}
        parts.append(replace(part, function=through_answer, tensors=tensors, where="all"))
    return Edit(edit.name, tuple(parts))


def _logits(
    model: Any,
    batch: Batch,
    answers: list[list[int]],
    edit: Edit | None,
    again: ReEncode | None,
    kept: Stems | None,
) -> Float[Tensor, "row token vocab"]:
    longest = max(len(answer) for answer in answers)
    shared = shared_stem(model, batch, edit, again, answers=False, kept=kept)
    trunk = shared_trunk(model, batch, edit, again, answers) if shared is None else None
    if shared is None:
        prompt, inputs = batch.length, continued_inputs(model, batch, answers)
    else:
        stem, copies = shared
        ends = batch.inputs["input_ids"][:, -REST:].tolist()
        # Padding on the right: what stands behind an answer is seen by nothing that is read.
        tails = [[*end, *answer, *[0] * (longest - len(answer))] for end, answer in zip(ends, answers, strict=True)]
        prompt, inputs = REST, stem.continued(copies, tails)
        if "logits_to_keep" in (input_spec_of(model).accepts or ()):
            inputs["logits_to_keep"] = longest + 1
    within: Any = left_out(model, *trunk) if trunk else nullcontext()
    with torch.no_grad(), within, over_answer(edit or NO_EDIT, prompt).attached(model):
        logits: Tensor = hf_module(model)(**on_device(model, inputs)).logits
    return logits[:, logits.shape[1] - longest - 1 :]
