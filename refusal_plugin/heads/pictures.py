"""A value per soft token of a medium, over the picture, the film strip or the spectrogram that it stands for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..models.heads import media_grid
from ..prompts import Prompt, encode
from ..prompts.data_uris import media_record, spectrogram
from ..prompts.sound import SAMPLE_RATE, load_audio
from ..report.shown import Shown
from .projection import TokenProjection
from .sources import SourceAttribution


@dataclass(frozen=True)
class Overlay(Shown):
    """Values over a medium.

    Attributes:
        name: what the values are.
        modality: "image", "video" or "audio".
        values: one per soft token, in reading order.
        grid: how they lie: (frames, rows, columns).
        pictures: the image, the frames, or the spectrogram, as data URIs.
        seconds: length of a sound.
    """

    name: str
    modality: str
    values: Float[Tensor, " token"]
    grid: tuple[int, int, int]
    pictures: tuple[str, ...]
    seconds: float | None = None

    @property
    def places(self) -> list[str]:
        """Where every value lies: row and column of an image, frame of a film, seconds of a sound."""
        frames, rows, columns = self.grid
        step = (self.seconds or 0.0) / max(1, len(self.values))
        if self.modality == "audio" and step:
            return [f"{n * step:.2f} to {(n + 1) * step:.2f} s" for n in range(len(self.values))]
        named = []
        for n in range(len(self.values)):
            frame, row, column = n // (rows * columns), n // columns % rows, n % columns
            parts = [f"frame {frame}"] if frames > 1 else []
            parts += [f"row {row}"] if rows > 1 else []
            parts += [f"column {column}"] if columns > 1 or not parts else []
            named.append(", ".join(parts))
        return named

    def finding(self) -> str:
        return f"{self.name} over {self.modality}, {' x '.join(map(str, self.grid))} places"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per place."""
        rows = zip(self.places, self.values.tolist(), strict=True)
        return ({"place": place, self.name: value} for place, value in rows)

    def drawn(self) -> Sequence[str]:
        from ..report.figures.tokens import media_overlay
        from ..report.markup import tag
        from ..report.table import folded, html_table

        values = self.values.tolist()
        limit = max([1e-9, *map(abs, values)])
        over = {"modality": self.modality, "grid": self.grid, "pictures": self.pictures}
        drawn = media_overlay(values, limit, self.name, **over)  # type: ignore[arg-type]
        rows = [list(row) for row in zip(self.places, values, strict=True)]
        table = folded("Numbers behind this picture", html_table(["place", self.name], rows))
        return [tag("div", drawn, class_="overlays"), table]


def overlay(model: Any, found: TokenProjection | SourceAttribution, prompt: Prompt) -> Overlay:
    """Lay what was found at the soft tokens of one prompt over its medium.

    Args:
        model: the model that was measured.
        found: projections of the tokens, or contributions by source (then the sum over its heads is shown).
        prompt: one of those that were measured, with its medium.

    Raises:
        DataError: another prompt, or one of text or of several media.
    """
    if prompt.id not in found.labels.ids or len(prompt.media) != 1:
        have = (
            f"it is {prompt.modality} with {len(prompt.media)} media; measured were {', '.join(found.labels.ids[:5])}"
        )
        raise DataError(f"lay values over prompt '{prompt.id}'", have, "give a measured prompt with one medium")
    row = found.labels.ids.index(prompt.id)
    value, name = found.values[row], "refusal projection"
    if isinstance(found, SourceAttribution):
        value, name = value.sum(0), "written along the direction by " + ", ".join(f"L{a} H{b}" for a, b in found.heads)
    inside = value[[place for place, span in enumerate(found.spans[row]) if span == "media"]]
    inputs = encode(model, prompt).inputs
    sound = spectrogram(inputs)
    drawn = sound or list((media_record(prompt) or {}).get("data", ()))
    grid = media_grid(inputs, prompt.modality, len(inside))
    seconds = len(load_audio(prompt.media[0].value)) / SAMPLE_RATE if prompt.modality == "audio" else None
    return Overlay(name, prompt.modality, inside, grid, tuple(drawn), seconds)
