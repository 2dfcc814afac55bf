"""From which part of a prompt a head writes refusal: its direct contribution, split over the positions it attends to.

    c[h, p <- s] = g(p) * A[h, p, s] * < v[kv(h), s], W_O[h] w >          sum over s = the head's direct contribution

`A` is the attention pattern, `v` the values; `p` is the token where the direction is read. Exact (a value bias belongs
to its source). Summed over token roles it says how much of the write comes from the instruction, the medium, the
template. `s` is a position in that LAYER's stream, already mixed by the layers below: a head that reads harm at the
last template token reads what others have moved there. Needs eager attention, which is switched on for the run and off
after it; so this runs where the weights are, not on a server.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DirectionError
from ..inference.activations import position_index
from ..models import anatomy
from ..models.heads import attention_call, eager_attention, head_reads, head_sites
from ..models.wrapper import save
from ..progress import Progress, track
from ..prompts import Prompt, batches
from ..prompts.batch import Batch
from ..report.shown import Shown
from ..traced.heads import norm_scale, source_writes
from ..traced.heads import rows as rows_at
from .causal import Head
from .labels import SHOWN, Labels, chosen_prompts
from .targets import Target, targets

SPANS = ("instruction", "media", "after", "before")
"""Token roles a source can have: what the user typed, the medium, the template behind them, everything else."""


@dataclass(frozen=True)
class SourceAttribution(Shown):
    """Contributions of chosen heads by source position.

    Attributes:
        heads: (layer, head) of each, in order.
        values: per prompt (head, source), source 0 the prompt's first token; units of the stream.
        pattern: per prompt (head, source), the attention of the reading position.
        attention: per prompt (head, query, source), the whole pattern; empty unless asked for.
        tokens: per prompt, its tokens as text.
        spans: per prompt, the role of each token, see `SPANS`.
        labels: names and groups of the prompts.
        layer: of the direction.
    """

    heads: tuple[Head, ...]
    values: tuple[Float[Tensor, "head _"], ...]
    pattern: tuple[Float[Tensor, "head _"], ...]
    attention: tuple[Float[Tensor, "_ _ _"], ...]
    tokens: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[str, ...], ...]
    labels: Labels
    layer: int

    @property
    def totals(self) -> Float[Tensor, "prompt head"]:
        """The heads' direct contributions: sums over sources."""
        return torch.stack([value.sum(-1) for value in self.values])

    def by_span(self) -> Float[Tensor, "prompt head span"]:
        """Contributions summed over token roles, in the order of `SPANS`."""
        rows = []
        for value, names in zip(self.values, self.spans, strict=True):
            masks = torch.tensor([[name == span for name in names] for span in SPANS])
            rows.append(value @ masks.float().T)
        return torch.stack(rows)

    def shares(self, role: str = "harmful", modality: str | None = None) -> dict[str, Float[Tensor, " head"]]:
        """Mean contribution by token role over the prompts of a role: span to (head,)."""
        found = self.by_span()[self.labels.rows(role, modality)].mean(0)
        return {span: found[:, place] for place, span in enumerate(SPANS)}

    def finding(self) -> str:
        names = ", ".join(f"L{layer} H{head}" for layer, head in self.heads)
        return f"{len(self.labels)} prompts, heads {names}, along the direction of layer {self.layer}"

    def caveats(self) -> Sequence[str]:
        said = "a source is a place in that layer's stream, already mixed by the layers below."
        return [said, *filter(None, [self.labels.rest])]

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per prompt, head and source."""
        for p, values in enumerate(self.values):
            for (layer, head), row in zip(self.heads, values.tolist(), strict=True):
                for s, (token, span, x) in enumerate(zip(self.tokens[p], self.spans[p], row, strict=True)):
                    at = {"id": self.labels.ids[p], "layer": layer, "head": head, "source": s}
                    yield {**at, "token": token, "span": span, "contribution": x}

    def drawn(self) -> Sequence[str]:
        from ..report.figures.tokens import values_over_prompt

        parts = []
        for row, values in enumerate(self.values[:SHOWN]):
            limit, words = max(1e-9, float(values.abs().max())), [word or " " for word in self.tokens[row]]
            lines = {
                f"L{layer} H{head}: {float(taken.sum()):+.2f} in all": taken.tolist()
                for (layer, head), taken in zip(self.heads, values, strict=True)
            }
            parts.append(values_over_prompt(self.labels.title(row), words, lines, self.spans[row], limit, "Sources"))
        return parts


def attribute_sources(
    model: Any,
    direction: Target,
    prompts: Iterable[Prompt | str],
    heads: Sequence[Head],
    *,
    keep_attention: bool = False,
    token_budget: int = 8192,
    max_rows: int = 128,
    progress: Progress = None,
) -> SourceAttribution:
    """Split the direct contributions of heads over the positions they attend to.

    Args:
        model: a loaded model, on this machine.
        direction: as for `attribute_heads`.
        prompts: of any modality the model takes.
        heads: (layer, head) pairs, at or below the direction's layer.
        keep_attention: also keep the whole patterns, for pictures (a few prompts).
        token_budget, max_rows: limits of one batch.
        progress: None shows a bar where somebody can see it.

    Raises:
        ModelError: the model is remote, or its attention does not go through transformers' common interface.
        DirectionError: 0 heads, one that does not exist or lies behind the direction.
        PromptError: 0 prompts, or one the model does not take.
    """
    aims, facts = targets(model, direction), anatomy(model)
    chosen = chosen_prompts(prompts, "attribute sources")
    each = [layer.writers.n_heads for layer in facts.parts]
    if not heads or any(not (0 <= at < aims.depth and 0 <= head < each[at]) for at, head in heads):
        found = f"heads {list(heads)}; the direction is written by layers 0 to {aims.depth - 1} of {max(each)} heads"
        raise DirectionError("attribute sources", found, "choose among these")
    ids = sorted({layer for layer, _ in heads})
    sites, reads = head_sites(model, ids), head_reads(model, aims.units, ids)
    calls = [attention_call(site, facts.name) for site in sites]
    wanted = [[head for at, head in heads if at == layer] for layer in ids]
    order = [(layer, head) for layer, mine in zip(ids, wanted, strict=True) for head in mine]
    place = [order.index(head) for head in heads]
    n = len(chosen)
    values: list[Any] = [None] * n
    patterns: list[Any] = [None] * n
    whole: list[Any] = [None] * n
    words: list[Any] = [None] * n
    spans: list[Any] = [None] * n
    with track(n, "sources", progress) as advance, eager_attention(model), torch.no_grad():
        for rows, batch in batches(model, chosen, token_budget=token_budget, max_rows=max_rows):
            where = position_index(batch, [aims.position])
            at = where[:, 0]
            with model.trace(**batch.inputs) as tracer:
                kept = save([])
                for site, read, call, mine in zip(sites, reads, calls, wanted, strict=True):
                    v, full = call.inputs[0][3], call.output[1]
                    scale = torch.ones(len(at), device=full.device)
                    seen = full[torch.arange(len(at)), :, at.to(full.device)]
                    if site["norm"] is not None:
                        scale = norm_scale(rows_at(site["attention"].output, where), read["epsilon"], read["centred"])
                        scale = scale[:, 0]
                    written = source_writes(v, seen, read["read"][..., 0], scale)
                    every = full[:, mine].float().cpu() if keep_attention else None
                    kept.append((written[:, mine].cpu(), seen[:, mine].float().cpu(), every))
                tracer.stop()
            written = torch.cat([part[0] for part in kept], dim=1)[:, place]
            seen = torch.cat([part[1] for part in kept], dim=1)[:, place]
            full = torch.cat([part[2] for part in kept], dim=1)[:, place] if keep_attention else None
            first = batch.inputs["attention_mask"].int().argmax(1).tolist()
            for row, index in enumerate(rows):
                start = first[row]
                values[index], patterns[index] = written[row, :, start:], seen[row, :, start:]
                whole[index] = torch.empty(0, 0, 0) if full is None else full[row, :, start:, start:]
                words[index], spans[index] = token_words(model, batch, row, start), token_spans(batch, row, start)
            advance(len(rows))
    return SourceAttribution(
        heads=tuple((int(a), int(b)) for a, b in heads),
        values=tuple(values),
        pattern=tuple(patterns),
        attention=tuple(whole),
        tokens=tuple(words),
        spans=tuple(spans),
        labels=Labels.of(chosen),
        layer=aims.layers[0],
    )


def token_words(model: Any, batch: Batch, row: int, start: int) -> tuple[str, ...]:
    """The tokens of a row as text, padding left out."""
    tokenizer = anatomy(model).tokenizer
    return tuple(tokenizer.decode([token]).strip() or " " for token in batch.inputs["input_ids"][row, start:].tolist())


def token_spans(batch: Batch, row: int, start: int) -> tuple[str, ...]:
    """The role of each token of a row, see `SPANS`."""
    after = batch.roles["post_instruction"] | batch.roles["prefill"]
    masks = [mask[row, start:].tolist() for mask in (batch.roles["instruction"], batch.roles["media"], after)]
    return tuple(
        next((name for name, mask in zip(SPANS, masks, strict=False) if mask[place]), "before")
        for place in range(len(masks[0]))
    )
