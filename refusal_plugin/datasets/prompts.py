"""Rows of a data set as prompts, by the views and parts of its entry in the registry.

    row -> kept? -> exploded -> one prompt a view: text, role, pair, id; the medium by name
    chosen prompts -> their media as files

Media are fetched for the prompts that are wanted only. A column that is gone, a role that nobody mapped and a part
without a prompt are errors: a set that changed must not load as another set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..errors import DataError
from ..prompts import Prompt
from ..prompts.prompt import MEDIA, ROLES
from .places import Place
from .registry import Dataset, Part, Rows, View
from .tables import Table

FIELD = re.compile(r"\{([^{}]+)\}")
LONGEST = 60  # characters of a pair's name
ABSENT = object()
"""What a template gives where a column is not there."""


@dataclass(frozen=True)
class Drawn:
    """A prompt whose medium, if it has one, is not fetched yet.

    Attributes:
        prompt: with a medium that is only its name.
        view, part, table, row, config: where the medium comes from.
    """

    prompt: Prompt
    view: View
    part: Part
    table: Table
    row: int
    config: str

    def whole(self, place: Place) -> Prompt:
        """The prompt with its medium as a file.

        Raises:
            DataError: the file is not there or cannot be fetched.
        """
        kind = self.prompt.modality
        if kind == "text":
            return self.prompt
        row = {**self.table.at(self.row), **_known(self.part, self.config, self.row)}
        value = filled(getattr(self.view, kind), row)
        if value is ABSENT:
            found = f"row {self.row} of part {self.part.name!r} has no {kind}"
            raise DataError(f"load {place.entry.name!r}", found, "check the copy or revision")
        if isinstance(value, Mapping):  # as tables keep media: {"bytes", "path"}
            raw, path = value.get("bytes"), value.get("path")
            value = place.keep(raw, path) if raw else path
        if isinstance(value, bytes):
            value = place.keep(value, None)
        if isinstance(value, str):
            value = place.file(value, self.part.archive)
        return self.prompt.replace(**{kind: value})


def drawn(entry: Dataset, part: Part, config: str, table: Table, origin: Mapping[str, Any]) -> Iterator[Drawn]:
    """The prompts of one part and configuration, without their media.

    Args:
        entry, part, config: what is read.
        table: its rows.
        origin: kept in every prompt's `meta` beside the columns of `entry.meta`.

    Raises:
        DataError: a column is gone, a role is not mapped, or no prompt comes of it.
    """
    asked = f"load {entry.name!r}"
    views = [view for view in entry.views if not view.parts or part.name in view.parts]
    check_columns(entry, part, views, table)
    found = 0
    for number, row in enumerate(table.light()):
        if not _meant(row, part.keep, part.drop):
            continue
        for place, one in enumerate(_exploded(row, entry.explode)):
            one = {**one, **_known(part, config, number)}
            for view in views:
                prompt = _prompt(entry, part, view, one, f"{number}.{place}" if entry.explode else f"{number}", origin)
                if prompt is not None:
                    found += 1
                    yield Drawn(prompt, view, part, table, number, config)
    if not found:
        have = f"{len(table.rows)} rows with {', '.join(table.columns)[:160]} give no prompt"
        raise DataError(
            asked, f"part {part.name!r}: {have}", "it is not as the registry says: check the copy or revision"
        )


def check_columns(entry: Dataset, part: Part, views: list[View], table: Table) -> None:
    """Whether every column that is needed is there.

    Raises:
        DataError: names those that are gone, and those that are there.
    """
    needed: dict[str, None] = dict.fromkeys([entry.explode] if entry.explode else [])
    for view in views:
        templates = (view.text, view.content, *view.mask, *(getattr(view, kind) for kind in MEDIA))
        named = [name for text in templates for name in FIELD.findall(text)]
        named += [view.column] if view.column else []
        needed |= dict.fromkeys(name for name in named if name not in view.needs)
    needed |= dict.fromkeys([*FIELD.findall(entry.pair), *part.keep, *part.drop])
    gone = [name for name in needed if not name.startswith("@") and not _has(name, table, entry)]
    if gone:
        found = f"no column {' or '.join(repr(name) for name in gone)}; it has {', '.join(table.columns)[:200]}"
        do = "the set has changed: pass the pinned revision=, or a copy of it as path="
        raise DataError(f"load {entry.name!r}", found, do)


def filled(template: str, row: Mapping[str, Any]) -> Any:
    """A template with its columns put in; the column's own value where it is nothing but one column.

    Returns:
        ABSENT where a column is not there, None or blank.
    """
    whole = FIELD.fullmatch(template)
    if whole:
        value = _value(whole[1], row)
        return ABSENT if value is None or value == "" else value
    values = {name: _value(name, row) for name in FIELD.findall(template)}
    if any(value is None or value is ABSENT or value == "" for value in values.values()):
        return ABSENT
    return FIELD.sub(lambda match: str(values[match[1]]), template)


def _prompt(entry: Dataset, part: Part, view: View, row: Mapping[str, Any], at: str, origin: Any) -> Prompt | None:
    """One view of a row; None where the row lacks what the view needs."""
    text = filled(view.text, row)
    kinds = [kind for kind in MEDIA if getattr(view, kind)]
    if text is ABSENT or any(_value(name, row) in (None, ABSENT) for name in view.needs) or not str(text).strip():
        return None
    if view.mask:
        text = str(text).replace(str(filled(view.mask[0], row)), str(filled(view.mask[1], row)))
    named: dict[str, Any] = {kind: f"({kind} of row {at})" for kind in kinds}
    pair = filled(entry.pair, row) if entry.pair else ABSENT
    content = filled(view.content, row) if view.content else ABSENT
    key = "/".join(word for word in (part.name, row["@config"], at) if word)
    kept = {name: row[name] for name in entry.meta if row.get(name) not in (None, "")}
    return Prompt(
        text=str(text),
        **named,
        role=_role(entry, part, view, row),
        pair=f"{entry.name}:{key if pair is ABSENT else _short(str(pair))}",
        id=f"{entry.name}:{key}" + (f"#{view.name}" if view.name else ""),
        read_answer=None if content is ABSENT else str(content),
        meta={**origin, "part": part.name, **kept},
    )


def _short(pair: str) -> str:
    """The name of a pair; of one that is named by a whole request, a hash."""
    return pair if len(pair) <= LONGEST else hashlib.sha256(pair.encode()).hexdigest()[:12]


def _role(entry: Dataset, part: Part, view: View, row: Mapping[str, Any]) -> Any:
    if not view.column:
        return view.role or part.role or None
    value = str(_value(view.column, row))
    role = view.roles.get(value, "")
    if role not in ROLES:
        found = f"{view.column} is {value[:60]!r}, none of {', '.join(view.roles)}"
        raise DataError(f"load {entry.name!r}", found, "the set has changed: pass the pinned revision=")
    return role


def _known(part: Part, config: str, number: int) -> dict[str, Any]:
    return {"@part": part.name, "@config": config, "@media": part.media, "@row": number}


def _meant(row: Mapping[str, Any], keep: Rows, drop: Rows) -> bool:
    def among(wanted: Rows, name: str) -> bool:
        value = _value(name, row)
        return ("" if value is None else str(value)) in {str(one) for one in wanted[name]}

    return all(among(keep, name) for name in keep) and not any(among(drop, name) for name in drop)


def _exploded(row: Mapping[str, Any], column: str) -> Iterator[Mapping[str, Any]]:
    if not column:
        yield row
        return
    for element in row[column] or []:
        yield {**row, **element}


def _value(name: str, row: Mapping[str, Any]) -> Any:
    """A column, or what lies in it: "turns.0" is the first element of turns, "file.stem" a name without ending."""
    if name in row:
        return row[name]
    value: Any = row
    for step in name.split("."):
        if isinstance(value, str) and step == "stem":
            value = PurePosixPath(value).stem
            continue
        try:
            value = value[int(step)] if isinstance(value, list | tuple) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return ABSENT
    return value


def _has(name: str, table: Table, entry: Dataset) -> bool:
    if name in table.columns or name.split(".")[0] in table.columns:
        return True
    return bool(entry.explode) and any(name in element for element in table.at(0).get(entry.explode) or [])
