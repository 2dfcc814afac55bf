"""Which layer's refusal direction, and how strong? Chosen on held-out text by what adding and removing each one does.

    bypass   refusal score of harmful text without the direction      induce   of benign text with the full vector
    gain     what the vector at that strength adds to the score of harmful text whose direction was halved

The layer with the largest gain is chosen, each at the strength whose first token costs 0.1 nats on harmless text (see
`refusal_plugin.directions.selection`, which has more objectives). It compares layers and is no price:
`rp.at_price` prices whole answers, in every modality. The refusal score is the log odds of the model's own refusal
tokens: those with which its refusals of harmful text open.
What it does NOT show: that the vector works on media; and text of a few prompts gives wide figures.

    refusal-plugin run candidate_selection            on the embedded model
    refusal-plugin cp candidate_selection .           to change it
"""

from dataclasses import dataclass
from typing import Any

from refusal_plugin.directions.direction import Direction, fit_direction
from refusal_plugin.directions.selection import select_direction
from refusal_plugin.evaluation.refusal_tokens import refusal_tokens
from refusal_plugin.prompts import PromptSet

FIT, HELD_OUT = "train", "val"
MOST = 120  # held-out prompts
MAX_DEPTH = 0.8  # layers that may be chosen, as a share of the depth
SEED = 0


@dataclass(frozen=True)
class Selection:
    """What the recipe found.

    Attributes:
        direction: the chosen one, with its strength and the table of all candidates.
        words: the model's refusal tokens.
        n_fit, n_held_out: prompts behind them.
    """

    direction: Direction
    words: tuple[str, ...]
    n_fit: int
    n_held_out: int


def run(model: Any, prompts: PromptSet, *, remote: bool | str = False) -> Selection:
    """Fit on the `train` split and choose on the `val` split.

    Args:
        model: a loaded model.
        prompts: text prompts with roles and splits.
        remote: run on NDIF, one request per step.
    """
    text = prompts.filter(modality="text")
    fit = text.filter(split=FIT, role=("harmful", "benign")).require(asked="fit directions on text of 'train'")
    held_out = text.filter(split=HELD_OUT).limit(MOST, SEED).require(asked="choose a direction on text of 'val'")
    tokens = refusal_tokens(model, fit, remote=remote)
    candidates = fit_direction(model, fit, remote=remote)
    direction = select_direction(model, candidates, held_out, tokens, max_depth=MAX_DEPTH, remote=remote)
    return Selection(direction, tokens.words, len(fit), len(held_out))


def show(result: Selection) -> None:
    """Print the table of candidates."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"Layer {result.direction.layer}, strength {result.direction.strength:.2f}: chosen on {result.n_held_out} "
        f"held-out prompts, fitted on {result.n_fit}. Refusals open with: {', '.join(result.words)}."
    )
    table = Table("layer", "bypass", "induce", "KL, ablated", "strength", "gain, nats", "AUROC", "", box=None)
    for row in result.direction.table:
        cells = [row[name] for name in ("bypass", "induce", "kl_ablate", "strength", "gain", "auroc")]
        shown = ["-" if value != value else f"{value:.2f}" for value in cells]
        table.add_row(str(row["layer"]), *shown, "chosen" if row["chosen"] else row["reason"])
    console.print(table)
