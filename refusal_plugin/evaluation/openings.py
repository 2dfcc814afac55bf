"""Where refusals and answers share their first token ("I", "As"), the opening *sequence* tells them apart.

    P(R | prompt) = sum over openings o of  prod_t P(o_t | prompt, o_<t)
    score         = log P(R | prompt) - log (1 - P(R | prompt))        in nats, positive towards refusal

The openings are token sequences of which none begins with another, so they exclude each other and their probabilities
add up. What is not an opening leaves them at some token: `1 - P(R)` is the sum, over every beginning p of an opening,
of `P(p | prompt)` times the probability of the tokens that continue p to no opening. Summed so, nothing cancels where
P(R) is close to 1. With openings of one token this is `logsumexp(logits[refusal]) - logsumexp(logits[all others])`, the
score of `traced.measure.refusal_score`, bit for bit.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, DirectionError
from ..inference.arm_sets import repeated
from ..inference.edits import Edit, site_modules
from ..inference.loop import re_encoder, run_batches
from ..inference.scores import refusal_scores
from ..models import anatomy
from ..models.wrapper import save
from ..prompts.batch import Batch
from ..prompts.light import continued_inputs
from ..traced.measure import opening_score
from ..traced.write import edit_blocks

Opening: TypeAlias = tuple[int, ...]
LONGEST = 4
"""Most tokens of an opening."""
CONTRAST = 10.0
"""An opening is long enough where refusals begin with it so many times as often as answers do."""


def find_openings(
    refusals: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    share: float = 0.05,
    longest: int = LONGEST,
    contrast: float = CONTRAST,
) -> tuple[Opening, ...]:
    """The shortest token sequences that tell refusals from answers by how they begin.

    A sequence counts if at least `share` of the refusals begin with it. It grows, token by token, while answers begin
    with it too; where `longest` tokens do not suffice, it counts if refusals begin with it more often than answers do.

    Args:
        refusals: token ids of the model's refusals.
        answers: token ids of its other answers.
        share: smallest share of refusals.
        longest: most tokens.
        contrast: see `CONTRAST`.

    Returns:
        the openings, none a beginning of another, most frequent first; empty if there are none.
    """

    def grown(prefix: Opening) -> list[Opening]:
        begins = [ids for ids in refusals if tuple(ids[: len(prefix)]) == prefix]
        ours = len(begins) / len(refusals)
        theirs = sum(tuple(ids[: len(prefix)]) == prefix for ids in answers) / max(1, len(answers))
        if prefix and ours < share:
            return []
        if (not prefix or theirs * contrast > ours) and len(prefix) < longest:
            following = Counter(ids[len(prefix)] for ids in begins if len(ids) > len(prefix))
            found = [opening for token, _ in following.most_common() for opening in grown((*prefix, token))]
            if found or not prefix:
                return found
        return [prefix] if ours > theirs else []

    return tuple(grown(())) if refusals else ()


def opening_scores(
    model: Any,
    prompts: Any,
    openings: Sequence[Opening],
    edit: Edit | None = None,
    *,
    remote: bool | str = False,
) -> Float[Tensor, " prompt"]:
    """Log odds that the model opens a refusal, of every prompt; see the module for the equation.

    One pass per batch: the prompt is followed by the openings, each in a copy of the row, and read at every token. With
    openings of one token it is the pass of `scores.score`.

    Args:
        model: a loaded model.
        prompts: `inference.scores.Encoded` prompts.
        openings: token sequences, none a beginning of another; see `find_openings`.
        edit: what to change; None for the model as it is.
        remote: run on NDIF.

    Raises:
        DataError: no openings, one that begins with another, or NaN or infinite logits.
        DirectionError: the edit does not fit the model, or it is one that tells the newest token or the prompt from the
            rest: it would edit what follows the prompt otherwise than when the model answers.
    """

    nodes, paths = tree(openings)
    if len(nodes) == 1:
        return refusal_scores(model, prompts, torch.tensor([o[0] for o in openings]), edit, remote=remote).score
    return _measured(model, prompts, nodes, paths, edit, remote)


Node: TypeAlias = tuple[int, int, list[int], list[int], int, int]
"""Parent (-1 for the root), token that leads here, tokens that complete an opening, tokens that lead on, and where its
logits are: the path and the number of tokens behind the prompt."""


def tree(openings: Sequence[Opening]) -> tuple[list[Node], list[Opening]]:
    """The beginnings of openings, parents first, and the longest of them: the paths that a model must be led along.

    Raises:
        DataError: no openings, an empty one, or one that begins with another.
    """
    asked = "openings of refusals"
    if not openings or not all(openings):
        raise DataError(asked, f"{len(openings)} openings, shortest of 0 tokens", "give sequences of one token or more")
    for one in openings:
        if sum(other[: len(one)] == one for other in openings) > 1:
            raise DataError(
                asked, f"{one} begins another one, or occurs twice", "give openings that exclude each other"
            )
    begins = sorted({one[:k] for one in openings for k in range(len(one))}, key=lambda p: (len(p), p))
    paths = [p for p in begins if not any(q[: len(p)] == p and q != p for q in begins)]
    nodes: list[Node] = []
    for prefix in begins:
        leaves = [one[-1] for one in openings if one[:-1] == prefix]
        inner = [p[-1] for p in begins if p and p[:-1] == prefix]
        path = next(k for k, p in enumerate(paths) if p[: len(prefix)] == prefix)
        parent, token = (begins.index(prefix[:-1]), prefix[-1]) if prefix else (-1, -1)
        nodes.append((parent, token, leaves, inner, path, len(prefix)))
    return nodes, paths


def _measured(
    model: Any, prompts: Any, nodes: list[Node], paths: list[Opening], edit: Edit | None, remote: bool | str
) -> Float[Tensor, " prompt"]:

    facts = anatomy(model)
    asked = f"score openings on {facts.name}"
    if edit is not None:
        edit.check(facts)
        aware = any(part.where != "all" or "memory" in part.tensors for part in edit.parts)
        if aware or edit.when != "every_step" or edit.rows is not None:
            found = f"edit '{edit.name}' acts on some positions, steps or rows only"
            raise DirectionError(asked, found, "score the first token, or use an edit of all positions at every step")
    sites = [] if edit is None else site_modules(model, edit)

    def measure(group: list[tuple[list[int], Batch]]) -> list[Tensor]:
        work = [(_led(model, batch, paths), [] if edit is None else edit.plan()) for _rows, batch in group]
        with torch.no_grad(), model.session(remote=remote):
            found: list[Tensor] = save([])
            for inputs, edits in work:
                with model.trace(**inputs):
                    edit_blocks(sites, edits)
                    found.append(opening_score(model.output.logits, nodes))
        return found

    scores = torch.empty(len(prompts.prompts))
    row_bytes = 4 * len(facts.tokenizer) * len(nodes)
    batches = run_batches(prompts.batches, measure, re_encoder(model), asked=asked, remote=remote, row_bytes=row_bytes)
    for (rows, _batch), values in batches:
        scores[rows] = values.cpu()
    if not bool(torch.isfinite(scores).all()):
        raise DataError(asked, "NaN or infinite logits", "check the edit's strength and the dtype")
    return scores


def _led(model: Any, batch: Batch, paths: Sequence[Opening]) -> dict[str, Any]:
    """Inputs of a batch, one copy per path, each followed by its path.

    A shorter path is filled up behind its end, which the logits before it do not see.
    """
    longest = max(map(len, paths))
    led = [[*path, *[path[-1]] * (longest - len(path))] for path in paths for _row in range(batch.size)]
    return continued_inputs(model, repeated(batch, len(paths)), led)
