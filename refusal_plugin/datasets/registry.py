"""What is known of public data sets, one table a set in `registry.toml`, as dataclasses.

A set has parts (a configuration and split of a hub repository, or a file) and views (the prompts that are made of one
row). Wherever a view names data it is a template:

    {Goal}       the column Goal, put in as it is: its text is never read as a template
    {turns.0}    the first element of the column turns
    {file.stem}  a file name without its ending
    {@config} {@part} {@media} {@row}   the part's configuration, name and media folder, and the number of the row

Nothing of a set is in the registry but its facts. What was not checked against the set itself is named in `unverified`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from ..errors import DataError

Gate: TypeAlias = Literal["open", "gated", "form", "unknown"]
Rows: TypeAlias = Mapping[str, list[Any]]
"""Column to the values that are meant; compared as strings, since ids are numbers in one file and text in the next."""


@dataclass(frozen=True)
class Part:
    """Rows that are read together.

    Attributes:
        name: what `split=` calls it.
        configs: configurations of a hub repository; ("",) where it has none.
        split: their split.
        file: a file of the repository instead, CSV, JSON, JSON lines or Parquet.
        media: folder of the media, "{@media}" in a view.
        archive: zip or tar of the repository that holds them.
        role: of every prompt made of it, unless the view says another.
        usual: whether it is loaded when no part is named.
        keep, drop: the rows that are meant, by their columns.
    """

    name: str
    configs: tuple[str, ...] = ("",)
    split: str = "train"
    file: str = ""
    media: str = ""
    archive: str = ""
    role: str = ""
    usual: bool = True
    keep: Rows = field(default_factory=dict)
    drop: Rows = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """One prompt made of one row; every string but `name`, `role` and `column` is a template.

    Attributes:
        text, image, video, audio: of the prompt.
        content: what the medium says, where the row tells (`Prompt.read_answer`).
        mask: what is replaced in the text, and by what, where the picture says it instead.
        role: of the prompt; empty: by `column` and `roles`, else that of the part.
        column: the column that decides the role.
        roles: its values to roles.
        parts: names of the parts it is made for; all by default.
        needs: columns without which a row has no such prompt; every other column must be there.
        name: told in the id, where a row has several views.
    """

    text: str
    image: str = ""
    video: str = ""
    audio: str = ""
    content: str = ""
    mask: tuple[str, ...] = ()
    role: str = ""
    column: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Dataset:
    """One public data set.

    Attributes:
        name: of the registry.
        title, modality, licence, gate, size, citation: facts, in words.
        hub, github: the repository that publishes it; neither: only a local copy can be read.
        revision: the commit that the facts belong to; empty: not pinned, its newest state is loaded.
        columns: the columns it is known to have.
        warning: what a user must know before using it.
        unverified: the facts that were not checked against the set itself.
        explode: a column of lists: every element is a row of its own, its keys beside the row's columns.
        pair: template of the pair; the row by default.
        meta: columns that are kept in `Prompt.meta`.
        parts, views: how it is read; without a view it is listed, and cannot be loaded.
    """

    name: str
    title: str
    modality: tuple[str, ...]
    licence: str
    gate: Gate
    size: str
    citation: str
    hub: str = ""
    github: str = ""
    revision: str = ""
    columns: tuple[str, ...] = ()
    warning: str = ""
    unverified: tuple[str, ...] = ()
    explode: str = ""
    pair: str = ""
    meta: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    views: tuple[View, ...] = ()

    @property
    def source(self) -> str:
        """Where it is published, in words."""
        return self.hub or (f"github.com/{self.github}" if self.github else "a local copy only")


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


@cache
def registered() -> dict[str, Dataset]:
    """Every set of the registry by its name."""
    raw = tomllib.loads((files(__package__) / "registry.toml").read_text(encoding="utf-8"))
    found = {}
    for name, entry in raw.items():
        facts = _tuples(entry)
        parts = tuple(Part(**_tuples(part)) for part in facts.pop("parts", ()))
        views = tuple(View(**_tuples(view)) for view in facts.pop("views", ()))
        found[name] = Dataset(name=name, parts=parts, views=views, **facts)
    return found


def dataset(name: str) -> Dataset:
    """One set of the registry.

    Raises:
        DataError: there is none of that name.
    """
    known = registered()
    if name not in known:
        near = get_close_matches(name.lower(), known, n=3)
        do = f"use {' or '.join(near)}" if near else "`refusal-plugin datasets` lists them"
        raise DataError(f"data set {name!r}", "no such name in the registry", do)
    return known[name]
