"""What a source's direction does in a target: by refusal score in every layer, by generated answers at one.

    induced_score[l]   mean change of the refusal score of the target's BENIGN test items, `c r_A[l]` added at layer l
    ablated_score[l]   mean change on its HARMFUL items, the coordinate along `r_A[l]` set to the target's benign mean
    induced, restored  change of the refusal rate of generated answers, benign and harmful items, direction added
    ablated            change of the refusal rate of harmful items, coordinate set to the benign mean

Every source's vector gets the same length by default (`length="matched"`), so that a column of the table compares
directions and not strengths. The control is a random direction of that length, treated likewise.

Setting the coordinate to a benign mean (the affine form of ablation, ACE, arXiv 2411.09003) and not to zero: the stream
of a medium has an offset along text's direction, so zero is no neutral place. `operator="project_out"` is the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..contrasts import change, empty, row
from ..evaluation import label_answers
from ..evaluation.judge import Judge
from ..geometry import random_control
from ..inference.answers import Answer
from ..inference.arm_sets import ArmSet, generate_arm_sets, score_arm_sets
from ..inference.edits import NO_EDIT, Edit, Operator, addition, removal
from ..prompts import PromptSet
from ..report.shown import Shown

Length: TypeAlias = Literal["matched", "own"]
ROLES = ("benign", "harmful")
"""What a direction is added to, and what it is taken from."""


@dataclass(frozen=True)
class Interventions(Shown):
    """The vectors that act, and where their coordinate is neutral.

    Attributes:
        vectors: (source, layer, d_model), what is added, towards refusal.
        benign: (target, layer, d_model) mean stream of each target's benign fit items.
        operator: how a direction is taken away.
        layers: where vectors are tried.
        draws: per layer, the random directions beside the sources': the control.
        seed: of these.
    """

    vectors: Float[Tensor, "source layer d_model"]
    benign: Float[Tensor, "target layer d_model"]
    operator: Operator
    layers: tuple[int, ...]
    draws: tuple[int, ...]
    seed: int

    def random(self, draw: int, layer: int) -> Float[Tensor, " d_model"]:
        """A random direction of the length of the first source's at that layer."""
        return random_control(self.vectors[0, layer], 1000 * self.seed + 31 * layer + draw)

    def arms(self, layer: int, draws: int) -> list[Float[Tensor, " d_model"]]:
        """The sources' vectors of a layer, and random ones."""
        return [*self.vectors[:, layer], *(self.random(draw, layer) for draw in range(draws))]

    def added(self, layer: int, draws: int) -> list[Edit]:
        """Each arm's vector added at one layer, at all positions and steps."""
        return [addition({layer: vector}) for vector in self.arms(layer, draws)]

    def removed(self, layer: int, draws: int, target: int) -> list[Edit]:
        """Each arm's direction taken away in every layer.

        "benign_mean" sets the coordinate of the last prompt token to that of the target's benign items, in prefill;
        "project_out" sets it to zero at every site, position and step.
        """
        return [removal(vector, self.benign[target], self.operator) for vector in self.arms(layer, draws)]


def scaled_vectors(
    fitted: Float[Tensor, "source layer d_model"], strength: float, length: Length
) -> Float[Tensor, "source layer d_model"]:
    """Fitted directions at the length at which they act.

    Args:
        fitted: difference in means of every source.
        strength: in multiples of the length.
        length: "matched" gives every source the length of the first source's direction at that layer, "own" leaves each
            its own.
    """
    vectors = fitted
    if length == "matched":
        vectors = fitted / fitted.norm(dim=-1, keepdim=True) * fitted[:1].norm(dim=-1, keepdim=True)
    return (strength * vectors).float()


@dataclass(frozen=True)
class ScoreEffects(Shown):
    """Changes of the refusal score of one target, in nats; the last row of the first axis is the random control.

    Attributes:
        induced, ablated: (source + 1, layer, 4) value, low, high, n.
        null_induced, null_ablated: per layer (draw,) mean change under each random direction.
    """

    induced: Float[Tensor, "arm layer 4"]
    ablated: Float[Tensor, "arm layer 4"]
    null_induced: tuple[Float[Tensor, " _"], ...]
    null_ablated: tuple[Float[Tensor, " _"], ...]


def score_effects(
    model: Any,
    targets: Sequence[PromptSet],
    given: Interventions,
    refusal_ids: Int[Tensor, " k"],
    *,
    remote: bool | str = False,
) -> list[ScoreEffects]:
    """Forward passes of every target under every source's direction at every layer.

    Args:
        model: a loaded model.
        targets: harmful and benign test items of each target.
        given: the vectors.
        refusal_ids: the model's refusal tokens.
        remote: run on NDIF: one request, or several where it is too large.
    """
    sets: list[ArmSet] = []
    for target, prompts in enumerate(targets):
        for role in ROLES:
            edits = [NO_EDIT]
            for layer, n in zip(given.layers, given.draws, strict=True):
                edits += given.added(layer, n) if role == "benign" else given.removed(layer, n, target)
            sets.append(ArmSet(prompts.filter(role=role), edits))  # type: ignore[arg-type]
    scores = (one.score for one in score_arm_sets(model, sets, refusal_ids, remote=remote))
    found = []
    for prompts in targets:
        pairs = [[p.pair for p in prompts if p.role == role] for role in ROLES]
        (induced, null_induced), (ablated, null_ablated) = (_score_table(next(scores), some, given) for some in pairs)
        found.append(ScoreEffects(induced, ablated, null_induced, null_ablated))
    return found


def _score_table(
    scores: Float[Tensor, "arm prompt"], pairs: Sequence[str], given: Interventions
) -> tuple[Float[Tensor, "row layer 4"], tuple[Float[Tensor, " _"], ...]]:
    """Changes per source and layer, and each layer's random directions; arm 0 is the untouched model."""
    sources, plain = len(given.vectors), scores[0]
    table, nulls = empty(sources + 1, len(given.layers)), []
    after = torch.split(scores[1:], [sources + n for n in given.draws])
    for k, some in enumerate(after):
        nulls.append((some[sources:] - plain).mean(1))
        if not pairs:
            continue
        for source in range(sources):
            table[source, k] = row(change(some[source], plain, pairs, given.seed))
        if given.draws[k]:
            table[-1, k] = row(change(some[sources:].mean(0), plain, pairs, given.seed))
    return table, tuple(nulls)


def rate_effects(
    model: Any,
    targets: Sequence[PromptSet],
    given: Interventions,
    layer: int,
    *,
    before: Mapping[str, Answer],
    judge: Judge | None,
    max_new_tokens: int,
    remote: bool | str = False,
) -> list[dict[str, Float[Tensor, "arm 4"]]]:
    """Generated answers of every target under every source's direction of one layer, and one random direction.

    Args:
        before: undefended answers by prompt id.
        judge: who labels answers.
        max_new_tokens: longest answer.
        Others as in `score_effects`.

    Returns:
        per target "induced", "restored" and "ablated", each (source + 1, 4); the last row is the random control.
    """
    sets: list[ArmSet] = []
    for target, prompts in enumerate(targets):
        sets.append(ArmSet(prompts, given.added(layer, 1)))
        sets.append(ArmSet(prompts.filter(role="harmful"), given.removed(layer, 1, target)))
    spoken = iter(generate_arm_sets(model, sets, max_new_tokens=max_new_tokens, remote=remote))
    found = []
    for prompts in targets:
        tables = {name: empty(len(given.vectors) + 1) for name in ("induced", "restored", "ablated")}
        plain = label_answers(prompts, [before[p.id] for p in prompts], judge)
        read = (("induced", "benign"), ("restored", "harmful")), (("ablated", "harmful"),)
        for asked, measures in zip((prompts, prompts.filter(role="harmful")), read, strict=True):
            for arm, answers in enumerate(next(spoken)):
                after = label_answers(asked, answers, judge)
                for name, role in measures:
                    hits, pairs = after.refused(role)
                    tables[name][arm] = row(change(hits, plain.refused(role)[0], pairs, given.seed))
        found.append(tables)
    return found
