"""The special tokens that a family asks for."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

_SPECIAL = re.compile(r"[\"'](<\|?[A-Za-z_][\w/.-]*\|?>|<\|[\w-]+\|>|</?\w+>|\[[A-Z_]+\])[\"']")


def special_tokens_of(kind: type) -> list[str]:
    """Strings in the source of a class's module that look like special tokens.

    The source is read from its file: where a package is missing, a class may be a stand-in and its module not imported.
    """
    found = find_spec(kind.__module__)
    source = Path(found.origin).read_text(encoding="utf-8") if found is not None and found.origin else ""
    return [token for token in dict.fromkeys(_SPECIAL.findall(source)) if token not in ("<s>", "</s>")][:160]
