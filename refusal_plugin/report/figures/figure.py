"""A figure: panels of charts and the tables behind them; its words stand in `templates/figures/`, under its key."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..filling import fill
from ..markup import Markup
from ..palette import MODALITIES, colour
from ..sliders import Slider


@dataclass(frozen=True)
class Panel:
    """One chart under its own short title, which has the colour of its modality where it shows one.

    `said` is what its slider says there.
    """

    drawing: Markup
    title: str = ""
    small: str = ""
    hue: str | None = None
    said: Markup | None = None

    @classmethod
    def of(cls, modality: str, drawing: Markup, small: str = "", said: Markup | None = None) -> "Panel":
        """The panel of one modality."""
        return cls(drawing, modality, small, colour(modality), said)

    @property
    def modality(self) -> str | None:
        """The modality that it shows, by which a reader leaves it out."""
        return self.title if self.title in MODALITIES else None


def figure(
    key: str, panels: Sequence[Panel], tables: Sequence[Markup], *, slider: Slider | None = None, **values: object
) -> Markup:
    """The figure `templates/figures/KEY.html` with its panels side by side; without any it says why it is empty."""
    return fill(f"figures/{key}.html", key=key, panels=panels, tables=tables, slider=slider, **values)
