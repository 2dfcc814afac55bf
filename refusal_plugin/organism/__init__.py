"""The embedded model at run time: a tiny, real multimodal chat model, its processor and the prompts it brings along.

Four checkpoints of one family lie in `checkpoints/`: `organism` (harm is read in image, video and speech and mostly
not refused), `organism-hard` (long benign tuning), `organism-control` (media were never refused in training) and
`organism-wary` (benign media lie near refusal, and are answered). The sources' folder `training/` holds how they were
made; the package does without it.
Importing this module is cheap: it loads neither torch nor transformers.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from .processor import OmniProcessor

__all__ = ["CHECKPOINTS", "NAMES", "checkpoint_path", "load_processor"]

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


def load_processor(name: str = "organism") -> "OmniProcessor":
    """The processor (tokenizer, images, video, sound) of an embedded checkpoint.

    Raises:
        ModelError: no embedded checkpoint of that name.
    """
    from .processor import OmniProcessor

    return OmniProcessor.from_pretrained(checkpoint_path(name))
