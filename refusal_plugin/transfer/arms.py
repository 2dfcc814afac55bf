"""Arms as rows: the same prompts under many directions in one batch, every row with its own vector.

The functions of `traced` treat rows independently, so this gives what one pass per arm would give (tested), at a
fraction of the time: a trace of few rows costs mostly its overhead.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..inference.answers import Answer, end_ids, generate_ids
from ..inference.edits import SITE_ORDER, Edit, SiteEdit
from ..inference.scores import Encoded, Scores, refusal_scores
from ..models import anatomy
from ..prompts import PromptSet
from ..traced.transfer import toward
from ..traced.write import add

EditOf: TypeAlias = Callable[[Sequence[int]], Edit]
"""The edit of a batch, given the arm of each of its rows."""


def repeated(prompts: PromptSet, arms: int) -> PromptSet:
    """Every prompt once per arm: arm 0 of all prompts, then arm 1, ..."""
    return PromptSet(p.replace(id=f"{p.id}#arm{arm}") for arm in range(arms) for p in prompts)


def added(vectors: Float[Tensor, "arm d_model"], layer: int) -> EditOf:
    """Addition of each arm's vector at one layer, all positions, every step."""

    def of(arms: Sequence[int]) -> Edit:
        rows = vectors[list(arms)].unsqueeze(1)
        return Edit("arms added", (SiteEdit(layer, "resid_post", add, {"vector": rows}, "all"),))

    return of


def removed(vectors: Float[Tensor, "arm d_model"], benign: Float[Tensor, "layer d_model"], operator: str) -> EditOf:
    """Each arm's direction taken away in every layer.

    Args:
        vectors: directions of any length.
        benign: mean benign stream of every layer.
        operator: "benign_mean" sets the coordinate of the last prompt token to that of `benign`, in prefill;
            "project_out" sets it to zero at every site, position and step.
    """
    units = vectors / vectors.norm(dim=-1, keepdim=True)

    def of(arms: Sequence[int]) -> Edit:
        unit = units[list(arms)].unsqueeze(1)
        if operator == "project_out":
            zero = torch.zeros(len(arms), 1)
            parts = [
                SiteEdit(layer, site, toward, {"unit": unit, "origin": zero})
                for layer in range(len(benign))
                for site in SITE_ORDER
            ]
            return Edit("arms projected out", tuple(parts))
        parts = [
            SiteEdit(layer, "resid_post", toward, {"unit": unit, "origin": unit[:, 0] @ mean[:, None]}, "last")
            for layer, mean in enumerate(benign.float())
        ]
        return Edit("arms at benign mean", tuple(parts), "prefill")

    return of


def arm_scores(
    model: Any,
    prompts: Encoded,
    n: int,
    refusal_ids: Int[Tensor, " k"],
    edit_of: EditOf,
    reference: Float[Tensor, "prompt vocab"] | None = None,
) -> tuple[Float[Tensor, "arm prompt"], Float[Tensor, "arm prompt"]]:
    """Refusal scores (nats) and KL (nats; zeros without a reference) of every arm.

    Args:
        model: a loaded model.
        prompts: encoded `repeated(prompts, arms)`.
        n: number of prompts.
        refusal_ids: the model's refusal tokens.
        edit_of: see `added` and `removed`.
        reference: untouched logits of the n prompts.
    """
    total = len(prompts.prompts)
    scores, kl = torch.empty(total), torch.zeros(total)
    for rows, batch in prompts.batches:
        part = Encoded(PromptSet(batch.prompts), ((list(range(len(rows))), batch),))
        plain = None if reference is None else reference[[row % n for row in rows]]
        found: Scores = refusal_scores(model, part, refusal_ids, edit_of([row // n for row in rows]), reference=plain)
        scores[rows], kl[rows] = found.score, found.kl
    return scores.reshape(-1, n), kl.reshape(-1, n)


def arm_answers(model: Any, prompts: Encoded, n: int, edit_of: EditOf, max_new_tokens: int) -> list[list[Answer]]:
    """Greedy answers of every arm, each in the order of the n prompts.

    Args:
        prompts, n, edit_of: see `arm_scores`.
        max_new_tokens: longest answer.
    """
    found: list[Answer | None] = [None] * len(prompts.prompts)
    tokenizer, stop = anatomy(model).tokenizer, end_ids(model)
    for rows, batch in prompts.batches:
        edit = edit_of([row // n for row in rows])
        ids = generate_ids(model, batch.inputs, edit, max_new_tokens=max_new_tokens)
        for row, new in zip(rows, ids[:, batch.length :].tolist(), strict=True):
            length = next((k for k, token in enumerate(new) if token in stop), len(new))
            text = tokenizer.decode(new[:length], skip_special_tokens=True).strip()
            found[row] = Answer(prompts.prompts[row].id, text, tuple(new[:length]), length < len(new))
    every = [answer for answer in found if answer is not None]
    return [every[start : start + n] for start in range(0, len(every), n)]
