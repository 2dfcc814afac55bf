"""One harmful and one near-miss question per modality, with the answer before and after steering, for a reader to see.

The choice is mechanical and said in the report: the first harmful test prompt that the undefended model answered
(else the first), and the first near miss.
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


def choose(prompts: Sequence[Prompt], before: Outcomes) -> list[int]:
    """Rows of the examples."""
    harmful = [row for row, p in enumerate(prompts) if p.role == "harmful"]
    answered = [row for row in harmful if before.labels[row] != "refusal"]
    near = [row for row, p in enumerate(prompts) if p.role == "near_miss"]
    return [*(answered or harmful)[:1], *near[:1]]


def examples(
    prompts: Sequence[Prompt],
    before: tuple[Outcomes, Sequence[Answer]],
    after: tuple[Outcomes, Sequence[Answer]],
    coordinates: Float[Tensor, "prompt layer"],
) -> list[Record]:
    """The examples of one modality, in the form of results.json."""
    return [
        {
            "modality": prompts[row].modality,
            "role": prompts[row].role,
            "id": prompts[row].id,
            "text": prompts[row].text,
            "says": prompts[row].read_answer,
            "media": media_record(prompts[row]),
            "before": {"answer": before[1][row].text, "label": before[0].labels[row]},
            "after": {"answer": after[1][row].text, "label": after[0].labels[row]},
            "projection_by_layer": {"before": [round(float(v), 4) for v in coordinates[row]]},
        }
        for row in choose(prompts, before[0])
    ]
