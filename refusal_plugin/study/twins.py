"""Does the direction tell harm from its words? AUROC on matched twins, beside the AUROC on the study's own text.

Harmful and benign prompts of public sets differ in style, and a direction that reads style separates them as well.
Twins differ in little but the harm (`prompts/twins.py`). Pairs of which the study fitted or selected on are left out.
"""

from typing import Any

from ..directions.direction import Direction
from ..inference.activations import collect_activations
from ..prompts import PromptSet
from ..prompts.twins import twins
from ..storage import Checkpoints
from .summary import auroc_by_layer

Record = dict[str, Any]


def twins_section(
    model: Any, direction: Direction, prompts: PromptSet, stages: Checkpoints, token_budget: int, seed: int
) -> Record | None:
    """AUROC of harmful twins against safe ones along each layer's text direction.

    Returns:
        `{n, auroc_by_layer}`; None where the model does not know the words, or has seen every pair.
    """
    asked = unseen_twins(prompts)
    if not len(asked) or not knows_words(model.tokenizer, asked):
        return None
    values = stages.tensor(
        "streams-unseen-twins",
        lambda: collect_activations(model, asked, positions=(direction.position,), token_budget=token_budget).values,
    )
    coordinates = direction.coordinates(values[:, 0])
    return {"n": len(asked), "auroc_by_layer": auroc_by_layer(coordinates, list(asked), ("near_miss",), seed)}


def unseen_twins(prompts: PromptSet) -> PromptSet:
    """The twins without the pairs of which a text, or what a medium says, is trained or selected on."""
    used = [p for p in prompts if p.split != "test"]
    seen = {text.strip().casefold() for p in used for text in (p.text, p.read_answer) if text}
    known = {twin.pair for twin in twins() if twin.text.strip().casefold() in seen}
    return twins().where(lambda twin: twin.pair not in known)


def knows_words(tokenizer: Any, prompts: PromptSet) -> bool:
    """Whether a vocabulary holds the words of prompts: that of the embedded models does not hold the twins'."""
    read = [token for prompt in prompts for token in tokenizer(prompt.text).input_ids]
    return bool(read.count(tokenizer.unk_token_id) <= 0.05 * len(read))


def twins_words(found: Record | None, text: Record, layer: int) -> list[str]:
    """What the twins say of the direction, in one sentence; a warning where it is no better than chance."""
    if found is None:
        return []
    own, other = (next(row for row in one["auroc_by_layer"] if row["layer"] == layer) for one in (found, text))
    if own["value"] is None or other["value"] is None:
        return []
    said = (
        f"Along the direction, harmful requests stand out from safe twins of the same wording with AUROC "
        f"{own['value']:.2f} [{own['low']:.2f}, {own['high']:.2f}] (n = {found['n']}), from the other text prompts "
        f"with {other['value']:.2f}: the first is nearer to harm, the second also holds how the sets are worded."
    )
    if own["low"] <= 0.5:
        said += " It tells twins apart no better than chance: do not read it as a direction of harm or refusal."
    return [said]
