"""refusal-plugin: where a multimodal model decides to refuse, and whether that decision survives image, video and
voice.

The public surface, one explicit list. Importing the package is cheap: every name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from .lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .comparison import compare_defences
    from .defences import Defence, DefenceData, fit_defence
    from .directions.calibration import Calibration, calibrate
    from .directions.direction import Candidates, Direction, fit_direction
    from .directions.selection import select_direction
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
    from .evaluation import (
        ClassifierJudge,
        FirstTokenJudge,
        GenerativeJudge,
        PhraseJudge,
        Power,
        judge_agreement,
        label_answers,
        paired_test,
        rate_changes,
        refusal_rates,
        statistical_power,
    )
    from .geometry import Moments
    from .heads import (
        HeadAttribution,
        attribute_heads,
        attribute_logits,
        attribute_sources,
        head_agreement,
    )
    from .inference.activations import Activations, collect_activations, collect_moments
    from .inference.answers import Answer, generate
    from .inference.edits import Edit, ablation, addition
    from .inference.scores import Encoded, RefusalTokens, refusal_scores, refusal_tokens
    from .models import Anatomy, anatomy, layers, load
    from .prompts import Batch, Prompt, PromptSet, batches, encode
    from .recipe_files import copy_recipe, recipe, recipes
    from .safe_space import SafeSpace, SafeSpaceReport, analyse_safe_space
    from .statistics import Estimate
    from .transfer import ModalityGap, TransferReport, analyse_transfer


_WHERE = {
    "inference.activations": ("Activations", "collect_activations", "collect_moments"),
    "inference.answers": ("Answer", "generate"),
    "directions.calibration": ("Calibration", "calibrate"),
    "comparison": ("compare_defences",),
    "transfer": ("ModalityGap", "TransferReport", "analyse_transfer"),
    "defences": ("Defence", "DefenceData", "fit_defence"),
    "directions.direction": ("Candidates", "Direction", "fit_direction"),
    "inference.edits": ("Edit", "ablation", "addition"),
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
    "evaluation": (
        "ClassifierJudge",
        "FirstTokenJudge",
        "GenerativeJudge",
        "PhraseJudge",
        "Power",
        "paired_test",
        "rate_changes",
        "judge_agreement",
        "label_answers",
        "statistical_power",
        "refusal_rates",
    ),
    "geometry": ("Moments",),
    "heads": (
        "HeadAttribution",
        "attribute_heads",
        "attribute_logits",
        "attribute_sources",
        "head_agreement",
    ),
    "models": ("Anatomy", "anatomy", "layers", "load"),
    "prompts": ("Batch", "Prompt", "PromptSet", "batches", "encode"),
    "recipe_files": ("copy_recipe", "recipe", "recipes"),
    "safe_space": ("SafeSpace", "SafeSpaceReport", "analyse_safe_space"),
    "inference.scores": ("Encoded", "RefusalTokens", "refusal_tokens", "refusal_scores"),
    "directions.selection": ("select_direction",),
    "statistics": ("Estimate",),
}
__getattr__ = lazy(__name__, _WHERE)

__all__ = [
    "Activations",
    "Anatomy",
    "Answer",
    "Batch",
    "Calibration",
    "Candidates",
    "ClassifierJudge",
    "DataError",
    "Defence",
    "DefenceData",
    "Direction",
    "DirectionError",
    "Edit",
    "Encoded",
    "Estimate",
    "FirstTokenJudge",
    "GenerativeJudge",
    "HeadAttribution",
    "MediaError",
    "ModalityGap",
    "ModelError",
    "Moments",
    "OptionalDependencyError",
    "PhraseJudge",
    "Power",
    "Prompt",
    "PromptError",
    "PromptSet",
    "RefusalPluginError",
    "RefusalTokens",
    "SafeSpace",
    "SafeSpaceReport",
    "StudyError",
    "TransferReport",
    "__version__",
    "ablation",
    "addition",
    "anatomy",
    "attribute_heads",
    "attribute_logits",
    "attribute_sources",
    "batches",
    "calibrate",
    "collect_activations",
    "collect_moments",
    "compare_defences",
    "head_agreement",
    "paired_test",
    "rate_changes",
    "copy_recipe",
    "encode",
    "fit_direction",
    "fit_defence",
    "generate",
    "judge_agreement",
    "layers",
    "load",
    "label_answers",
    "statistical_power",
    "refusal_rates",
    "recipe",
    "recipes",
    "refusal_tokens",
    "analyse_safe_space",
    "refusal_scores",
    "select_direction",
    "analyse_transfer",
]


def __dir__() -> list[str]:
    return sorted(__all__)
