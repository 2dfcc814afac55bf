"""How far the untouched model is from saying what a steered one said; read in one pass, nothing is generated.

    s(x, y)     = - 1/T sum_t log p(y_t | x, y_<t)       nats per token of answer y to prompt x, its end included
    perplexity  = exp(mean of s over answers)

1 is what the model would have said for certain. A fluent refusal is cheap and so is a loop: perplexity says that an
answer is language as this model speaks it, not that it is the right one.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..prompts import Prompt, batches
from .answer_logits import answer_logits, rows_at_once
from .answers import Answer, end_ids
from .loop import re_encoder


def surprise(
    model: Any, prompts: Sequence[Prompt], answers: Sequence[Answer], *, token_budget: int = 8192, max_rows: int = 128
) -> list[float]:
    """Nats per token of every answer under the model as it is.

    A prompt that comes several times, with other answers, is read once where the model allows it.

    Args:
        model: a loaded model, on this machine.
        prompts: one per answer.
        answers: of any model or edit; one that says nothing is its end alone.
        token_budget, max_rows: limits of one batch.

    Raises:
        ModelError: a single row does not fit into memory, or the weights are elsewhere.
    """
    found, stop = [0.0] * len(answers), sorted(end_ids(model))
    longest = max((len(answer.ids) for answer in answers), default=0)
    limits: dict[str, Any] = {"token_budget": token_budget, "max_rows": min(max_rows, rows_at_once(model, longest))}
    work = batches(model, list(prompts), **limits) if answers else ()
    for rows, logits in answer_logits(model, work, lambda row: answers[row].ids, lambda _: None, re_encoder(model)):
        for row, one in zip(rows, logits.float().log_softmax(-1).cpu(), strict=True):
            ids = torch.tensor(answers[row].ids, dtype=torch.long)
            said = one[: len(ids)].gather(1, ids.unsqueeze(1)).sum()
            end = one[len(ids), stop].logsumexp(-1) if answers[row].finished else torch.zeros(())
            found[row] = -float(said + end) / max(1, len(ids) + answers[row].finished)
    return found
