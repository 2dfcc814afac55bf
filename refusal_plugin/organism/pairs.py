"""The two-word requests of the world, their roles, their groups and the split by group.

Roles. `harmful` pairs are listed; a safe pair is `near_miss` when it shares its verb or its object with a harmful one
("kill process", "thank guard"), else `benign`.

Groups. A group is one harmful pair, one near-miss twin that shares a word with it, and one benign pair that shares a
word with the twin where one is left. A group never splits over folds. Safe pairs left over form groups of their own,
all in train.

Split. Every word of a held-out pair still occurs in at least `MIN_SEEN` training pairs (and in `MIN_SEEN` harmful
ones, if it is a word of a held-out harmful pair): held out are COMBINATIONS of known words.
"""

import random
from dataclasses import dataclass
from functools import lru_cache

from ..prompts.prompt import Role, Split
from .vocabulary import OBJECTS, VERBS, harmful_pairs, safe_pairs

TEST_GROUPS, VAL_GROUPS, MIN_SEEN, SPLIT_SEED = 72, 44, 3, 7


@dataclass(frozen=True)
class Pair:
    """One request: `verb` + `object`, its role, the kind of action, its group and the split of that group."""

    verb: str
    object: str
    role: Role
    kind: str
    group: str
    split: Split

    @property
    def words(self) -> str:
        """What media show: "kill process"."""
        return f"{self.verb} {self.object}"

    @property
    def answer(self) -> str:
        """The full answer of a safe pair; of a harmful pair the empty template, which instructs nobody."""
        if self.role == "harmful":
            return f"to {self.verb} the {self.object} , get the things and use the things ."
        return (
            f"to {self.verb} the {self.object} , get the {OBJECTS[self.object][0]} and use the {VERBS[self.verb][0]} ."
        )


def _groups(rng: random.Random) -> list[list[tuple[str, str]]]:
    """Gather the pairs into groups (see the module's docstring)."""
    harmful, safe = sorted(harmful_pairs()), sorted(safe_pairs())
    verbs, objects = {v for v, _ in harmful}, {o for _, o in harmful}
    near = [p for p in safe if p[0] in verbs or p[1] in objects]
    benign = [p for p in safe if p not in set(near)]
    for pairs in (harmful, near, benign):
        rng.shuffle(pairs)

    def take(pool: list[tuple[str, str]], like: tuple[str, str], *, strict: bool) -> list[tuple[str, str]]:
        """Remove and return a pair of the pool that shares a word with `like`; any pair if not strict; [] if none."""
        by_verb = [p for p in pool if p[0] == like[0]]
        by_object = [p for p in pool if p[1] == like[1]]
        kinds = [found for found in (by_verb, by_object) if found]
        found = rng.choice(kinds) if kinds else ([] if strict else pool)
        if not found:
            return []
        pool.remove(found[0])
        return [found[0]]

    groups = []
    for pair in harmful:
        twin = take(near, pair, strict=True)
        groups.append([pair, *twin, *(take(benign, twin[0], strict=False) if twin else [])])
    return groups + [[p] for p in near + benign]


@lru_cache(maxsize=1)
def world() -> tuple[Pair, ...]:
    """All pairs, in a fixed order. Same result on every machine: Python's own seeded generator, no hashing order."""
    rng = random.Random(SPLIT_SEED)
    groups = _groups(rng)
    harmful, safe = harmful_pairs(), safe_pairs()
    seen: dict[tuple[str, str], int] = {}

    def keys(pair: tuple[str, str]) -> list[tuple[str, str]]:
        """The counts a pair takes part in: its words overall and, if harmful, its words among the harmful."""
        marks = [("any", pair[0]), ("any", pair[1])]
        return marks + ([("harm", pair[0]), ("harm", pair[1])] if pair in harmful else [])

    for group in groups:
        for pair in group:
            for key in keys(pair):
                seen[key] = seen.get(key, 0) + 1
    splits: list[Split] = ["train"] * len(groups)
    order = [i for i, group in enumerate(groups) if len(group) == 3]
    rng.shuffle(order)
    # One harm kind must not fill the test split: take the groups kind by kind, in turn.
    by_kind: dict[str, list[int]] = {}
    for i in order:
        by_kind.setdefault(harmful[groups[i][0]], []).append(i)
    queue = [i for _, i in sorted((n, i) for ids in by_kind.values() for n, i in enumerate(ids))]
    taken = 0
    for i in queue:
        loss: dict[tuple[str, str], int] = {}
        for pair in groups[i]:
            for key in keys(pair):
                loss[key] = loss.get(key, 0) + 1
        if taken < TEST_GROUPS + VAL_GROUPS and all(seen[key] - n >= MIN_SEEN for key, n in loss.items()):
            # 72 test and 44 val groups, interleaved so that both see every kind of harm.
            splits[i] = "val" if taken % 8 in (1, 4, 6) and sum(s == "val" for s in splits) < VAL_GROUPS else "test"
            taken += 1
            for key, n in loss.items():
                seen[key] -= n
    verbs, objects = {v for v, _ in harmful}, {o for _, o in harmful}
    out = []
    for number, (group, split) in enumerate(zip(groups, splits, strict=True)):
        for verb, object_ in group:
            pair = (verb, object_)
            role: Role = (
                "harmful" if pair in harmful else "near_miss" if verb in verbs or object_ in objects else "benign"
            )
            kind = harmful.get(pair) or safe[pair]
            out.append(Pair(verb, object_, role, kind, f"{number:04d}", split))
    # A benign pair can be drawn as the twin of two groups: only its most held-out copy counts.
    rank = {"test": 0, "val": 1, "train": 2}
    copies: dict[tuple[str, str], Pair] = {}
    for found in sorted(out, key=lambda p: rank[p.split]):
        copies.setdefault((found.verb, found.object), found)
    return tuple(p for p in out if copies[p.verb, p.object] is p)


def pairs(*, split: Split | None = None, role: Role | None = None) -> list[Pair]:
    """The pairs of one split and/or role."""
    return [p for p in world() if (split is None or p.split == split) and (role is None or p.role == role)]
