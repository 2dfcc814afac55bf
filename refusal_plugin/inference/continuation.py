"""Many edits of the same prompts, for a fraction of as many passes.

    an edit at layer l          begins behind block l: blocks 0 to l are left out (`traced.resume`)
    K edits of one kind         are K copies of the prompts in one batch, each row with tensors of its own
    the next token only         the output head runs at the last position, where the model's forward pass offers that
    prompts that begin alike    share what they begin with, where the edit is the same at every position (`grown`)

The figures are those of one full pass per edit, to rounding (tested on every family of architectures).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..models import anatomy, hf_module, layers
from ..prompts import PromptSet
from ..prompts.batch import Batch
from ..prompts.input_spec import input_spec_of
from ..prompts.light import next_token_inputs as light_inputs
from ..prompts.packing import WIDEST
from ..prompts.tree import Trees, trees
from ..traced.measure import kl_divergence, refusal_score
from ..traced.passes import forward_from_layer, holds_on_trees
from ..traced.resume import copied as copied
from ..traced.resume import per_row as per_row
from ..traced.resume import stream_behind
from ..traced.write import add
from .edits import Edit, SiteEdit, site_modules
from .scores import Encoded
from .trials import longest_row

TOKEN_BUDGET = 4096
"""Tokens in one batch, padding and copies included."""
TREES = 1024
"""Most nodes in one batch of trees; copies fill it up to the budget."""
PAYS = 0.85
"""Trees are used where they leave less than this share of the tokens, padding included."""

Parts: TypeAlias = Callable[[slice, int], Sequence[SiteEdit]]
"""From a range of candidates and the number of prompts to site edits whose tensors have one row per copy."""


@dataclass(frozen=True)
class Grown:
    """Encoded prompts as prefix trees (see `prompts.tree`), for edits that are the same at every position.

    Attributes:
        prompts: in order.
        batches: (row numbers, trees) pairs.
    """

    prompts: PromptSet
    batches: tuple[tuple[list[int], Trees], ...]

    def trial(self) -> tuple[list[int], Trees]:
        """Row numbers and the tree with the longest prompt: a window that cuts off any prompt cuts off that one."""
        rows, batch = max(self.batches, key=lambda one: int(one[1].inputs["position_ids"].max()))
        here, tree = batch.deepest()
        return [rows[k] for k in here], tree


def planted(
    model: Any, prompts: Encoded, rows: Sequence[int] | None = None, *, dtype: torch.dtype | None = None
) -> Grown | None:
    """Prompts as prefix trees; None where that saves little, or where the model takes no masks and positions.

    Args:
        model: a loaded model.
        prompts: encoded prompts.
        rows: some of them, which are numbered anew; None for all.
        dtype: of the model, for its masks; None leaves them bool, for `traced.passes.additive` beside the weights.
    """
    chosen = list(range(len(prompts.prompts))) if rows is None else list(rows)
    accepts = input_spec_of(model).accepts or frozenset()
    if not chosen or not {"attention_mask", "position_ids"} <= accepts:
        return None
    facts = anatomy(model)
    most = facts.context_length or WIDEST if facts.remote else longest_row(model)
    shape = {"width": facts.d_model, "head": facts.d_head, "most": most}
    made = trees(prompts.batches, **shape, budget=TREES, dtype=dtype, keep=chosen)
    if made is None:
        return None
    plain = sum(batch.size * batch.length for _, batch in prompts.batches) * len(chosen) / len(prompts.prompts)
    if sum(batch.n_tokens for _, batch in made) > PAYS * plain:
        return None
    return Grown(prompts.prompts[chosen], tuple(made))


def grown(
    model: Any, prompts: Encoded, logits: Float[Tensor, "prompt vocab"], rows: Sequence[int] | None = None
) -> Grown | None:
    """Prompts as prefix trees, if it pays and if the one with the longest prompt gives the model's own logits.

    Args:
        model, prompts, rows: see `planted`.
        logits: next-token logits of the chosen prompts in plain rows.
    """
    found = planted(model, prompts, rows, dtype=next(hf_module(model).parameters()).dtype)
    if found is None:
        return None
    places, tree = found.trial()
    with torch.no_grad():
        same = holds_on_trees(model, layers(model), light_inputs(model, tree), tree.ends, logits[places])
    return found if same else None


class Stream:
    """The stream of encoded prompts behind one block, all positions; it moves forward block by block.

    Only one layer is held, so memory does not grow with depth; going through all layers costs one pass.

    Attributes:
        layer: the block behind which it stands; -1 before the first.
        hidden: per batch, (batch, pos, d_model) in the model's dtype.
    """

    def __init__(self, model: Any, prompts: Encoded | Grown, edit: Edit | None = None) -> None:
        """Args: a loaded model, its prompts, and an edit (prefill) that is applied on the way; at all positions alike
        where the prompts are grown into trees."""
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
        work: Sequence[tuple[list[int], Batch | Trees]] = self.prompts.batches
        for place, (_rows, batch) in enumerate(work):
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
    prompts: Encoded | Grown,
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
        prompts: encoded prompts; those with media run one candidate at a time, since media inputs are not rows. In
            trees edits must be the same at every position.
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
    work: Sequence[tuple[list[int], Batch | Trees]] = prompts.batches
    for place, (rows, batch) in enumerate(work):
        n_rows, length = batch.inputs["input_ids"].shape
        at_once = max(1, token_budget // (n_rows * length)) if repeatable(batch) else 1
        for first in range(0, n, at_once):
            chunk = slice(first, min(n, first + at_once))
            copies = chunk.stop - chunk.start
            edit = Edit("sweep", tuple(parts(chunk, n_rows)) if parts else (), "prefill")
            if begin is not None:
                edit = Edit("sweep", (*edit.parts, *begin.edit.parts), "prefill")
            plan, sites = edit.plan(), site_modules(model, edit)
            hidden = torch.empty(0)
            if begin is not None:
                hidden = begin.hidden[place].repeat(copies, 1, 1)
                if added is not None:
                    hidden = add(hidden, per_row(added[chunk], n_rows))
            inputs, ends = light_inputs(model, batch, copies), copied(batch.ends, copies, n_rows)
            keep = keep_residual and start + 1 < facts.n_layers
            with torch.no_grad():
                logits, stream = forward_from_layer(
                    model, blocks, inputs, ends, (start, hidden, extras), sites, plan, keep
                )
            shape = (copies, batch.size)
            scores[chunk, rows] = refusal_score(logits, refusal_ids).cpu().reshape(shape)
            if reference is not None:
                kl[chunk, rows] = kl_divergence(logits, reference[rows].repeat(copies, 1)).cpu().reshape(shape)
            if keep:
                streams[chunk] += stream.double().cpu().unflatten(0, shape).sum(1)
    mean = (streams / len(prompts.prompts)).float() if keep_residual else None
    return Sweep(scores, kl, mean, start + 1)


def repeatable(batch: Batch | Trees) -> bool:
    """Whether the rows can be copied: every input has one value per token, so there are no media to tell apart."""
    if isinstance(batch, Trees):
        return True
    return all(value.shape[:2] == (batch.size, batch.length) for value in batch.inputs.values())
