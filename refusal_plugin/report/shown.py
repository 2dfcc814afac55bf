"""How a result shows itself: what was found and what limits it on one screen, a frame in a notebook, a table of rows.

A class says WHAT: its finding, its caveats, its rows, its pictures. HOW that looks is said here and nowhere else, and
no tensor is ever printed.
"""

import random
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

from ..errors import OptionalDependencyError

WIDTH = 120
"""Columns of a screen."""
CAVEATS = 4
"""Of a result in a terminal; the others are counted."""
ROWS = 8
"""Rows of a result without pictures in a notebook."""


class Shown:
    """A result that shows itself. What it says here is right for any dataclass; a class says better what it found."""

    __slots__ = ()

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if "__repr__" not in vars(cls):  # or a dataclass would write its own, which prints every tensor in full
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    def finding(self) -> str:
        """What was found, in a line or a few."""
        named: list[str] = [one.name for one in fields(self) if one.repr] if is_dataclass(self) else []
        return ", ".join(f"{name} {in_short(getattr(self, name))}" for name in named)

    def caveats(self) -> Sequence[str]:
        """What to know before quoting it: its warnings, unless a class says more."""
        return tuple(getattr(self, "warnings", ()))

    def records(self) -> Iterable[Mapping[str, Any]]:
        """Its rows, best first where there is an order; its numbers and words as one row unless a class says more."""
        named = {one.name: getattr(self, one.name) for one in fields(self)} if is_dataclass(self) else dict[str, Any]()
        yield {name: value for name, value in named.items() if isinstance(value, str | int | float)}

    def drawn(self) -> Sequence[str | None]:
        """Its pictures and tables in a notebook: the first rows, unless a class says more."""
        from .table import html_table

        rows = list(islice(self.records(), ROWS))
        heads = list(dict.fromkeys(name for row in rows for name in row))
        return [html_table(heads, [[row.get(name) for name in heads] for row in rows])]

    def to_frame(self) -> Any:
        """Its rows as a pandas DataFrame.

        Raises:
            OptionalDependencyError: pandas is not installed.
        """
        return _frame(self.records())

    def head(self, n: int = 5) -> Any:
        """The first n rows as a pandas DataFrame; raises as `to_frame`."""
        return _frame(islice(self.records(), n))

    def sample(self, n: int = 5, seed: int = 0) -> Any:
        """n rows drawn without repetition, in their order, as a pandas DataFrame; raises as `to_frame`."""
        rows = list(self.records())
        return _frame(rows[k] for k in sorted(random.Random(seed).sample(range(len(rows)), min(n, len(rows)))))

    def __repr__(self) -> str:
        name, found, known = type(self).__name__, self.finding(), list(self.caveats())
        lines = [f"{name}({found})"] if "\n" not in found else [name, *(f"  {line}" for line in found.splitlines())]
        notes = [f"note: {one}" for one in known[:CAVEATS]]
        notes += [f"note: {len(known) - CAVEATS} more, see .caveats()"] if len(known) > CAVEATS else []
        for note in notes:
            lines += textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="    ", max_lines=2)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from .table import frame

        title = f"{type(self).__name__}: {self.finding()}".replace("\n", "; ")
        return str(frame(title, *filter(None, self.drawn()), note=" ".join(self.caveats())))


def in_short(value: Any) -> str:
    """A value in a few characters: a tensor by its shape, what is long by its length."""
    if hasattr(value, "shape"):
        return f"{tuple(value.shape)}"
    if isinstance(value, Mapping):
        few = ", ".join(f"{key} {in_short(one)}" for key, one in value.items())
        return f"{{{few}}}" if len(few) <= 60 else f"{len(value)} entries"
    if isinstance(value, list | tuple | set | frozenset):
        few = ", ".join(map(in_short, value))
        return f"[{few}]" if len(few) <= 60 else f"{len(value)} items"
    if isinstance(value, float):
        return f"{value:.3g}"
    text = value if isinstance(value, str) else getattr(value, "__name__", None) or str(value)
    return textwrap.shorten(text, 60, placeholder="…") or "-"


def _frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        raise OptionalDependencyError("make a table", "pandas is not installed", "pip install pandas") from None
    return pandas.DataFrame([dict(row) for row in rows])
