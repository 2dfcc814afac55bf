"""Where does the model decide to refuse? The refusal direction of text, layer by layer.

Difference in means of `resid_post` at the last prompt token (Arditi et al. 2024), then how well each layer's direction
separates held-out harmful prompts from benign and near-miss ones. This file spells out its nnsight session: one request
with `remote=True`, several where it would be too large; inside a trace only functions of `refusal_plugin.traced`. The
other recipes call the library, whose sessions look like this one.

    refusal-plugin run direction_extraction            on the embedded model
    refusal-plugin cp direction_extraction .           to change it
"""

from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from refusal_plugin.contrasts import estimate
from refusal_plugin.inference.streams import SAFE, Streams
from refusal_plugin.models import anatomy, layers
from refusal_plugin.prompts import PromptSet, batches
from refusal_plugin.remote.split import sessions
from refusal_plugin.statistics import Estimate
from refusal_plugin.traced.read import residuals
from refusal_plugin.transfer.similarity import aurocs

FIT, HELD_OUT = "train", "val"
SEED = 0


@dataclass(frozen=True)
class Extraction:
    """What the recipe found.

    Attributes:
        directions: (layer, d_model), harmful minus benign, towards refusal.
        norms: (layer,) norm of each direction relative to the mean residual norm of that layer.
        auroc: per layer, held-out harmful against benign and near-miss prompts.
        n_fit, n_held_out: prompts behind them.
    """

    directions: torch.Tensor
    norms: torch.Tensor
    auroc: tuple[Estimate, ...]
    n_fit: int
    n_held_out: int


def run(model: Any, prompts: PromptSet, *, remote: bool | str = False) -> Extraction:
    """Fit on the `train` split and look at the `val` split.

    Args:
        model: a loaded model.
        prompts: text prompts with roles and splits.
        remote: run the session on NDIF.
    """
    text = prompts.filter(modality="text")
    fit = text.filter(split=FIT, role=("harmful", "benign")).require(asked="fit a direction on text of 'train'")
    held_out = text.filter(split=HELD_OUT).require(asked="test a direction on text of 'val'")
    chosen, blocks, facts = fit + held_out, layers(model), anatomy(model)

    # Prepare on this side: render, tokenise, pad. Only tensors go into the session.
    work = []
    for rows, batch in batches(model, chosen):
        work.append((rows, batch.inputs, batch.roles["last"].int().argmax(1, keepdim=True)))

    # Measure beside the weights: all layers of a batch in one forward pass, one vector per prompt comes back.
    def read(part: list[Any]) -> list[torch.Tensor]:
        calls = [(inputs, last) for _rows, inputs, last in part]
        with torch.no_grad(), model.session(remote=remote):
            found = nnsight.save([])
            for inputs, last in calls:
                with model.trace(**inputs) as tracer:
                    found.append(residuals(blocks, last)[:, 0].cpu())
                    tracer.stop()
        return list(found)

    stream = torch.empty(len(chosen), facts.n_layers, facts.d_model)
    for (rows, _, _), values in sessions(work, read, remote=remote, row_bytes=4 * facts.n_layers * facts.d_model):
        stream[rows] = values

    # Conclude on this side.
    fitted, seen = Streams(fit, stream[: len(fit)]), Streams(held_out, stream[len(fit) :])
    directions = fitted.direction().vector.float()
    norms = directions.norm(dim=-1) / fitted.values.norm(dim=-1).mean(0)
    auroc = tuple(estimate(row) for row in aurocs(directions[None], seen, SAFE, SEED)[0])
    return Extraction(directions, norms, auroc, len(fit), len(held_out))


def show(result: Extraction) -> None:
    """Print the result as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "norm / residual norm", "AUROC held out [95 %]", box=None, header_style="bold")
    for layer, value in enumerate(result.auroc):
        table.add_row(str(layer), f"{result.norms[layer]:.2f}", str(value))
    console = Console()
    console.print(f"Refusal direction of text: fitted on {result.n_fit} prompts, held out {result.n_held_out}.")
    console.print(table)
