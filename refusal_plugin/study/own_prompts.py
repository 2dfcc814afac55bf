"""The prompts a model brings along: only the embedded ones have any."""

from typing import Any

from ..errors import PromptError
from ..models import anatomy
from ..prompts import PromptSet


def own_prompts(model: Any) -> PromptSet:
    """Text of the training split, and the validation and test splits of every modality.

    Raises:
        PromptError: the model is not an embedded one.
    """
    from ..organism import NAMES
    from ..organism.data import organism_prompts

    name = anatomy(model).name
    if name not in NAMES:
        raise PromptError(
            f"find prompts for '{name}'",
            "it brings none",
            f"pass prompts (only {', '.join(NAMES)} bring their own); the schema is in docs/schema.md",
        )
    text = organism_prompts(split="train", modality="text")
    return text + organism_prompts(split="val") + organism_prompts(split="test")
