"""ShiftDC: take out of a medium's shift what lies along the safety direction (arXiv 2502.13095).

    delta[m] = mean h(medium, t) - mean h(t)                    the shift a modality brings, last prompt token
    h       <- h - c <delta[m], rhat> rhat                      one layer, last position; text is left alone

The paper captions every input to get the shift of that input; without a captioner the mean shift of the modality
stands in for it (our reading).

Data: text of the training split, with "neutral" media beside it (the default), or its "content" media.
"""

from collections.abc import Sequence
from typing import Any, Literal

from ..errors import PromptError
from ..geometry import unit
from ..inference.edits import When, Where
from .data import DefenceData
from .modal import ModalAddition
from .registry import method


@method(
    "shiftdc",
    sees="neutral media",
    summary="undo the modality's shift along the direction",
    variants={"shiftdc_content": {"shift": "content"}},
)
def fit_shiftdc(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    shift: Literal["neutral", "content"] = "neutral",
    layers: Sequence[int] | Literal["selected", "all"] = "selected",
    n_texts: int = 16,
    n_media: int = 4,
    where: Where = "last",
    when: When = "every_step",
) -> ModalAddition:
    """Fit ShiftDC.

    Args:
        shift: "neutral" (meaningless media beside text) or "content" (training media against training text).
        layers: "selected", "all" or numbers.
        n_texts, n_media: neutral pairs, see `DefenceData.shift`.
        where, when: positions and steps.

    Raises:
        PromptError: an unknown shift, or no training media for "content".
    """
    if shift not in ("neutral", "content"):
        raise PromptError(f"ShiftDC with shift={shift!r}", "no such choice", "use 'neutral' or 'content'")
    chosen = list(data.layers(layers))
    r = unit(data.candidates().vectors[0])
    used = list(data.train("text", "harmful", "benign"))
    kinds = list(data.shown) if shift == "neutral" else list(data.media)
    if not kinds:
        raise PromptError(f"ShiftDC with shift={shift!r}", "there are no media to measure", "use a multimodal model")
    vectors = {"text": 0.0 * r[chosen]}
    along = {}
    for kind in kinds:
        if shift == "neutral":
            delta, _ = data.shift(kind, n_texts=n_texts, n_media=n_media)
        else:
            shown = list(data.train(kind, "harmful", "benign"))
            delta = (data.streams(shown).double().mean(0) - data.streams(used).double().mean(0)).float()
        along[kind] = (delta * r).sum(-1)
        vectors[kind] = (-along[kind].unsqueeze(-1) * r)[chosen]
    return ModalAddition(
        name="shiftdc",
        layers=tuple(chosen),
        vectors=vectors,
        figures={"shift_along_r": {kind: value.tolist() for kind, value in along.items()}},
        when=when,
        where=where,
        switches={
            "shift": shift,
            "layers": layers,
            "n_texts": n_texts,
            "n_media": n_media,
            "where": where,
            "when": when,
        },
        provenance=data.provenance(used),
    )
