"""Refusal score and KL of the next token, with or without an edit, reduced inside the trace.

    refusal score = logsumexp(logits[refusal tokens]) - logsumexp(logits[all others])  at the last prompt token, in nats
    KL            = KL(untouched || edited) of the next-token distribution, in nats

The refusal tokens are the model's own: the first tokens of what the judge calls a refusal, never a fixed table.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError, PromptError
from ..models import anatomy, layers
from ..models.running import running
from ..models.wrapper import save
from ..prompts import Prompt, PromptSet, batches
from ..prompts.batch import Batch
from ..prompts.encoding import as_prompts
from ..prompts.light import next_token_inputs
from ..report.shown import Shown
from ..traced.measure import kl_divergence, refusal_score
from ..traced.read import next_logits, residuals
from ..traced.write import edit_blocks
from .edits import NO_EDIT, Edit, require_edit, site_modules
from .loop import Item, ReEncode, re_encoder, run_batches
from .prefix import shared_logits


@dataclass(frozen=True)
class Encoded(Shown):
    """Prompts encoded once, for many passes with different edits.

    Attributes:
        prompts: in order.
        batches: (row numbers, batch) pairs.
    """

    prompts: PromptSet
    batches: tuple[tuple[list[int], Batch], ...]

    @classmethod
    def of(
        cls, model: Any, prompts: Prompt | str | Iterable[Prompt | str], *, token_budget: int = 4096, max_rows: int = 64
    ) -> "Encoded":
        """Encode prompts; the limits are those of `refusal_plugin.prompts.batches`."""
        chosen = PromptSet(as_prompts(prompts))
        if not len(chosen):
            raise PromptError("score prompts", "0 prompts", "give at least one")
        return cls(chosen, tuple(batches(model, chosen, token_budget=token_budget, max_rows=max_rows)))


@dataclass(frozen=True)
class Scores(Shown):
    """Of one pass.

    Attributes:
        score: (prompt,) refusal score in nats, positive towards refusal.
        kl: (prompt,) KL against the untouched run in nats; zeros without an edit.
        logits: (prompt, vocab) next-token logits where they were asked for.
        residual: (prompt, layer, d_model) `resid_post` at the last prompt token where it was asked for.
    """

    score: Float[Tensor, " prompt"]
    kl: Float[Tensor, " prompt"]
    logits: Float[Tensor, "prompt vocab"] | None = None
    residual: Float[Tensor, "prompt layer d_model"] | None = None

    def finding(self) -> str:
        opens = int((self.score > 0).sum())
        return (
            f"{opens} of {len(self.score)} prompts more likely than not open a refusal; "
            f"mean score {float(self.score.mean()):+.2f} nats, mean KL {float(self.kl.mean()):.3g} nats"
        )

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per prompt."""
        return ({"score": s, "kl": k} for s, k in zip(self.score.tolist(), self.kl.tolist(), strict=True))


def refusal_scores(
    model: Any,
    prompts: Encoded | Prompt | str | Iterable[Prompt | str],
    refusal_ids: Int[Tensor, " k"],
    edit: Edit | None = None,
    *,
    reference: Float[Tensor, "prompt vocab"] | None = None,
    keep_logits: bool = False,
    keep_residual: bool = False,
    remote: bool | str = False,
) -> Scores:
    """Refusal score, and KL against `reference`, of every prompt in one forward pass per batch.

    Args:
        model: a loaded model.
        prompts: encoded once for many calls, or as they are.
        refusal_ids: token ids that open a refusal; see `refusal_tokens`.
        edit: what to change; None for the model as it is.
        reference: logits of the untouched run, for the KL.
        keep_logits, keep_residual: what to keep besides the scores.
        remote: run on NDIF: one request, or several where one would exceed `remote.Settings.max_tokens`.

    Raises:
        DirectionError: the edit does not fit the model.
        DataError: NaN or infinite logits.
        ModelError: a single prompt does not fit into memory (larger batches are halved).
        RemoteError: the server refuses or fails; says why and what to do.
    """
    require_edit(edit, "score prompts")
    prompts = prompts if isinstance(prompts, Encoded) else Encoded.of(model, prompts)
    n, facts = len(prompts.prompts), anatomy(model)
    score, kl = torch.empty(n), torch.zeros(n)
    logits_rows: list[tuple[list[int], Tensor]] = []
    residual = torch.empty(n, facts.n_layers, facts.d_model) if keep_residual else None
    # An edit whose tensors are bound to the rows of a batch cannot follow when it is halved.
    again = re_encoder(model) if edit is None or edit.rows is None else None
    options: dict[str, Any] = {"keep_residual": keep_residual, "remote": remote}
    for rows, logits, stream in next_token(model, prompts.batches, lambda _rows: edit, again, **options):
        if residual is not None and stream is not None:
            residual[rows] = stream.cpu()
        score[rows] = refusal_score(logits, refusal_ids).cpu()
        if reference is not None:
            kl[rows] = kl_divergence(logits, reference[rows]).cpu()
        if keep_logits:
            logits_rows.append((rows, logits.float().cpu()))
    kept_logits = None
    if keep_logits:
        kept_logits = torch.empty(n, logits_rows[0][1].shape[-1])
        for rows, values in logits_rows:
            kept_logits[rows] = values
    return Scores(score, kl, kept_logits, residual)


def next_token(
    model: Any,
    work: Iterable[Item],
    edit_of: Callable[[list[int]], Edit | None],
    again: ReEncode | None,
    *,
    keep_residual: bool = False,
    lenient: bool = False,
    remote: bool | str = False,
) -> Iterator[tuple[list[int], Float[Tensor, "row vocab"], Float[Tensor, "row layer d_model"] | None]]:
    """The one loop that reads next-token logits: one edited forward pass per batch, halved where it does not fit.

    Args:
        model: a loaded model.
        work: row numbers and their batch.
        edit_of: the edit of a batch, from the numbers of its rows.
        again: encodes some prompts of a batch anew; None where an edit is bound to the rows of a batch.
        keep_residual: whether `resid_post` of every layer at the last prompt token is wanted.
        lenient: let NaN and infinite logits through.
        remote: run on NDIF.

    Yields:
        row numbers, their logits, and their streams in float32.

    Raises:
        DirectionError, DataError, ModelError, RemoteError: as `refusal_scores`.
    """
    facts, blocks = anatomy(model), layers(model)
    asked = f"score prompts on {facts.name}"
    if keep_residual:
        facts.require_stream("keep the residual stream")

    def measure(group: list[Item]) -> list[tuple[Tensor, Tensor | None]]:
        """Logits and streams of some batches in one session."""
        with running(model, asked, remote):
            return measured(group)

    def measured(group: list[Item]) -> list[tuple[Tensor, Tensor | None]]:
        if not (remote or keep_residual):
            ((rows, batch),) = group
            shared = shared_logits(model, batch, edit_of(rows), again)
            if shared is not None:
                return [(shared, None)]
        planned = []
        for rows, batch in group:
            edit = edit_of(rows) or NO_EDIT
            edit.check(facts)
            planned.append((next_token_inputs(model, batch), batch.last, site_modules(model, edit), edit.plan()))
        with torch.no_grad(), model.session(remote=remote):
            found: list[tuple[Tensor, Tensor | None]] = save([])
            for inputs, last, sites, edits in planned:
                with model.trace(**inputs):
                    stream = None
                    if keep_residual:
                        # Edits and reads share the blocks: they interleave layer by layer, in the order of execution.
                        kept = []
                        for layer, block in enumerate(blocks):
                            edit_blocks(sites, [part for part in edits if part[0] == layer])
                            kept.append(residuals([block], last))
                        stream = torch.cat(kept, dim=2)[:, 0]
                    else:
                        edit_blocks(sites, edits)
                    found.append((next_logits(model.output), stream))
        return found

    row_bytes = 4 * (len(facts.tokenizer) + keep_residual * facts.n_layers * facts.d_model)
    where: dict[str, Any] = {"remote": remote, "row_bytes": row_bytes}
    for (rows, batch), (logits, stream) in run_batches(work, measure, again, asked=asked, **where):
        finite = logits.amax(-1).isfinite()  # single words may be excluded with -inf
        if not bool(finite.all()) and not lenient:
            name = batch.prompts[int((~finite).int().argmax())].id
            found = f"NaN or infinite logits at prompt '{name}'"
            raise DataError(asked, found, "check the edit's strength and the dtype")
        yield rows, logits, stream
