"""Errors of this package: one line that says what was asked, what was found, what to do, and the code of the place.

Every error a user can cause derives from `RefusalPluginError`, so that the command line prints its one line and exits
with code 2, and a notebook can catch all of them by one name. The code leads to the page "Errors and what to do", which
is drawn from the source (docs/error_page.py) and names places by the same `place_code`.
"""

import hashlib
import sys
from typing import Any, TypeVar

PACKAGE = __name__.partition(".")[0]
Own = TypeVar("Own", bound="RefusalPluginError")


def place_code(module: str, function: str) -> str:
    """Code of a function that raises: "rp-" and five hexadecimal digits, the same while both names stay.

    Args:
        module: name of the module, "refusal_plugin.storage".
        function: name in its module, "Class.method" or "outer.inner"; comprehensions and lambdas count as their owner.
    """
    return "rp-" + hashlib.sha256(f"{module}:{function}".encode()).hexdigest()[:5]


class RefusalPluginError(ValueError):
    """Something the user asked for cannot be done.

    Attributes:
        code: the place in this package that made the error (`place_code`); "" for an error made elsewhere.

    Args:
        asked: what was asked for, in the user's own words ("load 'organism-x'").
        found: what was found instead ("no folder and no embedded model of that name").
        do: what to do about it ("use one of organism, organism-hard, organism-control").
    """

    code = ""

    # Not in __init__, which a subclass may call from its own: what calls __new__ is always the place itself.
    def __new__(cls: type[Own], *args: Any, **kwargs: Any) -> Own:
        error = super().__new__(cls, *args)
        frame = sys._getframe(1)
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == PACKAGE:
            names = frame.f_code.co_qualname.split(".")
            error.code = place_code(module, ".".join(name for name in names if not name.startswith("<")))
        return error

    def __init__(self, asked: str, found: str, do: str) -> None:
        self.asked, self.found, self.do = asked, found, do
        super().__init__(f"{asked}: {found}. {do}." + (f" ({self.code})" if self.code else ""))


class ModelError(RefusalPluginError):
    """The model cannot be loaded, or cannot serve what was asked of it."""


class PromptError(RefusalPluginError):
    """A prompt, or a set of prompts, is empty, malformed or unfit for the model."""


class MediaError(PromptError):
    """An image, a video or a sound cannot be read."""


class DataError(RefusalPluginError):
    """Activations or labels cannot be analysed: one class only, NaN, mismatched shapes."""


class DirectionError(RefusalPluginError):
    """A direction does not fit the model, the layer or the site it is used on."""


class StudyError(RefusalPluginError):
    """A study folder cannot be resumed or written."""


class OptionalDependencyError(RefusalPluginError):
    """A feature needs a package that is not installed."""
