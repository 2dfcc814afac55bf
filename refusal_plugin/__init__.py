"""refusal-plugin: where a multimodal model decides to refuse, and whether that decision survives image, video and
voice.

The public surface, one explicit list. Importing the package is cheap: every name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .activations import Activations, collect, collect_moments
    from .answers import Answer, generate
    from .calibration import Calibration, calibrate
    from .directions import Candidates, Direction, fit, load_direction
    from .edits import Edit, ablation, addition
    from .errors import (
        DataError,
        DirectionError,
        MediaError,
        ModelError,
        OptionalDependencyError,
        PromptError,
        RefusalPluginError,
        StudyError,
    )
    from .evaluation import PhraseJudge, compare_rates, outcomes, rates
    from .geometry import Moments
    from .models import Anatomy, anatomy, layers, load
    from .prompts import Batch, Prompt, PromptSet, batches, encode
    from .recipe_files import copy_recipe, recipe, recipes
    from .scores import Encoded, RefusalTokens, refusal_tokens, score
    from .selection import select
    from .statistics import Estimate

_WHERE = {
    "activations": ("Activations", "collect", "collect_moments"),
    "answers": ("Answer", "generate"),
    "calibration": ("Calibration", "calibrate"),
    "directions": ("Candidates", "Direction", "fit", "load_direction"),
    "edits": ("Edit", "ablation", "addition"),
    "errors": (
        "DataError",
        "DirectionError",
        "MediaError",
        "ModelError",
        "OptionalDependencyError",
        "PromptError",
        "RefusalPluginError",
        "StudyError",
    ),
    "evaluation": ("PhraseJudge", "compare_rates", "outcomes", "rates"),
    "geometry": ("Moments",),
    "models": ("Anatomy", "anatomy", "layers", "load"),
    "prompts": ("Batch", "Prompt", "PromptSet", "batches", "encode"),
    "recipe_files": ("copy_recipe", "recipe", "recipes"),
    "scores": ("Encoded", "RefusalTokens", "refusal_tokens", "score"),
    "selection": ("select",),
    "statistics": ("Estimate",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Activations",
    "Anatomy",
    "Answer",
    "Batch",
    "Calibration",
    "Candidates",
    "DataError",
    "Direction",
    "DirectionError",
    "Edit",
    "Encoded",
    "Estimate",
    "MediaError",
    "ModelError",
    "Moments",
    "OptionalDependencyError",
    "PhraseJudge",
    "Prompt",
    "PromptError",
    "PromptSet",
    "RefusalPluginError",
    "RefusalTokens",
    "StudyError",
    "__version__",
    "ablation",
    "addition",
    "anatomy",
    "batches",
    "calibrate",
    "collect",
    "collect_moments",
    "compare_rates",
    "copy_recipe",
    "encode",
    "fit",
    "generate",
    "layers",
    "load",
    "load_direction",
    "outcomes",
    "rates",
    "recipe",
    "recipes",
    "refusal_tokens",
    "score",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'refusal_plugin' has no attribute {name!r}")
    value = getattr(import_module(f"refusal_plugin.{_MODULE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
