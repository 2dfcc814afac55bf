"""What in the safe space protects benign answers? The refusal direction of text, with and without its safe part.

    U_k     top-k principal directions of centred safe streams        resid_post, last prompt token
    v(k)    r - lambda U_k U_k^T r, added at one layer, all positions; not renormalised (SARSteer, arXiv 2510.17633)

What it does NOT show: removing a part also shortens the vector, so a lower price alone is no gain; compare settings at
equal price.

    refusal-plugin run safe_space            on the embedded model
    refusal-plugin cp safe_space .           to change it
"""

from typing import Any

from refusal_plugin.models import anatomy
from refusal_plugin.models.own_prompts import with_media_to_train_on
from refusal_plugin.prompts import PromptSet
from refusal_plugin.safe_space import SafeSpaceReport, analyse_safe_space
from refusal_plugin.statistics import Estimate

KS = (1, 2, 5, 10, 20, 40)  # directions removed
LAMBDAS = (0.5,)  # shares of the part that are removed, at K
K = 10
STRENGTH = 0.5  # of the direction; at 1 most models refuse everything
DEPTH = 0.6  # the layer where it is added, as a share of the depth; nothing is selected
PAIRS = 12  # pair groups of each modality
SEED = 0


def run(model: Any, prompts: PromptSet, *, remote: bool | str = False) -> SafeSpaceReport:
    """Fit on the `train` split of every modality, measure on the `test` split.

    Args:
        model: a loaded model.
        prompts: harmful, benign and near-miss items with splits; the embedded model's training media are added if they
            lack.
        remote: run on NDIF, one request per step.
    """
    facts = anatomy(model)
    prompts.filter(split="train", modality="text").require(asked="safe space, text to fit on")
    return analyse_safe_space(
        model,
        with_media_to_train_on(model, prompts),
        layer=round(DEPTH * (facts.n_layers - 1)),
        strength=STRENGTH,
        k=K,
        ks=KS,
        strengths=LAMBDAS,
        pairs=PAIRS,
        seed=SEED,
        remote=remote,
    )


def show(result: SafeSpaceReport) -> None:
    """Print the sweep as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"Text's refusal direction at layer {result.layer}, its safe part removed; test items.")
    table = Table(
        "in", "k", "lambda", "removed", "length left", "harm refused", "over-refusal", "price, nats", box=None
    )
    for name, records in result.sweeps.items():
        for record in records:
            cells = [
                str(Estimate(**record[measure])).partition(" (n")[0] for measure in ("refusal", "over_refusal", "kl")
            ]
            where = (name, str(record["k"]), f"{record['strength']:g}", record["kind"], f"{record['left']:.2f}")
            table.add_row(*where, *cells)
    console.print(table)
    for warning in result.warnings:
        console.print(f"note, {warning}")
