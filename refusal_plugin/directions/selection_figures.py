"""The figures by which direction candidates are chosen, measured many at a time; see `selection` for what they mean.

    ablation (bypass, KL)        acts in every block: full passes, all candidates as rows
    addition (induce, cost, gain) acts behind its own block l: passes of the L - 1 - l blocks after it
    strength                     searched for all positions of a layer in step, one row per position

A candidate's strength takes several runs in sequence, so most of a selection for a defence is addition.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..geometry import cosine
from ..inference.continuation import Grown, Stream, Sweep, grown, per_row, sweep
from ..inference.edits import SITE_ORDER, Site, SiteEdit
from ..inference.scores import Encoded, RefusalTokens, Scores, refusal_scores
from ..models import anatomy
from ..prompts import Prompt, PromptSet
from ..statistics import auroc
from ..traced.grid import grid_ask, grid_begin, grid_tell
from ..traced.resume import removed_at
from ..traced.write import set_coordinate
from .direction import Candidates

Operator: TypeAlias = Literal["project_out", "benign_mean"]
Place: TypeAlias = tuple[int, int]
"""Layer and position of a candidate."""

KEEP = 0.5
STRENGTHS = (0.0, 2.0)
GRID = 128
"""Strengths are multiples of 1/128 of that range, as after the seven halvings of `calibration.largest_within`."""
GROUP = 32
"""Candidates ablated together; bounds the streams that COSMIC keeps."""
TIGHT = 8
"""Prompts in one batch where there are candidates to fill it."""


@dataclass(frozen=True)
class Run:
    """Validation prompts of one role and their untouched run.

    Attributes:
        model: the model.
        prompts: the prompts.
        logits, residual: next-token logits, and streams at the last prompt token.
        tree: the prompts as prefix trees, for edits that are the same at every position; None where they do not pay.
    """

    model: Any
    prompts: PromptSet
    logits: Float[Tensor, "prompt vocab"]
    residual: Float[Tensor, "prompt layer d_model"]
    tree: Grown | None

    @classmethod
    def of(cls, model: Any, prompts: PromptSet, tokens: RefusalTokens, part: Callable[[Prompt], bool]) -> list["Run"]:
        """One plain pass, for the run of all prompts and for that of a part of them."""
        encoded = Encoded.of(model, prompts)
        found = refusal_scores(model, encoded, tokens.ids, keep_logits=True, keep_residual=True)
        assert found.logits is not None and found.residual is not None
        made: list[Run] = []
        every = list(range(len(prompts)))
        for rows in (every, [row for row, prompt in enumerate(prompts) if part(prompt)]):
            if made and rows == every:
                return [*made, *made]
            logits, residual = found.logits[rows], found.residual[rows]
            made.append(cls(model, prompts[rows], logits, residual, grown(model, encoded, logits, rows)))
        return made

    @cached_property
    def wide(self) -> Encoded:
        """In large batches, for few candidates at a time."""
        return Encoded.of(self.model, self.prompts)

    @cached_property
    def tight(self) -> Encoded:
        """In small batches of nearly one length: many candidates fill them up, and little is padded."""
        return Encoded.of(self.model, self.prompts, max_rows=TIGHT)

    @property
    def mean(self) -> Float[Tensor, "layer d_model"]:
        """Mean stream over the prompts."""
        return self.residual.mean(0)


class Figures:
    """Measures candidates on validation prompts."""

    def __init__(self, model: Any, candidates: Candidates, prompts: PromptSet, tokens: RefusalTokens) -> None:
        """Args: see `selection.select`."""
        self.model, self.candidates, self.refusal = model, candidates, tokens.ids
        self.harmful = Run.of(model, prompts.filter(role="harmful"), tokens, lambda _prompt: True)[0]
        safe = prompts.filter(role=("benign", "near_miss"))
        self.safe, self.benign = Run.of(model, safe, tokens, lambda prompt: prompt.role == "benign")
        self.faint = candidates.at(0, -1).attenuated(KEEP)  # the same edit whichever candidate is tried on it
        self._streams: dict[str, Stream] = {}
        self._faint_score: Scores | None = None

    def auroc(self, place: Place) -> float:
        """Of harmful against benign and near-miss prompts along a candidate."""
        unit, layer = self.candidates.at(*place).unit, place[0]
        return auroc(self.harmful.residual[:, layer] @ unit, self.safe.residual[:, layer] @ unit)

    # -- ablation ------------------------------------------------------------------------------------------------------

    def bypass(self, places: Sequence[Place], operator: Operator, *, keep_residual: bool) -> Sweep:
        """Harmful prompts without the candidates, with streams for COSMIC."""
        return self.ablated(self.harmful, places, operator, keep_residual=keep_residual)

    def kl_ablate(self, places: Sequence[Place], operator: Operator) -> list[float]:
        """Mean KL on benign prompts, per candidate."""
        found = self.ablated(self.benign, places, operator, reference=self.benign.logits)
        return [float(value) for value in found.kl.mean(1)]

    def ablated(self, run: Run, places: Sequence[Place], operator: Operator, **options: Any) -> Sweep:
        """Some prompts without each of the candidates; `options` of `continuation.sweep`."""
        directions = [self.candidates.at(*place) for place in places]
        units = torch.stack([one.unit for one in directions])
        blocks = range(anatomy(self.model).n_layers)

        def project(chunk: slice, size: int) -> list[SiteEdit]:
            unit = per_row(units[chunk], size)
            return [SiteEdit(layer, site, set_coordinate, {"unit": unit}) for layer in blocks for site in sites(layer)]

        def neutral(chunk: slice, size: int) -> list[SiteEdit]:
            unit = per_row(units[chunk], size)
            made = []
            for layer in blocks:
                origin = [one.benign[layer] @ one.unit for one in directions[chunk]]
                tensors = {"unit": unit, "value": per_row(torch.stack(origin).unsqueeze(1), size)}
                made.append(SiteEdit(layer, "resid_post", set_coordinate, tensors, "last"))
            return made

        if operator == "benign_mean":
            return sweep(self.model, run.tight, self.refusal, len(places), parts=neutral, **options)
        return sweep(self.model, run.tree or run.tight, self.refusal, len(places), parts=project, **options)

    # -- addition ------------------------------------------------------------------------------------------------------

    def induce(self, layer: int, positions: Sequence[int]) -> Sweep:
        """Benign prompts with the full vectors of a layer added, with the streams of later layers."""
        vectors = torch.stack([self.candidates.at(layer, p).vector for p in positions])
        begin = self._stream("benign", layer)
        return sweep(
            self.model,
            begin.prompts,
            self.refusal,
            len(positions),
            begin=begin,
            added=vectors,
            keep_residual=True,
        )

    def strengths(self, layer: int, positions: Sequence[int], target_kl: float) -> list[dict[str, float]]:
        """Per position: the strength that costs `target_kl` on safe prompts, its cost, and its gain on faint harm."""
        vectors = torch.stack([self.candidates.at(layer, p).vector for p in positions])
        safe = self._stream("safe", layer)

        def cost(strength: Tensor, which: Tensor) -> Tensor:
            found = sweep(
                self.model,
                safe.prompts,
                self.refusal,
                len(which),
                begin=safe,
                added=(strength.unsqueeze(1) * vectors)[which],
                reference=self.safe.logits,
            )
            return found.kl.mean(1)

        low, kl = largest_on_grid(cost, len(positions), target_kl)
        gains = self._gains(layer, low.unsqueeze(1) * vectors)
        return [{"strength": float(c), "kl_add": float(k), "gain": g} for c, k, g in zip(low, kl, gains, strict=True)]

    def _gains(self, layer: int, added: Float[Tensor, "candidate d_model"]) -> list[float]:
        if self._faint_score is None:
            self._faint_score = refusal_scores(self.model, self.harmful.wide, self.refusal, self.faint)
        after = sweep(
            self.model,
            self.harmful.wide,
            self.refusal,
            len(added),
            begin=self._stream("faint", layer),
            added=added,
        )
        return [float(value) for value in (after.score - self._faint_score.score).mean(1)]

    def _stream(self, name: str, layer: int) -> Stream:
        """A stream behind a layer: moved on if it stands before it, begun again if it stands behind it."""
        stream = self._streams.get(name)
        if stream is None or stream.layer > layer:
            if name == "faint":  # an edit of the last token
                stream = Stream(self.model, self.harmful.wide, self.faint)
            else:
                run = self.benign if name == "benign" else self.safe
                stream = Stream(self.model, run.tree or run.wide)
            self._streams[name] = stream
        return stream.to(layer)

    # -- COSMIC --------------------------------------------------------------------------------------------------------

    def evaluation_layers(self) -> Tensor:
        """The tenth of layers where mean harmful and mean benign differ most."""
        similarity = cosine(self.harmful.mean, self.benign.mean)
        return similarity.argsort()[: max(1, round(0.1 * len(similarity)))]

    def cosmic(
        self,
        place: Place,
        ablated: Float[Tensor, "chosen d_model"],
        steered: Float[Tensor, "later d_model"],
    ) -> float:
        """The COSMIC score from the mean streams of ablated harmful and of steered benign prompts.

        Args:
            place: the candidate.
            ablated: of the evaluation layers.
            steered: of the layers behind the candidate's own; before it nothing changes, at it the vector is added.
        """
        harmful, benign, layer, chosen = self.harmful.mean, self.benign.mean, place[0], self.evaluation_layers()
        vector = self.candidates.at(*place).vector
        whole = torch.cat([benign[:layer], (benign[layer] + vector).unsqueeze(0), steered])
        first = cosine(ablated.flatten(), benign[chosen].flatten())
        second = cosine(whole[chosen].flatten(), harmful[chosen].flatten())
        return float(first + second)


def largest_on_grid(
    cost: Callable[[Tensor, Tensor], Tensor], n: int, target: float
) -> tuple[Float[Tensor, " candidate"], Float[Tensor, " candidate"]]:
    """The largest strengths on a grid of `STRENGTHS` whose costs stay within the target, for many candidates in step.

    The search is that of `traced.grid`.

    Args:
        cost: of strengths (candidate,), given for all, at the candidates (k,) that are asked for; (k,).
        n: number of candidates.
        target: largest allowed cost.

    Returns:
        strengths and costs, each (candidate,); the lower bound costs nothing.
    """
    bottom, top = STRENGTHS
    state = grid_begin(n, GRID)
    while len((question := grid_ask(state, target))[1]):
        where, which = question
        grid_tell(state, where, which, cost(bottom + (top - bottom) * where / GRID, which), target)
    return bottom + (top - bottom) * state["low"] / GRID, state["low_cost"]


def sites(layer: int) -> tuple[Site, ...]:
    """Where a direction is removed at every position, see `traced.resume.removed_at`."""
    return tuple(removed_at(layer, SITE_ORDER))


def removals(operator: Operator, places: Sequence[Place]) -> list[tuple[Operator, list[Place]]]:
    """How each candidate is removed: at position -1 it can be set to its benign mean, at others it is projected out."""
    if operator == "project_out":
        return [(operator, list(places))]
    last = [place for place in places if place[1] == -1]
    return [(operator, last), ("project_out", [place for place in places if place[1] != -1])]


def groups(places: Sequence[Place]) -> list[list[Place]]:
    """In portions of `GROUP`."""
    return [list(places[k : k + GROUP]) for k in range(0, len(places), GROUP)]
