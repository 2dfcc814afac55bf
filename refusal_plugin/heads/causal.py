"""What removing a head does: total effects beside the direct contribution.

    total[h]  =  score(untouched) - score(head h replaced)      refusal score in nats, mean over prompts; positive: the
                                                                head makes the model refuse
    patching[h] = < d score / d z[h], z[h] - mean z[h] >        attribution patching (Nanda 2023; Syed et al. 2023): the
                                                                first-order guess of the same for ALL heads, from one
                                                                forward over both sides and one backward

A head is replaced at the last prompt token, while the prompt is read: by zero, or by its mean over benign prompts of
the same modality ("mean"), which takes away what it says about THIS prompt and leaves its usual offset. Attribution
patching is a filter; the exact columns are what counts. Direct and total answer different questions and are never one
column.

The control replaces random heads: as many, in the same layers. What it does NOT show: what a head does at earlier
tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DirectionError
from ..evaluation import REFUSALS, label_answers
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.answers import Answer, decoded
from ..inference.loop import re_encoder
from ..inference.prefix import REST, Stems, on_device, shared_stem
from ..inference.scores import Encoded
from ..models import anatomy, hf_layers, hf_module
from ..models.heads import Site, head_sites
from ..progress import Progress, track
from ..prompts import Prompt, PromptSet
from ..prompts.batch import Batch
from ..prompts.light import next_token_inputs
from ..statistics import Estimate, mean_interval, rate
from ..traced.heads import rows as rows_at
from ..traced.heads import silence
from ..traced.measure import refusal_score
from .labels import Labels, chosen_prompts

Kind = Literal["mean", "zero"]
Head = tuple[int, int]
"""A layer and a head in it."""

EFFECTS = 8
"""Exact effects that are asked for on the same prompts, about: what stands before their ends is then read once."""


@dataclass(frozen=True)
class HeadAblation:
    """Prompts encoded once, with the benign means that replace a head.

    Attributes:
        model: a loaded model.
        encoded: the prompts.
        labels: their groups.
        means: modality to mean `z` of benign prompts at the last prompt token, (layer, widest head * d_head).
        untouched: (prompt,) refusal scores of the model as it is.
        patching: (prompt, layer, head): first-order effect of every head, see the module; zero where a layer has
            fewer.
        tokens: the model's refusal tokens.
    """

    model: Any
    encoded: Encoded
    labels: Labels
    means: dict[str, Tensor]
    untouched: Float[Tensor, " prompt"]
    patching: Float[Tensor, "prompt layer head"]
    tokens: RefusalTokens
    _stems: Stems = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: Any, prompts: Iterable[Prompt | str], tokens: RefusalTokens, **limits: int) -> "HeadAblation":
        """Read every head once: one forward and one backward per batch.

        Args:
            model: a loaded model, on this machine (a server gives no gradients).
            prompts: harmful and benign prompts of every modality that is asked about later.
            tokens: see `refusal_tokens`.
            limits: `token_budget`, `max_rows` of one batch.

        Raises:
            DataError: a modality without benign prompts: there is nothing to replace its heads with.
            ModelError: the model's heads cannot be attributed.
        """
        facts = anatomy(model)
        sites = head_sites(model, range(facts.n_layers))
        chosen = chosen_prompts(prompts, "remove heads")
        encoded, labels = Encoded.of(model, chosen, **limits), Labels.of(chosen)
        shape = [site["heads"] for site in sites]
        z = torch.empty(len(chosen), facts.n_layers, max(heads * width for heads, width in shape))
        slope, score = torch.empty_like(z), torch.empty(len(chosen))
        for places, batch in encoded.batches:
            z[places], slope[places], score[places] = _paired(model, sites, batch, tokens.ids)
        means = {m: z[labels.rows("benign", m)].mean(0) for m in labels.kinds()}
        usual = torch.stack([means[m] for m in labels.modalities])
        effect = torch.zeros(*z.shape[:2], max(heads for heads, _ in shape))
        for layer, (heads, width) in enumerate(shape):
            first_order = (slope * (z - usual))[:, layer, : heads * width]
            effect[:, layer, :heads] = first_order.reshape(len(z), heads, -1).sum(-1) if heads else 0.0
        return cls(model, encoded, labels, means, score, effect, tokens)

    def only(self, role: str | None = None, modality: str | None = None) -> "HeadAblation":
        """The same bench with some of its prompts: exact effects then cost a forward over those alone."""
        rows = self.labels.rows(role, modality)
        kept = PromptSet(self.encoded.prompts[row] for row in rows)
        return replace(
            self,
            encoded=Encoded.of(self.model, kept),
            labels=Labels.of(kept),
            untouched=self.untouched[rows],
            patching=self.patching[rows],
            _stems={},
        )

    def ranking(self, modality: str | None = None, role: str = "harmful") -> Float[Tensor, "layer head"]:
        """Mean first-order effect of every head, in nats of refusal score."""
        return self.patching[self.labels.rows(role, modality)].mean(0)

    def scores(self, heads: Sequence[Head], kind: str = "mean") -> Float[Tensor, " prompt"]:
        """Refusal scores with these heads replaced, together, in every layer at once."""
        plan, found, again = self._plan(heads, kind), torch.empty(len(self.labels)), re_encoder(self.model)
        for places, batch in self.encoded.batches:
            shared = shared_stem(self.model, batch, None, again, answers=False, kept=self._stems, times=EFFECTS)
            if shared is None:
                inputs = on_device(self.model, next_token_inputs(self.model, batch))
            else:
                stem, rows = shared
                inputs = stem.continued(rows, batch.inputs["input_ids"][:, -REST:].tolist())
            with torch.no_grad(), self._silenced(plan, batch, kind) as module:
                logits = module(**inputs).logits[:, -1]
            found[places] = refusal_score(logits, self.tokens.ids).cpu()
        return found

    def effect(
        self,
        heads: Sequence[Head],
        modality: str | None = None,
        *,
        kind: str = "mean",
        role: str = "harmful",
        seed: int = 0,
        replaced: Float[Tensor, " prompt"] | None = None,
    ) -> Estimate:
        """Exact total effect of removing heads together, in nats of refusal score, with its interval."""
        rows = self.labels.rows(role, modality)
        change = (self.untouched - (self.scores(heads, kind) if replaced is None else replaced))[rows]
        pairs = [self.labels.pairs[row] for row in rows]
        if len(set(pairs)) < 2:
            return Estimate(float(change.mean()), None, None, len(rows))
        return mean_interval(change, pairs, rng=np.random.default_rng(seed))

    def answers(
        self, heads: Sequence[Head], kind: str = "mean", *, max_new_tokens: int = 24, progress: Progress = None
    ) -> list[Answer]:
        """Greedy answers with these heads replaced at the last prompt token."""
        plan = self._plan(heads, kind)
        found: list[Answer | None] = [None] * len(self.labels)
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False}
        with track(len(found), "answers without heads", progress) as advance:
            for places, batch in self.encoded.batches:
                steps = self._steps(plan, batch, kind)
                with torch.no_grad(), self.model.generate(**settings) as tracer:
                    with tracer.invoke(**batch.inputs):
                        for site, chosen, width, value in steps:
                            silence(site["projection"].input, chosen, width, value, "last")
                    with tracer.invoke():
                        ids = tracer.result.save()
                for row, new in zip(places, ids[:, batch.length :].tolist(), strict=True):
                    found[row] = decoded(self.model, self.labels.ids[row], new)
                advance(len(places))
        return [answer for answer in found if answer is not None]

    def refused(self, answers: Sequence[Answer], modality: str | None = None, *, seed: int = 0) -> Estimate:
        """Share of harmful prompts refused in some answers, with its interval."""
        chosen = self.encoded.prompts
        judged = label_answers(chosen, answers)
        rows = self.labels.rows("harmful", modality)
        hits = [judged.labels[row] in REFUSALS for row in rows]
        return rate(hits, [self.labels.pairs[row] for row in rows], rng=np.random.default_rng(seed))

    def random_heads(self, heads: Sequence[Head], seed: int = 0) -> tuple[Head, ...]:
        """As many heads in the same layers, none of these where the layer has others to draw from."""
        rng, parts = np.random.default_rng(seed), anatomy(self.model).parts
        drawn: list[Head] = []
        for layer in sorted({layer for layer, _ in heads}):
            taken = [head for at, head in heads if at == layer]
            every = range(parts[layer].writers.n_heads)
            others = [head for head in every if head not in taken]
            others = others if len(others) >= len(taken) else list(every)
            drawn += [(layer, int(head)) for head in rng.choice(others, len(taken), replace=False)]
        return tuple(drawn)

    def _plan(self, heads: Sequence[Head], kind: str) -> dict[int, list[int]]:
        facts = anatomy(self.model)
        if kind not in get_args(Kind):
            raise DirectionError("remove heads", f"kind = {kind!r}", f"use one of {', '.join(get_args(Kind))}")
        plan: dict[int, list[int]] = {}
        for layer, head in heads:
            there = facts.parts[layer].writers.n_heads if 0 <= layer < facts.n_layers else 0
            if not 0 <= head < there:
                found = f"{facts.name} has {facts.n_layers} layers, and {there} heads in that one"
                raise DirectionError(f"remove head {head} of layer {layer}", found, "choose one of these")
            plan.setdefault(layer, []).append(head)
        return dict(sorted(plan.items()))

    @contextmanager
    def _silenced(self, plan: dict[int, list[int]], batch: Batch, kind: str) -> Iterator[Any]:
        """The Hugging Face module without these heads, in plain torch hooks: nnsight takes no rows that go on."""
        blocks, parts = hf_layers(self.model), anatomy(self.model).parts
        with ExitStack() as stack:
            for layer, (_site, *what) in zip(plan, self._steps(plan, batch, kind), strict=True):

                def change(_module: Any, args: Any, what: list[Any] = what) -> Any:
                    z, (chosen, width, value) = args[0].clone(), what
                    silence(z, chosen, width, value, "last")
                    return (z, *args[1:])

                projection = blocks[layer].get_submodule(str(parts[layer].writers.projection))
                stack.enter_context(projection.register_forward_pre_hook(change))
            yield hf_module(self.model)

    def _steps(self, plan: dict[int, list[int]], batch: Batch, kind: str) -> list[tuple[Site, list[int], int, Tensor]]:
        usual = torch.stack([self.means[p.modality] for p in batch.prompts])
        value = torch.zeros_like(usual) if kind == "zero" else usual
        sites = head_sites(self.model, list(plan))
        return [(site, plan[layer], site["heads"][1], value[:, layer]) for layer, site in zip(plan, sites, strict=True)]


def _paired(model: Any, sites: list[Site], batch: Batch, refusal_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`z` at the last prompt token, its gradient of the refusal score (each (batch, layer, width)), and the score."""
    last = batch.last
    with torch.enable_grad(), model.trace(**batch.inputs):
        every: list[Any] = []
        for site in sites:
            if site["projection"] is None:
                continue
            z = site["projection"].input
            if not every:
                z.requires_grad_(True)  # a leaf: no weight asks for a gradient, so this is where the graph begins
            every.append(z)
        score = refusal_score(model.output.logits[:, -1], refusal_ids)
        slopes = torch.autograd.grad(score.sum(), every)
        kept = [rows_at(z.detach(), last)[:, 0].cpu() for z in every].save()  # type: ignore[attr-defined]
        slope = [rows_at(g, last)[:, 0].cpu() for g in slopes].save()  # type: ignore[attr-defined]
        value = score.detach().cpu().save()
    return _filled(kept, sites), _filled(slope, sites), value


def _filled(found: list[Tensor], sites: list[Site]) -> Tensor:
    """(batch, layer, widest) from tensors (batch, width) of the layers that have heads; zeros elsewhere."""
    widths = [site["heads"][0] * site["heads"][1] for site in sites]
    filled = torch.zeros(len(found[0]), len(sites), max(widths))
    of_layers = [layer for layer, site in enumerate(sites) if site["projection"] is not None]
    for layer, values in zip(of_layers, found, strict=True):
        filled[:, layer, : values.shape[-1]] = values
    return filled
