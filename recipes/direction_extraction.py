"""Where does the model decide to refuse? The refusal direction of text, layer by layer.

Read top to bottom. One nnsight session (one request with `remote=True`, several where it would be too large), one trace
per batch; inside the trace only functions of `refusal_plugin.traced`. What it does: difference in means of `resid_post`
at the last prompt token (Arditi et al. 2024), then how well each layer's direction separates held-out harmful prompts
from benign and near-miss ones.

    refusal-plugin run direction_extraction            on the embedded model
    refusal-plugin cp direction_extraction .           to change it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nnsight
import numpy as np
import torch

from refusal_plugin.models import anatomy, layers
from refusal_plugin.prompts import PromptSet, batches
from refusal_plugin.remote import portions, workload
from refusal_plugin.statistics import Estimate, auroc_interval
from refusal_plugin.traced.read import residuals

FIT, HELD_OUT = "train", "val"
RANDOM_SEED = 0


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


def run(model: Any, prompts: PromptSet, *, remote: bool = False) -> Extraction:
    """Fit on the `train` split and look at the `val` split.

    Args:
        model: a loaded model.
        prompts: text prompts with roles and splits.
        remote: run the session on NDIF.
    """
    text = prompts.filter(modality="text")
    fit = text.filter(split=FIT, role=("harmful", "benign"))
    held_out = text.filter(split=HELD_OUT)
    fit.require(roles=("harmful", "benign"))
    held_out.require(roles=("harmful", "benign"))

    # Prepare on this side: render, tokenise, pad. Only tensors go into the session.
    chosen = fit + held_out
    work = []
    for rows, batch in batches(model, chosen):
        work.append((rows, batch.inputs, batch.roles["last"].int().argmax(1, keepdim=True)))
    blocks = layers(model)

    shape = (len(chosen), anatomy(model).n_layers, anatomy(model).d_model)

    # Measure beside the weights: all layers of a batch in one forward pass, one vector per prompt comes back.
    stream = torch.empty(shape)
    for (part,) in portions(workload(work, row_bytes=4 * shape[1] * shape[2]), remote=remote):
        calls = [(inputs, last) for _rows, inputs, last in part]
        with torch.no_grad(), model.session(remote=remote):
            found = nnsight.save([])
            for inputs, last in calls:
                with model.trace(**inputs) as tracer:
                    found.append(residuals(blocks, last)[:, 0].cpu())
                    tracer.stop()
        for (rows, _inputs, _last), values in zip(part, found, strict=True):
            stream[rows] = values
        del found  # or the next request would carry it, too

    # Conclude on this side.
    fitted, seen = stream[: len(fit)], stream[len(fit) :]
    harmful = fitted[[p.role == "harmful" for p in fit]]
    benign = fitted[[p.role == "benign" for p in fit]]
    directions = harmful.mean(0) - benign.mean(0)
    norms = directions.norm(dim=-1) / fitted.norm(dim=-1).mean(0)

    scores = (seen * directions).sum(-1)
    bad = [row for row, p in enumerate(held_out) if p.role == "harmful"]
    good = [row for row, p in enumerate(held_out) if p.role != "harmful"]
    auroc = tuple(
        auroc_interval(
            scores[bad, layer],
            scores[good, layer],
            [held_out[row].pair for row in bad],
            [held_out[row].pair for row in good],
            rng=np.random.default_rng(RANDOM_SEED),
        )
        for layer in range(scores.shape[1])
    )
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
