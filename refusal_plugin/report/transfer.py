"""The chapter on transfer: between modalities, the gap, the safe space; left out where nothing was measured."""

from collections.abc import Mapping
from typing import Any

from .figures.gap import gap_figure
from .figures.safe_space import angles_figure, space_figure
from .figures.transfer import transfer_curves, transfer_matrix
from .filling import fill
from .markup import Markup
from .records import at, mapping

PARTS = (
    ("transfer", "Does refusal transfer between modalities?", (transfer_matrix, transfer_curves)),
    ("modality_gap", "The modality gap", (gap_figure,)),
    ("safe_space", "The safe space", (space_figure, angles_figure)),
)


def transfer_chapter(results: Mapping[str, Any]) -> Markup | None:
    """Headings, one sentence each from `findings`, and the figures."""
    parts = [
        (key, title, at(results, "findings", key), [draw(results) for draw in figures])
        for key, title, figures in PARTS
        if mapping(results, key)
    ]
    return fill("transfer.html", parts=parts) if parts else None
