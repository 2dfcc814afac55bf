"""Rows of a data set: a split of a hub repository, or a CSV, JSON, JSON lines or Parquet file.

Media stay as they are stored (bytes or a path): nothing is decoded here, so no sound library is needed for a set of
sounds, and a row is only read whole when its medium is wanted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionalDependencyError


@dataclass(frozen=True)
class Table:
    """Rows by number.

    Attributes:
        columns: their columns.
        rows: a sequence of rows: a list, or a table of the library `datasets`.
        media: the columns that hold media as bytes; `light` leaves them out.
    """

    columns: tuple[str, ...]
    rows: Any
    media: tuple[str, ...] = ()

    def light(self) -> Iterator[dict[str, Any]]:
        """Every row without its media, in their place the name of the column."""
        rest = [name for name in self.columns if name not in self.media]
        rows = self.rows.select_columns(rest) if self.media and rest else self.rows
        for number in range(len(self.rows)):
            row = rows[number] if rest else {}
            yield {**row, **dict.fromkeys(self.media, "")}

    def at(self, number: int) -> Mapping[str, Any]:
        """One whole row."""
        row: Mapping[str, Any] = self.rows[number]
        return row


def read_file(path: Path) -> Table:
    """A table from a file, by its ending.

    Raises:
        DataError: it cannot be read as what its ending says.
        OptionalDependencyError: Parquet, and `datasets` is not installed.
    """
    asked = f"read {path}"
    if path.suffix.lower() in (".parquet", ".arrow"):
        return stored(library(asked).Dataset.from_parquet(str(path)))
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix.lower() == ".csv":
            return _listed(list(csv.DictReader(text.splitlines(keepends=True), strict=True)), asked)
        if path.suffix.lower() == ".json":
            found = json.loads(text)
            # A dict of rows by their id is a table as well; other sets wrap the list in one key.
            return _listed(list(found.values()) if isinstance(found, dict) else found, asked)
        return _listed([json.loads(line) for line in text.split("\n") if line.strip()], asked)
    except (OSError, ValueError, csv.Error) as error:
        why = " ".join(str(error).split())[:120]
        raise DataError(asked, f"it cannot be read ({why})", "check the copy") from None


def _listed(rows: Any, asked: str) -> Table:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(asked, "it is no list of rows", "check the copy")
    columns = dict.fromkeys(str(key) for row in rows for key in row)
    return Table(tuple(columns), rows)


def stored(table: Any) -> Table:
    """A table of the library, its media undecoded."""
    media = []
    for name, feature in table.features.items():
        if type(feature).__name__ in ("Image", "Audio", "Video"):
            table = table.cast_column(name, type(feature)(decode=False))
            media.append(name)
    return Table(tuple(table.column_names), table, tuple(media))


def read_hub(where: str, config: str, split: str, revision: str | None, asked: str) -> Table:
    """A split of a repository, or of a folder with its layout.

    Raises:
        DataError: there is none, it is gated, or the hub cannot be reached.
        OptionalDependencyError: `datasets` is not installed.
    """
    load = library(asked).load_dataset
    try:
        return stored(load(where, config or None, split=split, revision=revision))
    except Exception as error:  # the library raises nearly anything on a set that is not as asked
        why = " ".join(str(error).split())[:200] or type(error).__name__
        name = "/".join(word for word in (config, split) if word)
        raise DataError(
            asked, f"{where} gives no {name} ({why})", "accept its terms, or pass a copy as path="
        ) from None


def library(asked: str) -> Any:
    """The optional package `datasets`.

    Raises:
        OptionalDependencyError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        do = "pip install 'refusal-plugin[data]', or pass CSV or JSON files as path="
        raise OptionalDependencyError(asked, "this needs the package 'datasets'", do) from None
    return datasets
