"""How long work tells where it is: a bar where somebody looks, lines with the time in a log, nothing when asked.

bars    in a terminal or a notebook
lines   when `speak("lines")` was said (the command does where stderr is no terminal): a line as work begins and
        ends, and every 30 seconds how much is done, how much is left and for how long
quiet   in a library, a pipe, a test
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

Progress: TypeAlias = bool | None
"""None: a bar where somebody can see it. True: always. False: never."""

Voice: TypeAlias = Literal["bars", "lines", "quiet"]

HEARTBEAT = 30.0
"""Seconds between two lines about the same work."""


@dataclass
class _Work:
    """Something that is being counted."""

    label: str
    total: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        said = f"{self.label}: {self.done} of {self.total} done, {self.total - self.done} left"
        if not 0 < self.done < self.total:
            return said
        rest = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        return f"{said}, about {duration(rest)}"


_voice: Voice = "bars"
_works: list[_Work] = []
_drawn = False


def speak(voice: Voice) -> None:
    """Choose how work tells of itself in this process."""
    global _voice
    _voice = voice


def say(text: str) -> None:
    """One line with the time on stderr, where lines are wanted."""
    if _voice == "lines":
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def track(total: int, label: str, progress: Progress = None) -> Iterator[Callable[[int], None]]:
    """Tell of `total` units of work.

    Args:
        total: units in all.
        label: what is being counted ("residuals").
        progress: see `Progress`. Work inside other work draws no bar and begins no line; a heartbeat names it.

    Yields:
        a function that says that n more units are done.
    """
    work = _Work(label, total)
    show = _lines if _voice == "lines" and progress is not False else _bar
    outermost = not _works
    _works.append(work)
    try:
        with show(work, outermost, progress) as advance:

            def done(n: int) -> None:
                work.done += n
                advance(n)

            yield done
    finally:
        _works.remove(work)


@contextmanager
def _lines(work: _Work, outermost: bool, _progress: Progress) -> Iterator[Callable[[int], None]]:
    if not outermost:
        yield lambda _n: None
        return
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            inner = _works[-1:] if len(_works) > 1 else []
            say("; now ".join(str(one) for one in [work, *inner]))

    say(f"{work.label}: begins, {work.total} steps")
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield lambda _n: None
        say(f"{work.label}: done in {duration(time.monotonic() - work.began)}")
    finally:
        over.set()


@contextmanager
def _bar(work: _Work, _outermost: bool, progress: Progress) -> Iterator[Callable[[int], None]]:
    global _drawn
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    # In a notebook rich draws through ipywidgets; without them it would print a warning per refresh.
    drawable = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    visible = (drawable and _voice == "bars") if progress is None else progress
    if not visible or _drawn:
        yield lambda _n: None
        return
    columns: tuple[Any, ...] = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
    _drawn = True
    try:
        with Bar(*columns, TimeRemainingColumn(), console=console, transient=False) as bar:
            task = bar.add_task(work.label, total=work.total)
            yield lambda n: bar.advance(task, n)
    finally:
        _drawn = False
