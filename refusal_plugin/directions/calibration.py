"""The strength of a defence from what it costs on harmless prompts, never from what it gains on harmful ones.

    price(c) = mean over prompts of  sum_{t <= K}  KL( untouched || defended )  of token t
    c*       = the largest strength up to which the price stays <= target_kl, in every modality of the prompts

The tokens are those of the model's own untouched answer y (greedy, K = 32 at most, its end included): prompt and y
run in one pass, so that nothing is generated for a price, and what is paid behind the first word is seen. `tokens=1`
prices the first token alone. With `target_over_refusal` the share of harmless prompts whose first token opens a refusal
takes the place of the KL. Strengths are searched as in `strength`; methods are then compared at equal cost, not at
equal alpha.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DirectionError, ModelError, PromptError
from ..inference.answer_logits import answer_logits, rows_at_once
from ..inference.answers import generate
from ..inference.arms import Arms, Strengths, edit_of_rows, encode_arms
from ..inference.edits import Edit
from ..inference.loop import Item, re_encoder
from ..inference.prefix import Stems
from ..models import anatomy
from ..prompts import Modality, PromptSet, Role
from ..report.shown import Shown
from ..traced.measure import kl_divergence, refusal_score
from .direction import Direction
from .strength import largest_strength

TARGET_KL = 0.1
"""The price everywhere, nats per answer: an answer changes with a probability of 22 % at most (Pinsker)."""
TOKENS = 32
"""Tokens of the untouched answer that are priced."""
ITEMS = 64
"""Harmless prompts of each modality behind a price."""
HARMLESS: tuple[Role, ...] = ("benign", "near_miss")
AGREES = 0.95
"""Share of its own answer that a model must predict when it reads it, or reading it says nothing about writing it."""


@dataclass(frozen=True)
class Cost:
    """Of one strength on some prompts.

    Attributes:
        by_token: mean KL of every token of the answer, nats per prompt; a token that an answer does not have costs 0.
        refused: growth of the share of prompts whose first token opens a refusal; 0 without refusal tokens.
    """

    by_token: tuple[float, ...]
    refused: float

    @property
    def kl(self) -> float:
        """Nats per answer; infinite where the model broke: a broken model is not a cheap one."""
        total = math.fsum(self.by_token)
        return total if math.isfinite(total) else math.inf


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
        kl: modality to mean KL at that strength, nats per answer.
        n: modality to number of prompts.
        target_kl: what was asked for; None if the target was over-refusal.
        over_refusal: modality to the growth of the share of harmless prompts whose first token opens a refusal; empty
            where the refusal tokens were not given.
        target_over_refusal: what was asked for; None if the target was the KL.
        at_bound: whether the upper bound was still within budget: the method cannot be made to cost that much.
        tokens: of each answer that were priced, at most.
        by_token: modality to the mean KL of each token.
        looks: how often the model was looked at.
    """

    strength: float
    kl: dict[str, float]
    n: dict[str, int]
    target_kl: float | None
    over_refusal: dict[str, float]
    target_over_refusal: float | None = None
    at_bound: bool = False
    tokens: int = TOKENS
    by_token: dict[str, list[float]] = field(default_factory=dict)
    looks: int = 0

    def finding(self) -> str:
        unit = "nats of the first token" if self.tokens == 1 else "nats an answer"
        costs = ", ".join(f"{kl:.3f} {unit} in {m} (n = {self.n[m]})" for m, kl in self.kl.items())
        grown = ", ".join(f"{100 * share:+.0f} points in {m}" for m, share in self.over_refusal.items())
        return f"strength {self.strength:.3g} costs {costs}" + (f"; harmless refused {grown}" if grown else "")

    def put_on(self, direction: Direction) -> Direction:
        """The direction at this strength, which carries from then on what it costs."""
        record = {"target_kl": self.target_kl, "tokens": self.tokens, "kl": self.kl}
        return replace(direction, strength=self.strength, price=record)

    def caveats(self) -> Sequence[str]:
        free = ["the upper bound is still within the price: a larger strength was not tried."] * self.at_bound
        blind = ["the first token alone is priced: what breaks behind it is free."] * (self.tokens == 1)
        return [*free, *blind, f"priced on {', '.join(self.n)} only: elsewhere it may cost more."]

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per modality."""
        for m, n in self.n.items():
            yield {"modality": m, "n": n, "kl": self.kl[m], "over_refusal": self.over_refusal.get(m)}


def calibrate(
    defence: Priceable,
    model: Any,
    prompts: PromptSet,
    *,
    target_kl: float = TARGET_KL,
    target_over_refusal: float | None = None,
    refusal_ids: Int[Tensor, " k"] | None = None,
    bounds: tuple[float, float] | None = None,
    tokens: int = TOKENS,
) -> Calibration:
    """The largest strength whose cost stays within the target in every modality of the prompts.

    Args:
        defence: a `Defence`, or a function from a strength to an edit, e.g. `direction.addition`.
        model: a loaded model.
        prompts: harmless prompts (benign, near miss) of a split that is not the test split; any modalities.
        target_kl: nats per answer.
        target_over_refusal: a share; takes the place of `target_kl`, and needs `refusal_ids`.
        refusal_ids: see `refusal_tokens`.
        bounds: strengths between which is searched; the defence's own by default, else 0 to 2.
        tokens: of the model's own answer that are priced, at most; 1 prices the first token alone.

    Raises:
        DirectionError: what has no strengths, such as a direction itself.
        PromptError: no prompts, harmful ones among them, a target or a number of tokens that is not positive, or
            over-refusal without refusal tokens.
        ModelError: the model does not predict its own answers when it reads them.
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
    kinds = sorted({p.modality for p in prompts})
    parts = {m: KLPrice(model, prompts.filter(modality=m), refusal_ids, tokens=tokens) for m in kinds}
    return price(defence, parts, target_kl, target_over_refusal, bounds)


def at_price(direction: Direction, model: Any, prompts: PromptSet, **options: Any) -> Direction:
    """A direction at the largest strength of its addition that stays within the price, which it carries from then on.

    Args:
        direction: whose addition is priced.
        model: a loaded model.
        prompts: of a split that is not the test split, in every modality in which the strength will be used; the
            harmless ones among them are asked, 64 of each modality at most (`harmless_items`).
        options: of `calibrate`.

    Raises:
        PromptError, ModelError: as `calibrate`.
    """
    return calibrate(direction.addition, model, harmless_items(prompts), **options).put_on(direction)


def harmless_items(prompts: PromptSet, most: int = ITEMS) -> PromptSet:
    """The prompts behind a price: harmless ones, at most so many of each modality, balanced over roles.

    Raises:
        PromptError: none is harmless.
    """
    found = prompts.filter(role=HARMLESS).require(roles=(), asked="price a strength")
    kinds = dict.fromkeys(p.modality for p in found)
    return PromptSet(p for m in kinds for p in found.filter(modality=m).limit(most, seed=0))


def price(
    defence: Priceable,
    parts: "Mapping[Any, KLPrice]",
    target_kl: float,
    target_over_refusal: float | None = None,
    bounds: tuple[float, float] | None = None,
) -> Calibration:
    """`calibrate` on prompts that were prepared before, so that many methods share the untouched answers."""
    over = target_over_refusal is not None
    target = target_over_refusal if target_over_refusal is not None else target_kl
    low, high = bounds or (defence.bounds if isinstance(defence, HasStrength) else (0.0, 2.0))
    seen: dict[float, dict[Any, Cost]] = {}

    def look(strengths: Sequence[float]) -> list[float]:
        """The dearest modality of every strength, in the unit of the target."""
        found = {m: part.costs(defence, strengths) for m, part in parts.items()}
        for k, c in enumerate(strengths):
            seen[c] = {m: found[m][k] for m in parts}
        return [max(one.refused if over else one.kl for one in seen[c].values()) for c in strengths]

    strength, looks = largest_strength(look, float(target), (low, high))
    if strength not in seen:  # the lower bound is taken to be free in the search, but may cost something even there
        look([strength])
    found = seen[strength]
    measured = all(part.refusal_ids is not None for part in parts.values())
    return Calibration(
        strength,
        {m: cost.kl for m, cost in found.items()},
        {m: part.n for m, part in parts.items()},
        None if over else target_kl,
        {m: cost.refused for m, cost in found.items()} if measured else {},
        target_over_refusal,
        at_bound=strength == high,
        tokens=max(part.tokens for part in parts.values()),
        by_token={m: list(cost.by_token) for m, cost in found.items()},
        looks=looks,
    )


class KLPrice:
    """Harmless prompts of one modality with the model's untouched answers, ready to be priced.

    Args:
        model: a loaded model.
        prompts: of one modality.
        refusal_ids: for the over-refusal; None measures the KL alone.
        tokens: of each answer that are priced, at most.
        answers: token ids of the untouched answers, without their ends (`untouched_answers`, which is asked where they
            are not given).
        max_rows, token_budget: limits of one batch.

    Raises:
        PromptError: fewer than 1 token.
        ModelError: the model does not predict its own answers when it reads them.
    """

    def __init__(
        self,
        model: Any,
        prompts: PromptSet,
        refusal_ids: Int[Tensor, " k"] | None = None,
        *,
        tokens: int = TOKENS,
        answers: Sequence[Sequence[int]] | None = None,
        max_rows: int = 256,
        token_budget: int = 8192,
    ) -> None:
        if tokens < 1:
            raise PromptError("price a strength", f"tokens = {tokens}", "give at least 1")
        self.model, self.refusal_ids, self.tokens = model, refusal_ids, tokens
        self.limits = {"max_rows": min(max_rows, rows_at_once(model, tokens)), "token_budget": token_budget}
        self.prompts = list(prompts)
        self.modality: Modality = self.prompts[0].modality
        self._encoded: dict[tuple[int, str | None], list[Item]] = {}
        self._stems: Stems = {}
        if tokens > 1 and answers is None:
            answers = untouched_answers(model, prompts, tokens, token_budget=token_budget)
        # Reading token t gives the prediction of token t + 1: the last one need not be read.
        self.answers = [list(ids[: tokens - 1]) for ids in answers or [[]] * len(self.prompts)]
        self.plain: list[Float[Tensor, "token vocab"]] = [torch.empty(0)] * len(self.prompts)
        for rows, logits in answer_logits(
            model, self._encoded_for(1, None), lambda row: self.answers[row], lambda _: None, re_encoder(model)
        ):
            for row, one in zip(rows, logits, strict=True):
                self.plain[row] = one[: len(self.answers[row]) + 1].float().cpu()
        self._require_own()

    @property
    def n(self) -> int:
        """Number of prompts."""
        return len(self.prompts)

    def costs(self, defence: Priceable, strengths: Sequence[float]) -> list[Cost]:
        """What each strength costs."""
        arms: Arms = (
            [defence(c) for c in strengths]
            if not isinstance(defence, HasStrength)
            else Strengths(lambda rows: defence.edit(rows, modality=self.modality), strengths)
        )
        system = defence.system if isinstance(defence, HasStrength) else None
        n, work = self.n, self._encoded_for(len(strengths), system)
        longest = max(len(one) for one in self.plain)
        kl, score = torch.zeros(len(strengths) * n, longest), torch.zeros(len(strengths) * n)
        for rows, logits in answer_logits(
            self.model,
            work,
            lambda row: self.answers[row % n],
            lambda rows: edit_of_rows(arms, [row // n for row in rows]),
            re_encoder(self.model, system=system),
            kept=self._stems if system is None else None,
        ):
            if self.refusal_ids is not None:
                score[rows] = refusal_score(logits[:, 0], self.refusal_ids).cpu()
            for row, one in zip(rows, logits, strict=True):
                plain = self.plain[row % n]
                kl[row, : len(plain)] = kl_divergence(one[: len(plain)], plain).cpu()
        by_token = kl.reshape(-1, n, longest).mean(1)
        grown = torch.zeros(len(strengths))
        if self.refusal_ids is not None:
            first = torch.stack([one[0] for one in self.plain])
            before = (refusal_score(first, self.refusal_ids) > 0).float().mean()
            grown = (score.reshape(-1, n) > 0).float().mean(1) - before
            grown[~by_token.isfinite().all(1)] = torch.inf
        return [Cost(tuple(one.tolist()), float(g)) for one, g in zip(by_token, grown, strict=True)]

    def _encoded_for(self, times: int, system: str | None) -> list[Item]:
        """The prompts `times` times over, encoded once and kept."""
        key = (times, system)
        if key not in self._encoded:
            self._encoded[key] = encode_arms(self.model, self.prompts, times, system=system, **self.limits)
        return self._encoded[key]

    def _require_own(self) -> None:
        """ModelError where reading an answer does not predict it: the passes are not those of generation."""
        pairs = [(one[:-1].argmax(-1), ids) for one, ids in zip(self.plain, self.answers, strict=True)]
        hits = [hit for found, ids in pairs for hit in (found == torch.tensor(ids)).tolist()]
        if hits and sum(hits) < AGREES * len(hits):
            raise ModelError(
                f"price whole answers of {anatomy(self.model).name}",
                f"it predicts {sum(hits)} of the {len(hits)} tokens of its own answers when it reads them",
                "price the first token: tokens=1",
            )


def untouched_answers(model: Any, prompts: PromptSet, tokens: int, *, token_budget: int = 8192) -> list[list[int]]:
    """The model's own answers, `tokens` long at most; without their end, which is predicted and not read."""
    said = generate(model, prompts, max_new_tokens=tokens, token_budget=token_budget, progress=False)
    return [list(answer.ids) for answer in said]
