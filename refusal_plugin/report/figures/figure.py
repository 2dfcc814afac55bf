"""A figure: panels of charts and the tables behind them; its words stand in `templates/figures/`, under its key."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..filling import fill
from ..markup import Markup
from ..palette import colour


@dataclass(frozen=True)
class Panel:
    """One chart under its own short title, which has the colour of its modality where it shows one."""

    drawing: Markup
    title: str = ""
    small: str = ""
    hue: str | None = None

    @classmethod
    def of(cls, modality: str, drawing: Markup, small: str = "") -> "Panel":
        """The panel of one modality."""
        return cls(drawing, modality, small, colour(modality))


def figure(key: str, panels: Sequence[Panel], tables: Sequence[Markup], **values: object) -> Markup:
    """The figure `templates/figures/KEY.html` with its panels side by side; without any it says why it is empty."""
    return fill(f"figures/{key}.html", key=key, panels=panels, tables=tables, **values)
