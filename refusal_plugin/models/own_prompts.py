"""The prompts a model brings along: only the embedded ones have any."""

from collections.abc import Sequence
from typing import Any

from ..errors import PromptError
from ..organism import NAMES
from ..prompts import Modality, PromptSet
from ..prompts.prompt import MEDIA
from . import anatomy

MEDIA_PAIRS = 60
"""Training pairs of each medium and role: drawing all of them takes a while."""


def own_prompts(model: Any) -> PromptSet:
    """Text of the training split, and the validation and test splits of every modality.

    Raises:
        PromptError: the model is not an embedded one.
    """
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


def with_media_to_train_on(
    model: Any, prompts: PromptSet, modalities: Sequence[Modality] | None = None, pairs: int = MEDIA_PAIRS
) -> PromptSet:
    """The prompts, with training items of media that lack them where the model is an embedded one.

    Args:
        model: a loaded model.
        prompts: with splits.
        modalities: those wanted; all that the model takes by default.
        pairs: of each medium.

    Returns:
        the prompts alone where nothing is lacking or the model brings nothing; never a pair of another split.
    """
    from ..organism.data import organism_prompts

    there = {p.modality for p in prompts if p.split == "train"}
    facts = anatomy(model)
    lacking = [m for m in modalities or facts.modalities if m in MEDIA and m not in there]
    if facts.name not in NAMES or not lacking:
        return prompts
    known, tested = {p.id for p in prompts}, {p.pair for p in prompts if p.split != "train"}
    drawn = organism_prompts(split="train", modality=lacking, renderings=1, limit=pairs)
    return prompts + drawn.where(lambda p: p.id not in known and p.pair not in tested)


def defence_prompts(model: Any, *, media_pairs: int = MEDIA_PAIRS, renderings: int = 1) -> PromptSet:
    """The prompts an embedded model brings along for defences: its own, and media to train on.

    Args:
        model: a loaded model.
        media_pairs: training pairs per medium and role.
        renderings: renderings of every validation and test medium, 1 or 2.

    Raises:
        PromptError: the model is not an embedded one.
    """
    known = own_prompts(model).where(lambda p: p.meta.get("rendering", 0) < renderings)
    return with_media_to_train_on(model, known, pairs=media_pairs)
