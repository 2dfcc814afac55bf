"""The refusal tokens of a model: the first tokens of what the judge calls a refusal, never a fixed table."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import DataError
from ..inference.answers import generate
from ..models import anatomy
from ..progress import Progress
from ..prompts import PromptSet
from ..report.shown import Shown
from .judge import REFUSALS, Judge, PhraseJudge
from .openings import find_openings


@dataclass(frozen=True)
class RefusalTokens(Shown):
    """First tokens of the model's own refusals.

    Attributes:
        ids: (k,) token ids.
        words: the same, decoded.
        harmful_refusal: share of the harmful prompts that were refused.
        benign_refusal: share of the benign prompts that were refused.
        refused: ids of the refused prompts.
        openings: the shortest token sequences that tell its refusals from its answers (`evaluation.find_openings`); of
            one token each, the same as `ids`, unless refusals and answers share their first token.
    """

    ids: Int[Tensor, " k"]
    words: tuple[str, ...]
    harmful_refusal: float
    benign_refusal: float
    refused: frozenset[str]
    openings: tuple[tuple[int, ...], ...] = ()

    def finding(self) -> str:
        shares = f"{100 * self.harmful_refusal:.0f} % of harmful, {100 * self.benign_refusal:.0f} % of benign prompts"
        return f"{', '.join(map(repr, self.words))} open its refusals, of {shares}"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row a token."""
        return ({"id": id, "word": word} for id, word in zip(self.ids.tolist(), self.words, strict=True))


def refusal_tokens(
    model: Any,
    prompts: PromptSet,
    *,
    judge: Judge | None = None,
    share: float = 0.05,
    max_new_tokens: int = 24,
    remote: bool | str = False,
    progress: Progress = None,
) -> RefusalTokens:
    """Derive the refusal tokens from what the model says, not from a table.

    A token counts if at least `share` of the refusals of harmful prompts begin with it and it is a more frequent
    beginning among refusals than among answers. Where no token is, the first tokens of the openings count: the score of
    the next token is a weak one then, and `evaluation.opening_scores` the one to use.

    Args:
        model: a loaded model.
        prompts: harmful and benign prompts (training split).
        judge: who says what is a refusal.
        share: smallest share of refusals.
        max_new_tokens: enough for the judge to see a refusal.
        remote: generate the answers on NDIF.

    Raises:
        DataError: the model refuses nothing, or its refusals begin like its answers: it has no refusal tokens.
    """
    used = PromptSet.of(prompts, "find the refusal tokens").filter(role=("harmful", "benign"))
    answers = generate(
        model, used, max_new_tokens=max_new_tokens, remote=remote, progress=progress, label="the model's own answers"
    )
    labels = (judge or PhraseJudge()).label(list(used), answers)
    said: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
    for answer, label in zip(answers, labels, strict=True):
        if answer.ids:
            said[label == "refusal"].append(answer.ids)
    opens = {refuses: Counter(ids[0] for ids in found) for refuses, found in said.items()}
    refusals, others = len(said[True]), max(1, len(said[False]))
    openings = find_openings(said[True], said[False], share=share)
    if not refusals:
        raise DataError(
            f"find the refusal tokens of '{anatomy(model).name}'",
            f"it refused none of {len(used)} prompts",
            "use a model that refuses, or a judge that knows how it refuses",
        )
    ids = [
        token
        for token, count in opens[True].most_common()
        if count / refusals >= share and count / refusals > opens[False][token] / others
    ] or list(dict.fromkeys(opening[0] for opening in openings))
    if not ids:
        raise DataError(
            f"find the refusal tokens of '{anatomy(model).name}'",
            f"its {refusals} refusals begin like its answers",
            "use a model whose refusals begin in words of their own",
        )
    words = tuple(anatomy(model).tokenizer.decode([token]).strip() for token in ids)

    def refused(role: str) -> float:
        hits = [label in REFUSALS for p, label in zip(used, labels, strict=True) if p.role == role]
        return sum(hits) / len(hits) if hits else float("nan")

    names = frozenset(p.id for p, label in zip(used, labels, strict=True) if label in REFUSALS)
    return RefusalTokens(torch.tensor(ids), words, refused("harmful"), refused("benign"), names, openings)
