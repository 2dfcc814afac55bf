"""The strength of a defence from what it costs on harmless prompts, never from what it gains on harmful ones.

    c* = the largest strength up to which the mean over prompts of KL(untouched || defended) of the next token stays
         <= target_kl, in every modality of the prompts

or, with `target_over_refusal`, up to which the share of harmless prompts whose first token opens a refusal grows by no
more than that. Strengths are searched from small to large and the search stops at the first that is too dear, so a cost
that falls again far out (a broken model can look cheap) is never used. Methods are then compared at equal cost, not at
equal alpha.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DirectionError, PromptError
from ..inference.arms import Arms, Strengths, encode_arms, score_arms
from ..inference.edits import Edit
from ..inference.loop import Item
from ..inference.scores import Encoded, refusal_scores
from ..prompts import Modality, PromptSet
from ..report.shown import Shown
from ..traced.measure import refusal_score

RUNGS = 6
"""Strengths tried in one pass, as rows of one batch."""
ROUNDS = 3
"""Passes: one over halvings of the upper bound, the others inside the bracket that was found."""
STEPS = 7
"""Halvings of the interval where strengths cannot share a pass: 1/128 of it."""

Costs: TypeAlias = dict[str, float]


@runtime_checkable
class HasStrength(Protocol):
    """What has strengths: a `Defence`."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Strengths between which is searched."""

    @property
    def system(self) -> str | None:
        """System text, of a prompt defence."""

    def edit(self, strength: Any = None, *, modality: Any = "text") -> Edit | None:
        """The edit at a strength, or with one strength per row (row,)."""


Priceable: TypeAlias = HasStrength | Callable[[float], Edit]


@dataclass(frozen=True)
class Calibration(Shown):
    """A strength and what it costs.

    Attributes:
        strength: the calibrated one; the upper bound if even that costs less than the target, the lower one if every
            other costs more (then `kl` may exceed the target: a method that sets a coordinate changes the model at 0).
        kl: modality to mean KL at that strength, nats per prompt.
        n: modality to number of prompts.
        target_kl: what was asked for; None if the target was over-refusal.
        over_refusal: modality to the growth of the share of harmless prompts whose first token opens a refusal; empty
            where the refusal tokens were not given.
        target_over_refusal: what was asked for; None if the target was the KL.
        at_bound: whether the upper bound was still within budget: the method cannot be made to cost that much.
    """

    strength: float
    kl: dict[str, float]
    n: dict[str, int]
    target_kl: float | None
    over_refusal: dict[str, float]
    target_over_refusal: float | None = None
    at_bound: bool = False

    def finding(self) -> str:
        costs = ", ".join(f"{kl:.3f} nats in {m} (n = {self.n[m]})" for m, kl in self.kl.items())
        grown = ", ".join(f"{100 * share:+.0f} points in {m}" for m, share in self.over_refusal.items())
        return f"strength {self.strength:.3g} costs {costs}" + (f"; harmless refused {grown}" if grown else "")

    def caveats(self) -> Sequence[str]:
        free = ["the upper bound is still within the price: a larger strength was not tried."] * self.at_bound
        return [*free, f"priced on {', '.join(self.n)} only: elsewhere it may cost more."]

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per modality."""
        for m, n in self.n.items():
            yield {"modality": m, "n": n, "kl": self.kl[m], "over_refusal": self.over_refusal.get(m)}


def calibrate(
    defence: Priceable,
    model: Any,
    prompts: PromptSet,
    *,
    target_kl: float = 0.1,
    target_over_refusal: float | None = None,
    refusal_ids: Int[Tensor, " k"] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Calibration:
    """The largest strength whose cost stays within the target in every modality of the prompts.

    Args:
        defence: a `Defence` (many strengths run as rows of one batch), or a function from a strength to an edit, e.g.
            `direction.addition` (one pass per strength).
        model: a loaded model.
        prompts: harmless prompts (benign, near miss) of a split that is not the test split; any modalities.
        target_kl: nats per prompt.
        target_over_refusal: a share; takes the place of `target_kl`, and needs `refusal_ids`.
        refusal_ids: see `refusal_tokens`.
        bounds: strengths between which is searched; the defence's own by default, else 0 to 2.

    Raises:
        DirectionError: what has no strengths, such as a direction itself.
        PromptError: no prompts, harmful ones among them, a target that is not positive, or over-refusal without
            refusal tokens.
    """
    if not (isinstance(defence, HasStrength) or callable(defence)):
        found = f"a {type(defence).__name__} has no strengths"
        raise DirectionError("calibrate a strength", found, "give a defence, or direction.addition")
    prompts = PromptSet.of(prompts, "calibrate a strength").require(roles=(), asked="calibrate a strength")
    if any(p.role == "harmful" for p in prompts):
        raise PromptError(
            "calibrate a strength", "some prompts are harmful", "use harmless ones: strength is priced, not tuned"
        )
    if target_over_refusal is not None and refusal_ids is None:
        raise PromptError(
            "calibrate to an over-refusal", "no refusal tokens", "pass refusal_ids=refusal_tokens(...).ids"
        )
    target = target_kl if target_over_refusal is None else target_over_refusal
    if not target > 0:
        raise PromptError(f"calibrate to a cost of {target}", "it is not positive", "give e.g. target_kl=0.05")
    parts = {m: KLPrice(model, prompts.filter(modality=m), refusal_ids) for m in sorted({p.modality for p in prompts})}
    return price(defence, parts, target_kl, target_over_refusal, bounds)


def price(
    defence: Priceable,
    parts: "Mapping[Any, KLPrice]",
    target_kl: float,
    target_over_refusal: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> Calibration:
    """`calibrate` on prompts that were prepared before, so that many methods share the untouched run."""
    over = target_over_refusal is not None
    target = target_over_refusal if target_over_refusal is not None else target_kl
    low, high = bounds or (defence.bounds if isinstance(defence, HasStrength) else (0.0, 2.0))
    seen: dict[float, tuple[Costs, Costs]] = {}

    def look(strengths: Sequence[float]) -> list[float]:
        """The dearest modality of every strength, in the unit of the target."""
        new = [c for c in strengths if c not in seen]
        if new:
            found = {m: part.costs(defence, new) for m, part in parts.items()}
            for k, c in enumerate(new):
                seen[c] = ({m: found[m][k][0] for m in parts}, {m: found[m][k][1] for m in parts})
        return [_dearest(seen[c][1 if over else 0]) for c in strengths]

    if isinstance(defence, HasStrength):
        strength = first_too_dear(look, float(target), (low, high))
    else:
        strength = largest_within(lambda c: {"": look([c])[0]}, float(target), (low, high))[0]
    look([strength])  # the lower bound is taken to be free in the search, but a defence may cost something even there
    kl, refused = seen[strength]
    measured = all(part.refusal_ids is not None for part in parts.values())
    return Calibration(
        strength,
        kl,
        {m: part.n for m, part in parts.items()},
        None if over else target_kl,
        refused if measured else {},
        target_over_refusal,
        at_bound=strength == high,
    )


def _dearest(costs: Costs) -> float:
    """The largest; infinite where one is NaN: a broken model is not a cheap one."""
    return max(math.inf if math.isnan(cost) else cost for cost in costs.values())


def first_too_dear(
    look: Callable[[Sequence[float]], list[float]],
    target: float,
    bounds: tuple[float, float],
    *,
    rungs: int = RUNGS,
    rounds: int = ROUNDS,
) -> float:
    """The largest strength below the first one whose cost exceeds the target, many strengths to a pass.

    The first pass tries halvings of the upper bound, the next ones divide the bracket that was found.

    Args:
        look: cost of each of some strengths.
        target: largest allowed cost.
        bounds: strengths between which is searched; the lower one is taken to be free.
        rungs, rounds: strengths in a pass, and passes.
    """
    low, high = bounds
    ladder = [low + (high - low) / 2**k for k in reversed(range(rungs))]
    for _ in range(rounds):
        dear = [not cost <= target for cost in look(ladder)]
        if not any(dear):
            low = ladder[-1]
            if low == high:
                return high
        else:
            first = dear.index(True)
            low, high = (ladder[first - 1] if first else low), ladder[first]
        ladder = [low + (high - low) * k / (rungs + 1) for k in range(1, rungs + 1)]
    return low


def largest_within(
    cost: Callable[[float], dict[str, float]], target: float, bounds: tuple[float, float]
) -> tuple[float, dict[str, float]]:
    """The largest strength none of whose costs exceeds the target, and its costs, by bisection.

    Args:
        cost: named costs of a strength, each growing with it.
        target: largest allowed cost.
        bounds: strengths between which is searched; the lower one is taken to be free.
    """
    low, high = bounds
    found = cost(high)
    if max(found.values()) <= target:
        return high, found
    kept = cost(low)
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = cost(middle)
        if max(found.values()) <= target:
            low, kept = middle, found
        else:
            high = middle
    return low, kept


class KLPrice:
    """Harmless prompts of one modality with the model's untouched next-token distributions, ready to be priced.

    Args:
        model: a loaded model.
        prompts: of one modality.
        refusal_ids: for the over-refusal; None measures the KL alone.
        max_rows, token_budget: limits of one batch.
    """

    def __init__(
        self,
        model: Any,
        prompts: PromptSet,
        refusal_ids: Int[Tensor, " k"] | None = None,
        *,
        max_rows: int = 256,
        token_budget: int = 8192,
    ) -> None:
        self.model, self.refusal_ids = model, refusal_ids
        self.limits = {"max_rows": max_rows, "token_budget": token_budget}
        self.prompts = list(prompts)
        self.modality: Modality = self.prompts[0].modality
        self._encoded: dict[tuple[int, str | None], list[Item]] = {}
        none = torch.zeros(0, dtype=torch.long)
        encoded = Encoded(prompts, tuple(self._encoded_for(1, None)))
        plain = refusal_scores(model, encoded, none, keep_logits=True).logits
        assert plain is not None
        self.plain: Float[Tensor, "prompt vocab"] = plain

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    def costs(self, defence: Priceable, strengths: Sequence[float]) -> list[tuple[float, float]]:
        """Mean KL, and growth of first-token refusals, at each strength; NaN where the model breaks."""
        arms: Arms = (
            [defence(c) for c in strengths]
            if not isinstance(defence, HasStrength)
            else Strengths(lambda rows: defence.edit(rows, modality=self.modality), strengths)
        )
        system = defence.system if isinstance(defence, HasStrength) else None
        options: dict[str, Any] = {"reference": self.plain, "system": system, "lenient": True}
        work = self._encoded_for(len(strengths), system)
        found = score_arms(self.model, self.prompts, self.refusal_ids, arms, work=work, **options)
        grown = torch.zeros(len(strengths))
        if self.refusal_ids is not None:
            before = (refusal_score(self.plain, self.refusal_ids) > 0).float().mean()
            grown = (found.score > 0).float().mean(1) - before + 0 * found.kl.mean(1)  # NaN stays NaN
        return [(float(k), float(g)) for k, g in zip(found.kl.mean(1), grown, strict=True)]

    def _encoded_for(self, times: int, system: str | None) -> list[Item]:
        """The prompts `times` times over, encoded once and kept."""
        key = (times, system)
        if key not in self._encoded:
            self._encoded[key] = encode_arms(self.model, self.prompts, times, system=system, **self.limits)
        return self._encoded[key]
