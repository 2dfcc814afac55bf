"""Many edits of the same prompts, for a fraction of as many passes.

    an edit at layer l          begins behind block l: blocks 0 to l are left out (`traced.resume`)
    K edits of one kind         are K copies of the prompts in one batch, each row with tensors of its own
    the next token only         the output head runs at the last position, where the model's forward pass offers that

The figures are those of one full pass per edit, to rounding (tested on every family of architectures).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from .edits import Edit, SiteEdit, site_modules
from .models import anatomy, layers
from .prompts.batch import Batch
from .prompts.light import light_inputs as light_inputs
from .scores import Encoded
from .traced.measure import kl_divergence, refusal_score
from .traced.resume import run_behind, stream_behind
from .traced.write import add

TOKEN_BUDGET = 4096
"""Tokens in one batch, padding and copies included."""

Parts: TypeAlias = Callable[[slice, int], Sequence[SiteEdit]]
"""From a range of candidates and the number of prompts to site edits whose tensors have one row per copy."""


class Stream:
    """The stream of encoded prompts behind one block, all positions; it moves forward block by block.

    Only one layer is held, so memory does not grow with depth; going through all layers costs one pass.

    Attributes:
        layer: the block behind which it stands; -1 before the first.
        hidden: per batch, (batch, pos, d_model) in the model's dtype.
    """

    def __init__(self, model: Any, prompts: Encoded, edit: Edit | None = None) -> None:
        """Args: a loaded model, its prompts, and an edit (prefill) that is applied on the way."""
        self.model, self.prompts = model, prompts
        self.edit = edit or Edit("none", ())
        anatomy(model).require_stream("go on behind a layer")
        self.edit.check(anatomy(model))
        self.layer, self.extras = -1, -1
        self.hidden: list[Tensor] = []

    def to(self, layer: int) -> "Stream":
        """Move on to a later layer."""
        while self.layer < layer:
            self._step()
        return self

    def _step(self) -> None:
        model, number, extras = self.model, self.layer + 1, self.extras
        blocks, plan, sites = layers(model), self.edit.plan(), site_modules(model, self.edit)
        moved = []
        for place, (_rows, batch) in enumerate(self.prompts.batches):
            before = self.hidden[place] if self.hidden else torch.empty(0)
            with torch.no_grad(), model.trace(**light_inputs(model, batch)) as tracer:
                found = stream_behind(blocks, number, before, extras, sites, plan)
                hidden, more = found[0].save(), found[1].save()
                tracer.stop()
            moved.append(hidden)
        self.hidden, self.layer, self.extras = moved, number, more


@dataclass(frozen=True)
class Sweep:
    """What K candidates do to the next token of every prompt.

    Attributes:
        score: (candidate, prompt) refusal score in nats.
        kl: (candidate, prompt) KL against the untouched run in nats; zeros without a reference.
        residual: (candidate, layer, d_model) mean over the prompts of `resid_post` at the last prompt token, for the
            layers that were run; None if it was not asked for.
        first: the first of these layers.
    """

    score: Float[Tensor, "candidate prompt"]
    kl: Float[Tensor, "candidate prompt"]
    residual: Float[Tensor, "candidate layer d_model"] | None
    first: int


def sweep(
    model: Any,
    prompts: Encoded,
    refusal_ids: Tensor,
    n: int,
    *,
    parts: Parts | None = None,
    begin: Stream | None = None,
    added: Float[Tensor, "candidate d_model"] | None = None,
    reference: Float[Tensor, "prompt vocab"] | None = None,
    keep_residual: bool = False,
    token_budget: int = TOKEN_BUDGET,
) -> Sweep:
    """Refusal score and KL of K candidate edits.

    Args:
        model: a loaded model.
        prompts: encoded prompts; those with media run one candidate at a time, since media inputs are not rows.
        refusal_ids: token ids that open a refusal.
        n: number of candidates.
        parts: their site edits, see `Parts`.
        begin: where they begin; None for the beginning of the model. The stream's own edit goes on in later layers.
        added: what each adds to the stream there, at all positions.
        reference: logits of the untouched run, for the KL.
        keep_residual: whether the mean streams are wanted.
        token_budget: most tokens in one batch.

    A candidate whose logits are NaN has NaN figures; the rows of the others are not touched by it.
    """
    facts, blocks = anatomy(model), layers(model)
    start = -1 if begin is None else begin.layer
    extras = -1 if begin is None else begin.extras
    scores, kl = torch.empty(n, len(prompts.prompts)), torch.zeros(n, len(prompts.prompts))
    streams = torch.zeros(n, facts.n_layers - 1 - start, facts.d_model, dtype=torch.float64)
    for place, (rows, batch) in enumerate(prompts.batches):
        at_once = max(1, token_budget // (batch.size * batch.length)) if repeatable(batch) else 1
        for first in range(0, n, at_once):
            chunk = slice(first, min(n, first + at_once))
            copies = chunk.stop - chunk.start
            edit = Edit("sweep", tuple(parts(chunk, batch.size)) if parts else (), "prefill")
            if begin is not None:
                edit = Edit("sweep", (*edit.parts, *begin.edit.parts), "prefill")
            plan, sites = edit.plan(), site_modules(model, edit)
            hidden = torch.empty(0)
            if begin is not None:
                hidden = begin.hidden[place].repeat(copies, 1, 1)
                if added is not None:
                    hidden = add(hidden, per_row(added[chunk], batch.size))
            inputs = light_inputs(model, batch, copies)
            last = batch.roles["last"].int().argmax(1, keepdim=True).repeat(copies, 1)
            keep = keep_residual and start + 1 < facts.n_layers
            with torch.no_grad(), model.trace(**inputs):
                stream = run_behind(blocks, start, hidden, extras, sites, plan, last, keep).save()
                logits = model.output.logits[:, -1].save()
            shape = (copies, batch.size)
            scores[chunk, rows] = refusal_score(logits, refusal_ids).cpu().reshape(shape)
            if reference is not None:
                kl[chunk, rows] = kl_divergence(logits, reference[rows].repeat(copies, 1)).cpu().reshape(shape)
            if keep:
                streams[chunk] += stream.double().cpu().unflatten(0, shape).sum(1)
    mean = (streams / len(prompts.prompts)).float() if keep_residual else None
    return Sweep(scores, kl, mean, start + 1)


def per_row(tensors: Float[Tensor, "candidate d"], size: int) -> Float[Tensor, "row 1 d"]:
    """One vector per candidate as one per row of a batch that holds the prompts once per candidate."""
    return tensors.repeat_interleave(size, 0).unsqueeze(1)


def repeatable(batch: Batch) -> bool:
    """Whether the rows can be copied: every input has one value per token, so there are no media to tell apart."""
    return all(value.shape[:2] == (batch.size, batch.length) for value in batch.inputs.values())
