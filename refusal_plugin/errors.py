"""Errors of this package: one line that says what was asked, what was found and what to do.

Every error a user can cause derives from `RefusalPluginError`, so that the command line prints its one line and exits
with code 2, and a notebook can catch all of them by one name.
"""


class RefusalPluginError(ValueError):
    """Something the user asked for cannot be done.

    Args:
        asked: what was asked for, in the user's own words ("load 'organism-x'").
        found: what was found instead ("no folder and no embedded model of that name").
        do: what to do about it ("use one of organism, organism-hard, organism-control").
    """

    def __init__(self, asked: str, found: str, do: str) -> None:
        self.asked, self.found, self.do = asked, found, do
        super().__init__(f"{asked}: {found}. {do}.")


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
