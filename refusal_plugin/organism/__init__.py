"""The embedded model at run time: a tiny, real multimodal chat model, its processor and the prompts it brings along.

Four checkpoints of one family lie in `checkpoints/`: `organism` (harm is read in image, video and speech and mostly
not refused), `organism-hard` (long benign tuning), `organism-control` (media were never refused in training) and
`organism-wary` (benign media lie near refusal, and are answered). The sources' folder `training/` holds how they were
made; the package does without it.
Importing this module is cheap: it loads neither torch nor transformers.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from .processor import OmniProcessor

__all__ = ["CHECKPOINTS", "NAMES", "checkpoint_path", "load_processor", "require_spelled"]

NAMES = ("organism", "organism-hard", "organism-control", "organism-wary")
CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""The folder of the checkpoints and of the media of their prompts."""


def checkpoint_path(name: str) -> Path:
    """The folder of an embedded checkpoint.

    Raises:
        ModelError: no embedded checkpoint of that name, or its folder is missing.
    """
    path = CHECKPOINTS / name
    if name not in NAMES or not (path / "config.json").is_file():
        found = "its folder is missing" if name in NAMES else "no embedded checkpoint of that name"
        raise ModelError(
            f"load the embedded model {name!r}",
            found,
            f"use one of {', '.join(NAMES)}, or train them again: `make organism` in the sources",
        )
    return path


def require_spelled(name: str) -> None:
    """Nothing, or the name that was probably meant, before anything heavy is imported or the hub is asked.

    Raises:
        ModelError: there is no such model, and an embedded one is spelled nearly like that.
    """
    near = get_close_matches(name, NAMES, cutoff=0.75)
    if name not in NAMES and near and "/" not in name and not Path(name).exists():
        raise ModelError(f"load {name!r}", "no folder and no embedded model of that name", f"use {near[0]}")


def load_processor(name: str = "organism") -> "OmniProcessor":
    """The processor (tokenizer, images, video, sound) of an embedded checkpoint.

    Raises:
        ModelError: no embedded checkpoint of that name.
    """
    from .processor import OmniProcessor

    return OmniProcessor.from_pretrained(checkpoint_path(name))
