"""Which heads write refusal, and do the same ones write it in image, video and speech?

Difference in means of text at the last prompt token (Arditi et al. 2024), then the exact direct contribution of every
head, MLP and bias to that direction on held-out prompts of every modality, harmful against benign. Forward passes only,
and no weights on this side: on a server the read vectors `W_O[h] r` are made by calling each attention's output
projection with the rows of the identity.

    refusal-plugin run refusal_heads            on the embedded model
    refusal-plugin cp refusal_heads .           to change it

What it does not show: a direct contribution is not what the model would do without the head.
`refusal_plugin.heads.HeadAblation` removes heads and measures that; it needs the weights.
"""

from dataclasses import dataclass
from typing import Any

from refusal_plugin.directions.direction import Direction, fit_direction
from refusal_plugin.heads import CircuitComparison, HeadAttribution, attribute_heads, head_agreement
from refusal_plugin.models import anatomy
from refusal_plugin.prompts import PromptSet

FIT, LOOK = "train", "val"
DEPTH = 0.5  # the direction is read this far up the model; `select_direction` chooses a layer by interventions
TOP = 8


@dataclass(frozen=True)
class RefusalHeads:
    """What the recipe found.

    Attributes:
        direction: of text, towards refusal.
        attribution: contributions per held-out prompt, layer and head.
        comparison: agreement between modalities; None with text alone.
    """

    direction: Direction
    attribution: HeadAttribution
    comparison: CircuitComparison | None


def run(
    model: Any, prompts: PromptSet, *, remote: bool | str = False, layer: int | None = None, look: str = LOOK
) -> RefusalHeads:
    """Fit the direction on text of the `train` split, look at every modality of the `look` split.

    Args:
        model: a loaded model.
        prompts: with roles and splits; harmful and benign text in both splits, media where they are to be compared.
        remote: run on NDIF, one request per step.
        layer: behind which the direction is read; half-way up the model by default.
        look: the split that is attributed.
    """
    facts = anatomy(model)
    text = prompts.filter(split=FIT, modality="text", role=("harmful", "benign"))
    shown = prompts.filter(split=look, role=("harmful", "benign")).where(lambda p: facts.takes(p.modality))
    for part in (text, shown):
        part.require(roles=("harmful", "benign"))
    layer = int(DEPTH * facts.n_layers) if layer is None else layer
    direction = fit_direction(model, text, remote=remote).at(layer)
    attribution = attribute_heads(model, direction, shown, remote=remote)
    several = len(attribution.labels.kinds()) > 1
    return RefusalHeads(direction, attribution, head_agreement(attribution) if several else None)


def show(result: RefusalHeads) -> None:
    """Print the strongest heads of every modality, and how far the modalities agree."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    norm = float(result.attribution.norms[0])
    console.print(
        f"Direct contributions to the refusal direction of text behind layer {result.direction.layer}, in percent of "
        f"the distance between harmful and benign text (conservation error {result.attribution.conservation_error:.0e})"
        "."
    )
    for modality in result.attribution.labels.kinds():
        table = Table("layer", "head", "harmful - benign [95 %]", title=modality, title_justify="left", box=None)
        for row in result.attribution.top(TOP, modality):
            cells = [f"{100 * value / norm:+.1f}" for value in (row.contrast, row.low, row.high)]
            table.add_row(str(row.layer), str(row.head), f"{cells[0]} [{cells[1]}, {cells[2]}]")
        console.print(table)
    if result.comparison is not None:
        for row in result.comparison.agreements:
            console.print(
                f"{row.one} and {row.other}: rank correlation {row.rho:.2f} (p = {row.rho_p:.3f}), "
                f"{row.overlap:.0%} of the top {row.k} shared (by chance {row.overlap_null:.0%})"
            )
        lost = ", ".join(f"L{row.layer} H{row.head} in {row.modality}" for row in result.comparison.silent)
        console.print(f"Heads of text that are silent elsewhere: {lost or 'none'}.")
