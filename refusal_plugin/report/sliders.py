"""Controls that move marks: every place of a mark is computed here and written beside it, the script only picks one.

A mark that follows a slider carries `data-by`, the slider's name, and one list of values for every attribute that
changes: `data-cx="12 15 20"`. Without the script it stays where it was drawn, at the slider's `chosen` stop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .markup import Markup, number, tag
from .records import finite


@dataclass(frozen=True)
class Slider:
    """A control of the page.

    Attributes:
        name: "layer" or "strength".
        stops: its values from left to right.
        words: how each stop is said.
        chosen: the stop that is drawn.
    """

    name: str
    stops: Sequence[float]
    words: Sequence[str]
    chosen: int

    def moves(self, **places: Sequence[float | None]) -> dict[str, str]:
        """Attributes of a mark: for each of its own, a value per stop; None keeps the one before."""
        return {"data_by": self.name} | {
            f"data_{key}": " ".join("-" if v is None else number(v) for v in values) for key, values in places.items()
        }

    def says(self, words: Sequence[str]) -> Markup:
        """A text that changes with the slider; nothing without the script."""
        return tag("span", words[self.chosen], class_="cursor", data_by=self.name, data_say="|".join(words))


def layer_slider(results: Mapping[str, Any]) -> Slider | None:
    """The slider over the model's layers; None where the results do not say how many there are."""
    layer, n = finite(results, "direction", "layer"), finite(results, "direction", "n_layers")
    if layer is None or n is None or not 0 <= layer < n:
        return None
    layers = range(int(n))
    return Slider("layer", layers, [f"layer {place}" for place in layers], int(layer))
