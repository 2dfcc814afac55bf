"""What a source's direction does in a target: by refusal score in every layer, by generated answers at one.

    induced_score[l]   mean change of the refusal score of the target's BENIGN test items, `c r_A[l]` added at layer l
    ablated_score[l]   mean change on its HARMFUL items, the coordinate along `r_A[l]` set to the target's benign mean
    induced, restored  change of the refusal rate of generated answers, benign and harmful items, direction added
    ablated            change of the refusal rate of harmful items, coordinate set to the benign mean

Every source's vector gets the same length by default (`length="matched"`), so that a column of the table compares
directions and not doses. The control is a random direction of that length, treated likewise.

Setting the coordinate to a benign mean (the affine form of ablation, ACE, arXiv 2411.09003) and not to zero: the stream
of a medium has an offset along text's direction, so zero is no neutral place. `operator="project_out"` is the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..evaluation import label_answers
from ..evaluation.judge import Judge
from ..inference.answers import Answer, generate
from ..inference.scores import Encoded, refusal_scores
from ..prompts import Prompt, PromptSet
from ..statistics import Estimate, paired_difference
from .arms import added, arm_answers, arm_scores, removed, repeated
from .similarity import empty, row

Operator: TypeAlias = Literal["benign_mean", "project_out"]
Length: TypeAlias = Literal["matched", "own"]


@dataclass(frozen=True)
class Doses:
    """The vectors that act, and where their coordinate is neutral.

    Attributes:
        vectors: (source, layer, d_model), what is added, towards refusal.
        benign: (target, layer, d_model) mean stream of each target's benign fit items.
        operator: how a direction is taken away.
    """

    vectors: Float[Tensor, "source layer d_model"]
    benign: Float[Tensor, "target layer d_model"]
    operator: Operator

    def random(self, draw: int, layer: int, seed: int) -> Float[Tensor, " d_model"]:
        """A random direction of the length of the first source's at that layer."""
        generator = torch.Generator().manual_seed(1000 * seed + 31 * layer + draw)
        drawn = torch.randn(self.vectors.shape[-1], generator=generator)
        scaled: Tensor = drawn / drawn.norm() * self.vectors[0, layer].norm()
        return scaled


def doses(
    fitted: Float[Tensor, "source layer d_model"],
    benign: Float[Tensor, "target layer d_model"],
    strength: float,
    length: Length,
    operator: Operator,
) -> Doses:
    """Scale the fitted directions.

    Args:
        fitted: difference in means of every source.
        benign: see `Doses`.
        strength: strength, in multiples of the length.
        length: "matched" gives every source the length of the first source's direction at that layer, "own" leaves each
            its own.
        operator: "benign_mean" or "project_out".
    """
    vectors = fitted
    if length == "matched":
        vectors = fitted / fitted.norm(dim=-1, keepdim=True) * fitted[:1].norm(dim=-1, keepdim=True)
    return Doses((strength * vectors).float(), benign.float(), operator)


def some_pairs(prompts: Sequence[Prompt], n: int) -> PromptSet:
    """At most n pair groups that have both harmful and benign items, spread evenly; one item per pair and role."""
    firsts: dict[tuple[str, str], Prompt] = {}
    for prompt in prompts:
        if prompt.role in ("harmful", "benign"):
            firsts.setdefault((prompt.pair, prompt.role), prompt)
    full = sorted({pair for pair, _ in firsts if (pair, "harmful") in firsts and (pair, "benign") in firsts})
    step = max(1.0, len(full) / max(n, 1))
    chosen = {full[int(k * step)] for k in range(min(n, len(full)))}
    return PromptSet(p for (pair, _), p in firsts.items() if pair in chosen)


def change(
    after: Sequence[float] | Tensor, before: Sequence[float] | Tensor, prompts: PromptSet, seed: int
) -> Estimate:
    """Mean paired change with an interval over pair groups; not measurable with fewer than two groups."""
    pairs = [p.pair for p in prompts]
    if len(set(pairs)) < 2:
        return Estimate.missing(len(pairs))
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (after, before))
    return paired_difference(a, b, pairs, rng=np.random.default_rng(seed))


@dataclass(frozen=True)
class ScoreEffects:
    """Changes of the refusal score, in nats; the last row of the first axis is the random control.

    Attributes:
        induced, ablated: (source + 1, layer, 4) value, low, high, n.
        null_induced, null_ablated: (draw,) mean change under each random direction at the chosen layer.
    """

    induced: Float[Tensor, "arm layer 4"]
    ablated: Float[Tensor, "arm layer 4"]
    null_induced: Float[Tensor, " draw"]
    null_ablated: Float[Tensor, " draw"]


def score_effects(
    model: Any,
    prompts: PromptSet,
    target: int,
    given: Doses,
    refusal_ids: Int[Tensor, " k"],
    layer: int,
    *,
    layer_ids: Sequence[int],
    draws: int,
    draws_by_layer: int,
    seed: int,
) -> ScoreEffects:
    """Forward passes of one target under every source's direction at every layer.

    Args:
        model: a loaded model.
        prompts: harmful and benign test items of the target.
        target: its number in `given.benign`.
        given: the vectors.
        refusal_ids: the model's refusal tokens.
        layer: where the null is drawn for p-values.
        layer_ids: layers whose directions are tried.
        draws, draws_by_layer: random directions there and at the other layers.
        seed: of the random directions and the bootstrap.
    """
    sources = given.vectors.shape[0]
    tables = {name: empty(sources + 1, len(layer_ids)) for name in ("benign", "harmful")}
    nulls = {name: torch.zeros(0) for name in tables}
    for role, table in tables.items():
        part = prompts.filter(role=role)  # type: ignore[arg-type]
        if not len(part):
            continue
        plain = refusal_scores(model, Encoded.of(model, part), refusal_ids).score
        encoded: dict[int, Encoded] = {}
        for k, at in enumerate(layer_ids):
            n_draws = draws if at == layer else draws_by_layer
            drawn = [given.random(draw, at, seed) for draw in range(n_draws)]
            vectors = torch.stack([*given.vectors[:, at], *drawn])
            if len(vectors) not in encoded:
                encoded[len(vectors)] = Encoded.of(model, repeated(part, len(vectors)))
            edit_of = added(vectors, at)
            if role == "harmful":
                edit_of = removed(vectors, given.benign[target], given.operator)
            after, _ = arm_scores(model, encoded[len(vectors)], len(part), refusal_ids, edit_of)
            for source in range(sources):
                table[source, k] = row(change(after[source], plain, part, seed))
            if n_draws:
                table[-1, k] = row(change(after[sources:].mean(0), plain, part, seed))
            if at == layer:
                nulls[role] = (after[sources:] - plain).mean(1)
    return ScoreEffects(tables["benign"], tables["harmful"], nulls["benign"], nulls["harmful"])


def rate_effects(
    model: Any,
    prompts: PromptSet,
    target: int,
    given: Doses,
    layer: int,
    *,
    known: Mapping[str, Answer],
    judge: Judge | None,
    max_new_tokens: int,
    seed: int,
) -> dict[str, Float[Tensor, "arm 4"]]:
    """Generated answers of one target under every source's direction of the chosen layer, and one random direction.

    Args:
        known: undefended answers by prompt id that need not be generated again.
        Others as in `score_effects`.

    Returns:
        "induced", "restored" and "ablated", each (source + 1, 4); the last row is the random control.
    """
    arms = given.vectors.shape[0] + 1
    found = {name: empty(arms) for name in ("induced", "restored", "ablated")}
    if not len(prompts):
        return found
    harmful = prompts.filter(role="harmful")
    fresh = prompts.where(lambda p: p.id not in known)
    said = {**known}
    if len(fresh):
        made = generate(model, fresh, max_new_tokens=max_new_tokens, progress=False)
        said |= {answer.prompt_id: answer for answer in made}
    before = label_answers(prompts, [said[p.id] for p in prompts], judge)
    vectors = torch.stack([*given.vectors[:, layer], given.random(0, layer, seed)])
    both = Encoded.of(model, repeated(prompts, arms))
    for arm, answers in enumerate(arm_answers(model, both, len(prompts), added(vectors, layer), max_new_tokens)):
        after = label_answers(prompts, answers, judge)
        for name, role in (("induced", "benign"), ("restored", "harmful")):
            part = prompts.filter(role=role)  # type: ignore[arg-type]
            found[name][arm] = row(change(after.refused(role)[0], before.refused(role)[0], part, seed))
    asked = Encoded.of(model, repeated(harmful, arms))
    take = removed(vectors, given.benign[target], given.operator)
    for arm, answers in enumerate(arm_answers(model, asked, len(harmful), take, max_new_tokens)):
        after = label_answers(harmful, answers, judge)
        hits = change(after.refused("harmful")[0], before.refused("harmful")[0], harmful, seed)
        found["ablated"][arm] = row(hits)
    return found
