"""One model, its prompts, and what a defence costs and does there; everything measured goes through checkpoints.

price     the strength at which the mean KL over the untouched answers to harmless VALIDATION prompts of a modality
          reaches the target
answers   to the TEST prompts of a modality, several strengths as rows of the same batches; the untouched answers are
          the drafts of all others
surprise  of the model as it is at those answers, see `inference.surprise`
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from ..directions.calibration import HARMLESS, ITEMS, TARGET_KL, TOKENS, KLPrice, price, untouched_answers
from ..inference.answers import Answer, decoded, generate_batches
from ..inference.drafts import answers_from_drafts
from ..inference.edits import Edit
from ..inference.loop import re_encoder
from ..inference.surprise import surprise
from ..models import anatomy
from ..models.provenance import versions
from ..prompts import EVERY_MODALITY, Modality, Prompt, PromptSet, batches
from ..prompts.batch import Batch
from ..prompts.prompt import ROLES, Role
from ..storage import Checkpoints
from .base import Defence
from .edit_size import edit_size
from .opened import opened

Facts = dict[str, Any]
EditOf: TypeAlias = Callable[[Sequence[int]], Edit | None]


@dataclass(frozen=True)
class Price:
    """What a defence costs at its matched strength, on harmless validation prompts of one modality.

    Attributes:
        strength: the matched one.
        kl: mean KL there, nats per answer.
        n: number of prompts.
        at_bound: whether the largest allowed strength still cost less than the target (or there is no strength).
        edit_norm: per layer, mean norm of the edit relative to the residual norm, on harmful validation prompts.
        edit_norm_harmless: the same on the harmless ones.
        by_token: mean KL of each token of the answer.
        looks: how often the model was looked at.
    """

    strength: float
    kl: float
    n: int
    at_bound: bool
    edit_norm: tuple[float, ...]
    edit_norm_harmless: tuple[float, ...]
    by_token: tuple[float, ...] = ()
    looks: int = 0


class DefenceRun:
    """A model with validation and test prompts.

    Args:
        model: a loaded model.
        prompts: with splits and roles; "val" prices, "test" is answered.
        checkpoints: where results go and come from.
        target_kl: the price, nats per answer.
        price_tokens: of each untouched answer that are priced, at most; 1 prices the first token alone.
        calibration_items: harmless validation prompts per modality that set the price, balanced over roles.
        max_new_tokens: longest answer.
        max_rows, token_budget: limits of one batch.
    """

    def __init__(
        self,
        model: Any,
        prompts: PromptSet,
        checkpoints: Checkpoints,
        *,
        target_kl: float = TARGET_KL,
        price_tokens: int = TOKENS,
        calibration_items: int = ITEMS,
        max_new_tokens: int = 128,
        max_rows: int = 128,
        token_budget: int = 8192,
    ) -> None:
        self.model, self.checkpoints, self.target_kl = model, checkpoints, target_kl
        self.max_new_tokens, self.price_tokens = max_new_tokens, price_tokens
        self.max_rows, self.token_budget, self.calibration_items = max_rows, token_budget, calibration_items
        facts = anatomy(model)
        self.base: Facts = {
            "weights": facts.revision if facts.remote else facts.weight_hash(),
            "template": facts.template_hash,
            "versions": versions(),
        }
        self.tests = {m: prompts.filter(split="test", modality=m) for m in EVERY_MODALITY if facts.takes(m)}
        self.val = prompts.filter(split="val")
        self._hashes: dict[tuple[str, ...], str] = {}
        self._priced: dict[str, KLPrice] = {}
        self.untouched: dict[str, Sequence[Answer]] = {}  # answers of the model as it is that are known already
        self._encoded: dict[tuple[str, int, str | None, tuple[str, ...]], list[tuple[list[int], Batch]]] = {}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities with harmful test prompts and harmless validation prompts."""
        return tuple(
            m for m, test in self.tests.items() if any(p.role == "harmful" for p in test) and len(self.harmless(m))
        )

    def harmless(self, modality: Modality) -> PromptSet:
        """The validation prompts that set the price: whole pairs first, balanced over roles."""
        found = self.val.filter(modality=modality, role=HARMLESS)
        return found.limit(self.calibration_items, seed=0) if len(found) else found

    def forget(self) -> None:
        """Drop encoded prompts: the next modality needs the memory."""
        self._priced.clear()
        self._encoded.clear()

    # -- price ---------------------------------------------------------------------------------------------------------
    def price(self, defence: Defence, modality: Modality) -> Price:
        """The matched strength of a defence on one modality."""
        harmless = self.harmless(modality)
        facts = {
            **self.base,
            "what": "price",
            "defence": digest(defence),
            "bounds": defence.bounds,
            "modality": modality,
            "prompts": self._hash(harmless),
            "target_kl": self.target_kl,
            "tokens": self.price_tokens,
        }
        return Price(**_tuples(self.checkpoints.get(facts, lambda: self._price(defence, modality, harmless))))

    def _price(self, defence: Defence, modality: Modality, harmless: PromptSet) -> Facts:
        part = self.part(modality)
        if defence.edit(modality=modality) is None:  # a prompt defence: it costs what it costs
            (cost,) = part.costs(defence, [defence.strength])
            strength, kl, bound, by_token, looks = defence.strength, cost.kl, True, list(cost.by_token), 1
            sizes = {name: [0.0] * anatomy(self.model).n_layers for name in ("harmful", "harmless")}
        else:
            found = price(defence, {modality: part}, self.target_kl)
            strength, kl, bound = found.strength, found.kl[modality], found.at_bound
            by_token, looks = found.by_token[modality], found.looks
            harmful = self.val.filter(modality=modality, role="harmful")
            edit = defence.edit(strength, modality=modality)
            sizes = {
                name: edit_size(self.model, prompts.limit(12, seed=0), edit)
                if edit is not None and len(prompts)
                else []
                for name, prompts in (("harmful", harmful), ("harmless", harmless))
            }
        return {
            "strength": strength,
            "kl": kl,
            "n": part.n,
            "at_bound": bound,
            "edit_norm": sizes["harmful"],
            "edit_norm_harmless": sizes["harmless"],
            "by_token": by_token,
            "looks": looks,
        }

    def part(self, modality: Modality, refusal_ids: Int[Tensor, " k"] | None = None) -> KLPrice:
        """The prompts that set the price, with their untouched answers: generated and read once, kept until `forget`.

        Args:
            modality: of the prompts.
            refusal_ids: for their over-refusal, where they are read now; None measures the KL alone.
        """
        if modality in self._priced:
            return self._priced[modality]
        harmless, n = self.harmless(modality), self.price_tokens
        facts = {**self.base, "what": "untouched", "prompts": self._hash(harmless), "tokens": n}
        limits: dict[str, Any] = {"token_budget": self.token_budget}

        def work() -> list[list[int]]:
            return untouched_answers(self.model, harmless, n, **limits)

        answers = None if n == 1 else self.checkpoints.get(facts, work)
        made = self._priced[modality] = KLPrice(self.model, harmless, refusal_ids, tokens=n, answers=answers, **limits)
        return made

    # -- answers -------------------------------------------------------------------------------------------------------
    def answers(
        self,
        defence: Defence | None,
        modality: Modality,
        strengths: Sequence[float] = (1.0,),
        *,
        roles: Sequence[Role] = ROLES,
        gate_open: bool = False,
    ) -> list[list[Answer]]:
        """Greedy answers to the test prompts at each strength; None answers as the model is.

        Args:
            defence: None for the model as it is.
            modality: of the test prompts.
            strengths: one or several.
            roles: of the prompts that are answered.
            gate_open: whether whatever decides if a row is steered says yes to all, see `opened`.

        Returns:
            one list per strength, in the order of the test prompts.
        """
        test = self.tests[modality].filter(role=tuple(roles))
        times = 1 if defence is None else len(strengths)
        found: list[list[Answer | None]] = [[None] * len(test) for _ in range(times)]
        system = None if defence is None else defence.system
        told = {
            **self.base,
            "what": "answers",
            "defence": None if defence is None else digest(defence),
            "system": system,
            "modality": modality,
            "tokens": self.max_new_tokens,
            **({"gate": "open"} if gate_open else {}),
        }
        known = self.untouched.get(modality)
        if defence is None and known is not None:
            return [[answer for answer, p in zip(known, self.tests[modality], strict=True) if p.role in roles]]
        drafts = {} if defence is None else {a.prompt_id: a.ids for a in self.answers(None, modality)[0]}
        for rows, batch in self._batches(modality, times, system, tuple(roles)):
            per_row = [float(strengths[row // len(test)]) if defence is not None else 0.0 for row in rows]
            prompts = [test[row % len(test)] for row in rows]
            facts = {**told, "strengths": [f"{c:.8g}" for c in per_row], "prompts": self._hash(prompts)}

            def edit_of(some: Sequence[int], c: list[float] = per_row) -> Edit | None:
                edit = None if defence is None else defence.edit(torch.tensor([c[k] for k in some]), modality=modality)
                return opened(edit) if gate_open and edit is not None else edit

            def work(b: Batch = batch, edit_of: EditOf = edit_of) -> list[Any]:
                return self.answer_batch(b, edit_of, drafts, system)

            said = self.checkpoints.get(facts, work)
            for row, prompt, (text, ids, finished) in zip(rows, prompts, said, strict=True):
                found[row // len(test)][row % len(test)] = Answer(prompt.id, text, tuple(ids), finished)
        return [[answer for answer in one if answer is not None] for one in found]

    def surprise(self, modality: Modality, answers: Sequence[Sequence[Answer]]) -> list[list[float]]:
        """Nats per token of answers to test prompts under the model as it is; what several gave alike is read once."""
        wanted = sorted({(a.prompt_id, a.ids, a.finished) for some in answers for a in some})
        facts = {**self.base, "what": "surprise", "prompts": self._hash(self.tests[modality]), "answers": wanted}
        prompts = {p.id: p for p in self.tests[modality]}
        limits: dict[str, Any] = {"token_budget": self.token_budget, "max_rows": self.max_rows}

        def work() -> list[float]:
            read = [Answer(id, "", ids, finished) for id, ids, finished in wanted]
            return surprise(self.model, [prompts[a.prompt_id] for a in read], read, **limits)

        nats = dict(zip(wanted, self.checkpoints.get(facts, work), strict=True))
        return [[nats[a.prompt_id, a.ids, a.finished] for a in some] for some in answers]

    def answer_batch(
        self, batch: Batch, edit_of: EditOf, drafts: Mapping[str, Sequence[int]], system: str | None = None
    ) -> list[Any]:
        """Answers of one batch as JSON.

        Args:
            batch: the prompts.
            edit_of: the edit of some of its rows, by their places in the batch.
            drafts: by prompt what it may answer; none generates every answer.
            system: system text that the prompts were encoded with.
        """
        edit = edit_of(range(batch.size))
        if edit is not None:
            edit.check(anatomy(self.model))
        again = re_encoder(self.model, system=system)
        if drafts:
            own = [drafts[prompt.id] for prompt in batch.prompts]
            new = answers_from_drafts(self.model, batch, own, edit_of, self.max_new_tokens, again)
        else:
            (new,) = generate_batches(self.model, [(batch, edit)], self.max_new_tokens, again)
        said = [decoded(self.model, "", ids) for ids in new]
        return [[answer.text, list(answer.ids), answer.finished] for answer in said]

    def _batches(
        self, modality: Modality, times: int, system: str | None, roles: tuple[str, ...]
    ) -> list[tuple[list[int], Batch]]:
        key = (modality, times, system, roles)
        if key not in self._encoded:
            rows: list[Prompt] = list(self.tests[modality].filter(role=roles)) * times  # type: ignore[arg-type]
            made = batches(self.model, rows, token_budget=self.token_budget, max_rows=self.max_rows, system=system)
            self._encoded[key] = list(made)
        return self._encoded[key]

    def _hash(self, prompts: Iterable[Prompt]) -> str:
        """Content hash of prompts in order; those of a batch may repeat."""
        chosen = list(prompts)
        key = tuple(p.id for p in chosen)
        if key not in self._hashes:
            unique = PromptSet({p.id: p for p in chosen}.values())
            order = {p.id: k for k, p in enumerate(unique)}
            self._hashes[key] = unique.hash + json.dumps([order[p.id] for p in chosen])
        return self._hashes[key]


def digest(defence: Defence) -> str:
    """Hash of everything a defence does: its kind, tensors and switches, but not its name, strength or history."""
    total = hashlib.sha256(type(defence).__name__.encode())
    for one in fields(defence):
        if one.name in ("name", "strength", "bounds", "provenance"):
            continue
        total.update(one.name.encode() + _bytes(getattr(defence, one.name)))
    return total.hexdigest()[:20]


def _bytes(value: Any) -> bytes:
    if isinstance(value, Tensor):
        return str(tuple(value.shape)).encode() + value.detach().cpu().contiguous().numpy().tobytes()
    if isinstance(value, Mapping):
        return b"".join(str(key).encode() + _bytes(inner) for key, inner in sorted(value.items()))
    return json.dumps(value, sort_keys=True, default=str).encode()


def _tuples(record: Facts) -> Facts:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
