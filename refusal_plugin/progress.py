"""Progress bars for long work: shown in a terminal or a notebook, silent in pipes, tests and when asked to be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeAlias

Progress: TypeAlias = bool | None
"""None: a bar where somebody can see it. True: always. False: never."""

_depth = 0


@contextmanager
def track(total: int, label: str, progress: Progress = None) -> Iterator[Callable[[int], None]]:
    """A bar over `total` units of work.

    Args:
        total: units in all.
        label: what is being counted ("residuals").
        progress: see `Progress`. A bar inside another bar's work stays silent.

    Yields:
        a function that advances the bar by n units.
    """
    global _depth
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    # In a notebook rich draws through ipywidgets; without them it would print a warning per refresh.
    drawable = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    visible = drawable if progress is None else progress
    if not visible or _depth:
        yield lambda _n: None
        return
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    _depth += 1
    try:
        with Bar(*columns, console=console, transient=False) as bar:
            task = bar.add_task(label, total=total)
            yield lambda n: bar.advance(task, n)
    finally:
        _depth -= 1
