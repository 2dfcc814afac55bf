"""A set of prompts: an immutable sequence that can be filtered, counted, split and hashed."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ..errors import PromptError
from ..report.shown import Shown
from . import io
from .prompt import EVERY_MODALITY, ROLES, SPLITS, Modality, Prompt, Role, Split

if TYPE_CHECKING:
    from pathlib import Path

FRACTIONS: Mapping[Split, float] = {"train": 0.6, "val": 0.2, "test": 0.2}
"""How prompts that say no split are split."""
Field = Literal["modality", "role", "split", "pair", "wording"]


class PromptSet(Shown, Sequence[Prompt]):
    """An immutable sequence of prompts with unique ids, no pair of which is in two splits.

    Args:
        prompts: the prompts, kept in this order; a single prompt is a set of one.

    Raises:
        PromptError: two prompts share an id, prompts of one pair are in different splits, or an element is not a
            Prompt.
    """

    __slots__ = ("_hash", "_prompts")

    def __init__(self, prompts: Prompt | Iterable[Prompt] = ()) -> None:
        self._prompts = (prompts,) if isinstance(prompts, Prompt) else tuple(prompts)
        self._hash: str | None = None
        for prompt in self._prompts:
            if not isinstance(prompt, Prompt):
                raise PromptError("prompt set", f"an element is a {type(prompt).__name__}", "give Prompt objects")
        twice = [name for name, n in Counter(prompt.id for prompt in self._prompts).items() if n > 1]
        if twice:
            raise PromptError("prompt set", f"id {twice[0]!r} occurs more than once", "give every prompt its own id")
        home: dict[str, Split | None] = {}
        for prompt in self._prompts:
            if home.setdefault(prompt.pair, prompt.split) != prompt.split:
                found = f"pair {prompt.pair[:60]!r} is in {home[prompt.pair]} and in {prompt.split}"
                raise PromptError("prompt set", found, "keep a pair in one split, or its test figures mean nothing")

    @classmethod
    def of(cls, prompts: object, asked: str) -> PromptSet:
        """Prompts with roles as a set, a list of them included.

        Args:
            prompts: what was given.
            asked: what the prompts are for, the first words of the error.

        Raises:
            PromptError: bare texts, which have no roles, or something else in the place of the prompts.
        """
        if isinstance(prompts, PromptSet):
            return prompts
        given: list[Any] = list(prompts) if isinstance(prompts, list | tuple | Iterator) else [prompts]
        strange = [one for one in given if not isinstance(one, Prompt)]
        if strange:
            kind = f"a {type(strange[0]).__name__} in the place of a prompt"
            found = f"{strange[0][:40]!r} is a text without a role" if isinstance(strange[0], str) else kind
            do = "give PromptSet([Prompt(text, role='harmful'), Prompt(text, role='benign'), …])"
            raise PromptError(asked, found, do)
        return cls(given)

    # -- a sequence ---------------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self._prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> PromptSet: ...
    def __getitem__(self, index: int | slice | Sequence[int]) -> Prompt | PromptSet:
        """One prompt for an integer; a PromptSet for a slice or a list of integers."""
        if isinstance(index, slice):
            return PromptSet(self._prompts[index])
        if isinstance(index, Sequence):
            return PromptSet(self._prompts[i] for i in index)
        return self._prompts[index]

    def __add__(self, other: Iterable[Prompt]) -> PromptSet:
        return PromptSet((*self._prompts, *other))

    # -- choosing -----------------------------------------------------------------------------------------------------
    def where(self, keep: Callable[[Prompt], bool]) -> PromptSet:
        """The prompts for which `keep` returns True."""
        return PromptSet(prompt for prompt in self._prompts if keep(prompt))

    def filter(
        self,
        *,
        modality: Modality | Iterable[Modality] | None = None,
        role: Role | Iterable[Role] | None = None,
        split: Split | Iterable[Split] | None = None,
    ) -> PromptSet:
        """The prompts with this modality, role and split; each one value or several; None means any.

        Raises:
            PromptError: an unknown modality, role or split (a typing slip would otherwise give an empty set).
        """
        modalities = _allowed("modality", modality, EVERY_MODALITY)
        roles = _allowed("role", role, ROLES)
        splits = _allowed("split", split, SPLITS)
        return self.where(
            lambda prompt: (
                (modalities is None or prompt.modality in modalities)
                and (roles is None or prompt.role in roles)
                and (splits is None or prompt.split in splits)
            )
        )

    def limit(self, n: int, seed: int | None = None) -> PromptSet:
        """At most `n` prompts in all, balanced over split x modality x role, in the original order.

        Whole pair groups are taken as long as they fit the balance; what is left is filled with single prompts.

        Args:
            n: the largest number of prompts to keep, at least 1.
            seed: None takes the first groups in order; a number draws them at random, reproducibly.
        """
        if n < 1:
            raise PromptError(f"limit of {n} prompts", "fewer than 1", "give a positive number")
        if n >= len(self):
            return self
        room = _shares(n, Counter(map(_cell, self._prompts)))
        groups = list(self.groups().values())
        if seed is not None:
            random.Random(seed).shuffle(groups)
        kept: set[str] = set()
        # Whole groups first, then the members of the groups that did not fit as a whole.
        for candidates in (groups, [(prompt,) for group in groups for prompt in group]):
            for group in candidates:
                need = Counter(_cell(prompt) for prompt in group)
                if group[0].id not in kept and all(room[cell] >= count for cell, count in need.items()):
                    room.subtract(need)
                    kept.update(prompt.id for prompt in group)
        return self.where(lambda prompt: prompt.id in kept)

    def groups(self) -> dict[str, tuple[Prompt, ...]]:
        """The prompts of each pair group, in the order of first appearance."""
        groups: dict[str, list[Prompt]] = {}
        for prompt in self._prompts:
            groups.setdefault(prompt.pair, []).append(prompt)
        return {pair: tuple(members) for pair, members in groups.items()}

    def assigned(self, seed: int = 0) -> PromptSet:
        """Every prompt in a split: those that have none are drawn, whole pair groups at a time, by `split`.

        Args:
            seed: of the draw: 60 % of the groups to train, 20 % to val, 20 % to test.

        Returns:
            the set itself where every prompt has its split already.

        Raises:
            PromptError: too few pair groups without a split to draw from.
        """
        rest = self.where(lambda prompt: prompt.split is None)
        if not rest:
            return self
        drawn = {prompt.id: prompt for part in rest.split(FRACTIONS, seed).values() for prompt in part}
        return PromptSet(drawn.get(prompt.id, prompt) for prompt in self._prompts)

    def split(self, fractions: Mapping[Split, float], seed: int = 0) -> dict[Split, PromptSet]:
        """Assigns every prompt to a split, whole pair groups at a time, stratified by the groups' roles and modalities.

        The result depends on the pair names and the seed, not on the order of the prompts. Splits assigned before are
        overwritten.

        Args:
            fractions: share of the groups per split, e.g. {"train": .6, "val": .2, "test": .2}; the sum must be 1.
            seed: of the shuffle.

        Returns:
            one PromptSet per split, each prompt carrying its split.

        Raises:
            PromptError: fractions that are not shares, or fewer groups than a split needs to get one.
        """
        asked = f"split {dict(fractions)}"
        _allowed("split", fractions, SPLITS)
        if any(not 0 < share <= 1 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
            raise PromptError(
                asked, "the shares are not positive numbers that add up to 1", "e.g. train .6 val .2 test .2"
            )
        groups = sorted(self.groups().items())
        random.Random(seed).shuffle(groups)
        # Stable sort: the strata lie one after the other, each shuffled inside.
        groups.sort(key=lambda item: sorted({(str(prompt.role), prompt.modality) for prompt in item[1]}))
        # Every group goes where most is missing so far. Along the strata this keeps each of them, and the whole,
        # within one group of the shares asked for, however small a stratum is.
        members: dict[Split, list[str]] = {name: [] for name in fractions}
        for count, (pair, _) in enumerate(groups, start=1):
            name = max(fractions, key=lambda name: fractions[name] * count - len(members[name]))
            members[name].append(pair)
        empty = [name for name, pairs in members.items() if not pairs]
        if empty:
            raise PromptError(asked, f"{len(groups)} pair groups leave {empty[0]!r} empty", "give more pair groups")
        home = {pair: name for name, pairs in members.items() for pair in pairs}
        return {
            name: PromptSet(prompt.replace(split=name) for prompt in self._prompts if home[prompt.pair] == name)
            for name in fractions
        }

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that occur, text first, media alone before several kinds of them."""
        there = {prompt.modality for prompt in self._prompts}
        return tuple(modality for modality in EVERY_MODALITY if modality in there)

    # -- asking -------------------------------------------------------------------------------------------------------
    def require(
        self, *, roles: Iterable[Role] = ("harmful", "benign"), at_least: int = 1, asked: str = "prompt set"
    ) -> PromptSet:
        """Returns the set itself if it has at least `at_least` prompts of every role in `roles`.

        Args:
            roles: the roles needed; empty if any prompt will do.
            at_least: how many of each role (of all prompts if `roles` is empty).
            asked: what the prompts are for, the first words of the error.

        Raises:
            PromptError: no prompt at all, a role is missing (one class only), or too few of it.
        """
        if not self._prompts:
            raise PromptError(asked, "0 prompts", "give at least one, or check the filter")
        found = Counter(prompt.role for prompt in self._prompts)
        for role in roles:
            if found[role] < at_least:
                have = ", ".join(f"{n} {name or 'without role'}" for name, n in found.items())
                raise PromptError(asked, f"{found[role]} {role} prompts ({have})", f"give at least {at_least} {role}")
        if len(self) < at_least:
            raise PromptError(asked, f"{len(self)} prompts", f"give at least {at_least}")
        return self

    def counts(self, by: Sequence[Field] = ("split", "modality", "role")) -> Counter[tuple[str | None, ...]]:
        """How many prompts there are per combination of the fields in `by`, in the order of first appearance."""
        return Counter(tuple(getattr(prompt, name) for name in by) for prompt in self._prompts)

    @property
    def hash(self) -> str:
        """sha256 (hex) over every field of every prompt in order, media by their decoded content.

        A set and its copy written with `to_jsonl` have one hash, wherever they lie. Video files and compressed sounds
        count by their bytes.

        Raises:
            MediaError: a medium cannot be read.
        """
        if self._hash is None:
            from .media import digest

            total = hashlib.sha256()
            for prompt in self._prompts:
                known = [prompt.text, prompt.role, prompt.pair, prompt.split, prompt.id, prompt.answer]
                known += [prompt.read_text, prompt.read_answer, prompt.wording]
                meta = json.dumps(prompt.meta, sort_keys=True, default=_plain)
                beyond = prompt.beyond()
                said = [prompt.modality, *known, meta, *([json.dumps(beyond, sort_keys=True)] if beyond else [])]
                total.update(json.dumps(said).encode())
                total.update(digest(prompt).encode())
            self._hash = total.hexdigest()
        return self._hash

    # -- showing ------------------------------------------------------------------------------------------------------
    def finding(self) -> str:
        roles = ", ".join(f"{n} {role or 'without role'}" for (role,), n in self.counts(("role",)).items())
        kinds = ", ".join(str(kind) for (kind,) in self.counts(("modality",)))
        return f"{len(self)} prompts: {roles}; {kinds}" if self._prompts else "0 prompts"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per prompt, its medium left out."""
        for p in self._prompts:
            known = {"id": p.id, "modality": p.modality, "role": p.role, "split": p.split, "pair": p.pair}
            yield {**known, "text": p.text, "answer": p.answer}

    def drawn(self) -> Sequence[str]:
        """Counts (split and modality down, role across), then the first prompts."""
        from ..report.table import html_table

        counts = self.counts()
        roles = [role for role in (*ROLES, None) if any(key[2] == role for key in counts)]
        rows = list(dict.fromkeys((key[0], key[1]) for key in counts))
        table = [[s or "", m or "", *(counts[s, m, role] for role in roles)] for s, m in rows]
        first = [[p.id, p.modality, p.role or "", p.text[:80]] for p in self._prompts[:5]]
        heads = ["split", "modality", *(role or "without role" for role in roles)]
        return [html_table(heads, table), html_table(["id", "modality", "role", "text"], first, caption="The first.")]

    # -- files --------------------------------------------------------------------------------------------------------
    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> PromptSet:
        """Reads a folder, a CSV file (by its ending, in any case) or else a JSONL file."""
        return cls(io.read_path(path))

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> PromptSet:
        """Reads a JSONL file; see `refusal_plugin.prompts.io` for the schema and the errors."""
        return cls(io.read_jsonl(path))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> PromptSet:
        """Reads a CSV file; see `refusal_plugin.prompts.io` for the schema and the errors."""
        return cls(io.read_csv(path))

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, text: str | None = None) -> PromptSet:
        """Reads a folder with one sub-folder per role; see `refusal_plugin.prompts.io` for the layout."""
        return cls(io.read_folder(path, text=text))

    def to_jsonl(self, path: str | os.PathLike[str]) -> Path:
        """Writes a JSONL file, and media held in memory as files in a folder beside it."""
        return io.write_jsonl(self, path)


def _plain(value: object) -> object:
    """A value of `meta` that is no JSON, as something that is the same in every process."""
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else str(value)


def _allowed(what: str, values: str | Iterable[str] | None, known: tuple[str, ...]) -> set[str] | None:
    """`values` as a set, or None for any; PromptError if one of them is unknown."""
    if values is None:
        return None
    asked = {values} if isinstance(values, str) else set(values)
    for value in asked - set(known):
        raise PromptError(f"{what} {value!r}", f"no such {what}", f"use one of {', '.join(known)}")
    return asked


def _cell(prompt: Prompt) -> tuple[int, int, int]:
    """Where a prompt belongs in the balance: split, modality and role as numbers that sort in their natural order."""
    places: tuple[tuple[Sequence[Any], Any], ...] = (
        ((*SPLITS, None), prompt.split),
        (EVERY_MODALITY, prompt.modality),
        ((*ROLES, None), prompt.role),
    )
    return cast("tuple[int, int, int]", tuple(known.index(value) for known, value in places))


def _shares(n: int, available: Counter[tuple[int, int, int]]) -> Counter[tuple[int, int, int]]:
    """`n` places dealt out one by one in turn to the cells that still have prompts."""
    shares: Counter[tuple[int, int, int]] = Counter()
    while shares.total() < min(n, available.total()):
        for cell in sorted(available):
            if shares[cell] < available[cell] and shares.total() < n:
                shares[cell] += 1
    return shares
