"""Does one modality's refusal direction reach the others? Fit in each, try in each: read, add, take away.

    r_A[l] = mean harmful - mean benign stream of modality A        resid_post, last prompt token, towards refusal
    add    h[l] + r_A[l] in B's benign items;  take away: B's coordinate along r_A set to B's benign mean, harmful items

The refusal score is the log odds of the model's own refusal tokens. Forward passes only; with `rate_pairs` above 0,
`analyse_transfer` also generates answers under every direction. What it does NOT show: that refusal is one direction.

    refusal-plugin run cross_modal_transfer            on the embedded model
    refusal-plugin cp cross_modal_transfer .           to change it
"""

from typing import Any

from refusal_plugin.models import anatomy
from refusal_plugin.models.own_prompts import with_media_to_train_on
from refusal_plugin.prompts import PromptSet
from refusal_plugin.transfer import TransferReport, analyse_transfer

PAIRS = 12  # pair groups of each modality on which directions act
DRAWS = 6  # random directions per layer: the control, and the null of the p-values
DEPTH = 0.6  # the layer of the tables, as a share of the depth; nothing is selected
SEED = 0


def run(model: Any, prompts: PromptSet, *, remote: bool | str = False) -> TransferReport:
    """Fit on the `train` split of every modality, try on the `test` split.

    Args:
        model: a loaded model.
        prompts: harmful and benign items with splits; the embedded model's training media are added if they lack.
        remote: run on NDIF, one request per step.
    """
    facts = anatomy(model)
    for split in ("train", "test"):
        prompts.filter(split=split, modality="text").require(asked=f"cross-modal transfer, text of '{split}'")
    return analyse_transfer(
        model,
        with_media_to_train_on(model, prompts),
        layer=round(DEPTH * (facts.n_layers - 1)),
        score_pairs=PAIRS,
        rate_pairs=0,
        draws=DRAWS,
        draws_by_layer=DRAWS,
        seed=SEED,
        remote=remote,
    )


def show(result: TransferReport) -> None:
    """Print what the first source's direction does in every target."""
    from rich.console import Console
    from rich.table import Table

    console, source = Console(), result.sources[0]
    console.print(f"The {source} direction of layer {result.layer} in every modality; * = Holm p <= 0.05.")
    table = Table(
        "in", "cosine", "AUROC", "added, benign (nats)", "taken away, harmful (nats)", "random, nats", box=None
    )
    for target in result.targets:
        asked = [("cosine", source), ("auroc", source), ("induced_score", source), ("ablated_score", source)]
        cells = []
        for measure, arm in [*asked, ("induced_score", "random")]:
            marked = (measure, arm) in asked[1:] and result.marked(measure, arm, target)
            found = str(result.estimate(measure, arm, target)).partition(" (n")[0]
            cells.append(f"{found} *" if marked else found)
        table.add_row(target, *cells)
    console.print(table)
    for warning in result.warnings:
        console.print(f"note: {warning}")
