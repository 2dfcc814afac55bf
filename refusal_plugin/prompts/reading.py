"""Files that hold media: whether they are there, what decoders raise on them, and the optional package PyAV."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import MediaError, OptionalDependencyError


def existing(medium: object, name: str, *, folder: bool = False) -> Path:
    """The path if such a file (or, if allowed, folder) exists; MediaError otherwise."""
    if not isinstance(medium, (str, os.PathLike)):
        raise MediaError(name, f"it is a {type(medium).__name__}", "give a file or the medium itself")
    path = Path(os.fsdecode(medium))
    try:
        found = path.is_file() or (folder and path.is_dir())
    except (OSError, ValueError):  # a name too long for the file system, or with a null byte
        found = False
    if not found:
        raise MediaError(f"{name} {str(path)[:200]!r}", "no such file", "check the path")
    return path


@contextmanager
def readable(asked: str, found: str, do: str) -> Iterator[None]:
    """Turns whatever a decoder raises on a corrupt file into one MediaError."""
    try:
        yield
    except (MediaError, OptionalDependencyError):
        raise
    except Exception as error:  # decoders raise nearly anything on corrupt input
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise MediaError(asked, f"{found} ({reason})", do) from error


def pyav(asked: str, otherwise: str) -> Any:
    """The optional package PyAV."""
    try:
        import av
    except ImportError:
        raise OptionalDependencyError(
            asked, "this needs the package 'av'", f"pip install 'refusal-plugin[audio]', {otherwise}"
        ) from None
    return av


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts names as people number them: frame2 before frame10, on every file system alike."""
    parts = re.split(r"([0-9]+)", portable(name))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def portable(name: str) -> str:
    """A file's name as every system spells it: macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)
