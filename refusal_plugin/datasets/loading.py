"""Loading: which parts of which set, from where, and what is told and kept of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..prompts import Prompt, PromptSet
from .places import Place
from .prompts import Drawn, drawn
from .registry import Dataset, Part, dataset, registered
from .tables import Table, read_file, read_hub

_TOLD: set[str] = set()


def load(
    name: str | Dataset,
    *,
    split: str | Iterable[str] | None = None,
    limit: int | None = None,
    path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    seed: int | None = None,
) -> PromptSet:
    """A public data set as prompts.

    The licence and the warning of a set are told once a process, as a Python warning.

    Args:
        name: of the registry (`refusal-plugin datasets` lists them), or an entry of your own.
        split: name of a part, or several; the usual parts by default.
        limit: at most this many prompts, balanced over modality and role, whole pairs first; media are fetched for
            these alone.
        path: a local copy: a folder with the layout of the set's repository, or, for one part, a file.
        revision: another commit than the registry's.
        seed: of the draw under `limit`; None takes the first.

    Returns:
        prompts with roles and pairs and without splits (`PromptSet.assigned` draws them, pairs together); `meta` names
        the set, its part and its revision.

    Raises:
        DataError: no such set or part, a column is gone, or the files cannot be read or fetched.
        OptionalDependencyError: a hub table or a Parquet file, and `datasets` is not installed.
    """
    entry = dataset(name) if isinstance(name, str) else name
    asked = f"load {entry.name!r}"
    if not entry.views:
        found = f"its columns are not known here ({', '.join(entry.unverified) or 'see the entry'})"
        raise DataError(asked, found, "write its prompts as JSONL (docs/schema.md)")
    if path is None and not (entry.hub or entry.github):
        raise DataError(asked, "it can be fetched from nowhere", "get a copy from its authors and pass it as path=")
    base = None if path is None else Path(path)
    if base is not None and not base.exists():
        raise DataError(f"{asked} from {base}", "no such file or folder", "check the path")
    parts = chosen(entry, split)
    if base is not None and base.is_file() and len(parts) > 1:
        found = f"it has the parts {', '.join(part.name for part in parts)}, and {base.name} is one file"
        raise DataError(asked, found, "say which part it is with split=")
    state = entry.revision if revision is None else revision
    tell(entry, state, base)
    folder = base.parent if base is not None and base.is_file() else base
    place = Place(entry, folder, state)
    origin = {"dataset": entry.name, "revision": "local copy" if base is not None else state or "not pinned"}
    found_: list[Drawn] = []
    for part in parts:
        for config in part.configs:
            table = _table(place, part, config, base, asked)
            found_ += drawn(entry, part, config, table, origin)
    prompts = PromptSet(joined(one.prompt for one in found_))
    if limit is not None:
        prompts = prompts.limit(limit, seed)
    by_id = {one.prompt.id: one for one in found_}
    return PromptSet(by_id[prompt.id].whole(place).replace(pair=prompt.pair) for prompt in prompts)


def _table(place: Place, part: Part, config: str, base: Path | None, asked: str) -> Table:
    if base is not None and base.is_file():
        return read_file(base)
    if part.file:
        return read_file(place.file(part.file))
    if base is not None:
        return read_hub(str(base), config, part.split, None, asked)
    return read_hub(place.entry.hub, config, part.split, place.revision or None, asked)


def chosen(entry: Dataset, split: str | Iterable[str] | None) -> list[Part]:
    """The parts that are asked for, in the registry's order.

    Raises:
        DataError: there is no part of that name.
    """
    known = {part.name: part for part in entry.parts}
    if split is None:
        return [part for part in entry.parts if part.usual]
    names = {split} if isinstance(split, str) else set(split)
    for unknown in sorted(names - set(known)):
        raise DataError(f"load {entry.name!r}", f"no part {unknown!r}", f"use {', '.join(known)}")
    return [part for part in entry.parts if part.name in names]


def named_sets(spec: str) -> list[tuple[Dataset, str | None, str | None]]:
    """The set, the part and the local copy of each name in "jbb+figstep:tiny+strongreject=copies/strongreject".

    Raises:
        DataError: no such set or part.
    """
    found: list[tuple[Dataset, str | None, str | None]] = []
    for one in spec.split("+"):
        named, _, path = one.partition("=")
        name, _, part = named.strip().partition(":")
        entry = dataset(name)
        chosen(entry, part or None)
        found.append((entry, part or None, path or None))
    return found


def load_sets(spec: str, *, limit: int | None = None, seed: int | None = None) -> PromptSet:
    """Several sets as one: "jbb+xstest", "figstep:tiny+strongreject=copies/strongreject".

    Prompts that say the same in two sets become one pair, so that no text is fitted on in one set and tested on in
    another. A text prompt that stands twice with one role is kept once, and a warning says how many were not.

    Args:
        spec: sets joined by "+", each NAME, NAME:PART, and =PATH behind it for a local copy.
        limit: at most this many prompts of each set.
        seed: of the draw under `limit`.

    Raises:
        DataError, OptionalDependencyError: as `load`.
    """
    asked = named_sets(spec)
    # Every name is known to be right before the first set is fetched.
    found = [
        prompt for entry, part, path in asked for prompt in load(entry, split=part, path=path, limit=limit, seed=seed)
    ]
    kept: dict[Any, Prompt] = {}
    for prompt in joined(found):
        key = (_said(prompt), prompt.role) if prompt.modality == "text" else prompt.id
        kept.setdefault(key, prompt)
    if len(kept) < len(found):
        told = f"{spec}: {len(found) - len(kept)} of {len(found)} prompts repeat another one and are left out."
        warnings.warn(told, stacklevel=2)
    return PromptSet(kept.values())


def joined(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Prompts with those that say the same in one pair.

    What a prompt says is its text, or what its medium says where that is known; a text beside a medium of unknown
    content is no evidence ("What is this?").
    """
    prompts = list(prompts)
    home: dict[str, str] = {}
    first: dict[str, str] = {}

    def pair(name: str) -> str:
        while name in home:
            name = home[name]
        return name

    for prompt in prompts:
        if prompt.modality == "text" or prompt.read_answer:
            mine, other = pair(prompt.pair), pair(first.setdefault(_said(prompt), prompt.pair))
            if mine != other:
                home[mine] = other
    return [prompt.replace(pair=pair(prompt.pair)) for prompt in prompts]


def _said(prompt: Prompt) -> str:
    return " ".join((prompt.read_answer or prompt.text).casefold().split())


def tell(entry: Dataset, revision: str, base: Path | None) -> None:
    """The licence, the gate and the warning of a set, once a process."""
    if entry.name in _TOLD:
        return
    _TOLD.add(entry.name)
    pinned = base is not None or bool(revision)
    lines = [f"{entry.name}: {entry.title}; licence {entry.licence}, access {entry.gate}.", entry.warning]
    lines += [] if pinned else ["Its revision is not pinned: the newest state is loaded."]
    lines += [f"Not verified: {', '.join(entry.unverified)}."] if entry.unverified else []
    warnings.warn(" ".join(line for line in lines if line), stacklevel=3)


def provenance(prompts: Iterable[Prompt]) -> list[dict[str, Any]]:
    """Which registered sets prompts come from, for the results that rest on them.

    Returns:
        one record a set and revision: name, source, revision, licence, warning, parts, and how many prompts.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for prompt in prompts:
        meta: Mapping[str, Any] = prompt.meta
        entry = registered().get(str(meta.get("dataset")))
        if entry is not None:
            revision = str(meta.get("revision"))
            record = found.setdefault(
                (entry.name, revision),
                {
                    "name": entry.name,
                    "source": entry.source,
                    "revision": revision,
                    "licence": entry.licence,
                    "warning": entry.warning,
                    "parts": [],
                    "n": 0,
                },
            )
            record["n"] += 1
            if meta.get("part") not in record["parts"]:
                record["parts"].append(meta.get("part"))
    return list(found.values())
