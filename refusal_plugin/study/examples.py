"""Every test item with its answer before and after steering, and one question per modality to be seen at once.

The choice of the latter is mechanical and said in the report: the first harmful test prompt that the undefended model
answered (else the first), and the first near miss. Those bring their whole medium; items bring a thumbnail while there
is room, those whose label changed first.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..evaluation import Outcomes
from ..inference.answers import Answer
from ..prompts import Prompt
from ..prompts.data_uris import media_record

Record = dict[str, Any]
Said = tuple[Outcomes, Sequence[Answer]]
THUMBNAILS = 150_000
"""Characters of thumbnails per modality."""


def choose(prompts: Sequence[Prompt], before: Outcomes) -> list[int]:
    """Rows of the examples."""
    harmful = [row for row, p in enumerate(prompts) if p.role == "harmful"]
    answered = [row for row in harmful if before.labels[row] != "refusal"]
    near = [row for row, p in enumerate(prompts) if p.role == "near_miss"]
    return [*(answered or harmful)[:1], *near[:1]]


def examples(
    prompts: Sequence[Prompt], before: Said, after: Said, coordinates: Float[Tensor, "prompt layer"]
) -> list[Record]:
    """The examples of one modality, in the form of results.json."""
    chosen = choose(prompts, before[0])
    return [_record(row, prompts, before, after, coordinates) | {"media": media_record(prompts[row])} for row in chosen]


def items(
    prompts: Sequence[Prompt], before: Said, after: Said, coordinates: Float[Tensor, "prompt layer"]
) -> list[Record]:
    """Every item of one modality in the same form, in the order of the prompts.

    Where the thumbnails are full, `media` holds the kind alone: the item has a medium that is not shown.
    """
    found = [_record(row, prompts, before, after, coordinates) for row in range(len(prompts))]
    room = THUMBNAILS
    for row in sorted(range(len(prompts)), key=lambda row: before[0].labels[row] == after[0].labels[row]):
        shown = media_record(prompts[row], thumbnail=True) if room > 0 else None
        size = sum(map(len, shown["data"])) if shown else 0
        found[row]["media"] = shown if shown and size <= room else _kind(prompts[row])
        room -= size
    return found


def _kind(prompt: Prompt) -> Record | None:
    return None if prompt.modality == "text" else {"kind": prompt.modality}


def _record(
    row: int, prompts: Sequence[Prompt], before: Said, after: Said, coordinates: Float[Tensor, "prompt layer"]
) -> Record:
    arms = {"before": before, "after": after}
    return {
        "modality": prompts[row].modality,
        "role": prompts[row].role,
        "id": prompts[row].id,
        "text": prompts[row].text,
        "says": prompts[row].read_answer,
        **{name: {"answer": said[row].text, "label": out.labels[row]} for name, (out, said) in arms.items()},
        "projection_by_layer": {"before": [round(float(v), 4) for v in coordinates[row]]},
    }
