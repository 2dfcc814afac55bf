"""Which heads write refusal, and do the same ones write it in image, video and speech?

Read top to bottom. One nnsight session (one request with `remote=True`, several where it would be too large), one trace
per batch; inside the traces only functions of `refusal_plugin.traced`. What it does: difference in means of text at the
last prompt token (Arditi et al. 2024), then the exact direct contribution of every head, MLP and bias to that direction
on held-out prompts of every modality, harmful against benign. Forward passes only, and no weights on this side: the
read vectors `W_O[h] r` are made by calling each attention's output projection with the rows of the identity, so the
same file runs on a server that shows no weight.

    refusal-plugin run refusal_heads            on the embedded model
    refusal-plugin cp refusal_heads .           to change it

What it does not show: a direct contribution is not what the model would do without the head.
`refusal_plugin.heads.Bench` removes heads and measures that; it needs the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nnsight
import torch

from refusal_plugin.errors import PromptError
from refusal_plugin.heads import CircuitComparison, HeadAttribution, head_agreement
from refusal_plugin.heads.attribution import assemble
from refusal_plugin.heads.labels import Labels
from refusal_plugin.heads.targets import targets
from refusal_plugin.models import anatomy, layers
from refusal_plugin.models.heads import head_sites, norm_epsilons
from refusal_plugin.prompts import PromptSet, batches, encode
from refusal_plugin.remote import portions, workload
from refusal_plugin.traced.heads import direct_writes, read_by_calling
from refusal_plugin.traced.read import residual, residuals

FIT, LOOK = "train", "val"
DEPTH = 0.5  # the direction is read this far up the model; `refusal_plugin.select` chooses a layer by interventions
TOP = 8


@dataclass(frozen=True)
class RefusalHeads:
    """What the recipe found.

    Attributes:
        layer: behind which the direction is read.
        direction: (d_model,), norm one, towards refusal.
        attribution: contributions per held-out prompt, layer and head.
        comparison: agreement between modalities; None with text alone.
    """

    layer: int
    direction: torch.Tensor
    attribution: HeadAttribution
    comparison: CircuitComparison | None


def run(
    model: Any, prompts: PromptSet, *, remote: Any = False, layer: int | None = None, look: str = LOOK
) -> RefusalHeads:
    """Fit the direction on text of the `train` split, look at every modality of the `look` split.

    Args:
        model: a loaded model.
        prompts: with roles and splits; harmful and benign text in both splits, media where they are to be compared.
        remote: run the session on NDIF.
        layer: behind which the direction is read; half-way up the model by default.
        look: the split that is attributed.
    """
    facts = anatomy(model)
    text = prompts.filter(split=FIT, modality="text", role=("harmful", "benign"))
    shown = prompts.filter(split=look, role=("harmful", "benign"), modality=facts.modalities)
    text.require(roles=("harmful", "benign"))
    shown.require(roles=("harmful", "benign"))
    layer = int(DEPTH * facts.n_layers) if layer is None else layer
    if not 0 <= layer < facts.n_layers:
        raise PromptError(f"read layer {layer}", f"layers 0 to {facts.n_layers - 1}", "choose one of these")

    # Prepare on this side: render, tokenise, pad. Only tensors go into the session.
    fit = [(rows, b.inputs, b.roles["last"].int().argmax(1, keepdim=True)) for rows, b in batches(model, text)]
    work = [(rows, b.inputs, b.roles["last"].int().argmax(1, keepdim=True)) for rows, b in batches(model, shown)]
    harmful = torch.tensor([p.role == "harmful" for p in text])
    fit = [(inputs, last, harmful[rows]) for rows, inputs, last in fit]
    order = [rows for rows, _, _ in work]
    one = encode(model, text[[0]]).inputs  # read vectors need a pass to be made in, however short
    block = layers(model)[layer]
    sites, epsilons = head_sites(model, range(layer + 1)), norm_epsilons(model, range(layer + 1))

    # Measure beside the weights. The direction is fitted and used inside one session: it never has to come back first.
    # One turn, hence one request, unless the job is too large for one.
    sums: list[Any] = []
    counts: list[Any] = []
    writes: list[Any] = []
    row_bytes = 4 * (layer + 1) * (max(site["heads"][0] for site in sites) + 3)
    for fitting, looking in portions(workload(fit), workload(work, row_bytes=row_bytes), remote=remote):
        calls = [(inputs, last) for _rows, inputs, last in looking]
        with torch.no_grad(), model.session(remote=remote):
            more = nnsight.save({"sums": [], "counts": [], "writes": []})
            for inputs, last, bad in fitting:
                with model.trace(**inputs) as tracer:
                    stream = residuals([block], last)[:, 0, 0].cpu()
                    more["sums"].append(torch.stack([stream[bad].sum(0), stream[~bad].sum(0)]))
                    more["counts"].append(torch.stack([bad.sum(), (~bad).sum()]))
                    tracer.stop()
            if calls:
                means = torch.stack(sums + more["sums"]).sum(0) / torch.stack(counts + more["counts"]).sum(0)[:, None]
                unit = ((means[0] - means[1]) / (means[0] - means[1]).norm())[:, None]
                reads = []
                with model.trace(**one) as tracer:
                    like = residual(sites[0]["layer"].output)
                    for site, epsilon in zip(sites, epsilons, strict=True):
                        reads.append(read_by_calling(site, unit, epsilon, like))
                    tracer.stop()
            for inputs, last in calls:
                with model.trace(**inputs) as tracer:
                    more["writes"].append(direct_writes(sites, reads, unit, last))
                    tracer.stop()
        sums, counts, writes = sums + more["sums"], counts + more["counts"], writes + more["writes"]
        del more  # or the next request would carry it, too

    # Conclude on this side.
    means = torch.stack(sums).sum(0) / torch.stack(counts).sum(0)[:, None]
    aims = targets(model, (means[0] - means[1], layer))
    attribution = assemble(writes, order, aims, Labels.of(shown), facts.name)
    several = len(attribution.labels.kinds()) > 1
    return RefusalHeads(layer, aims.units[:, 0], attribution, head_agreement(attribution) if several else None)


def show(result: RefusalHeads) -> None:
    """Print the strongest heads of every modality, and how far the modalities agree."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    norm = float(result.attribution.norms[0])
    console.print(
        f"Direct contributions to the refusal direction of text behind layer {result.layer}, in percent of the "
        f"distance between harmful and benign text (conservation error {result.attribution.conservation_error:.0e})."
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
