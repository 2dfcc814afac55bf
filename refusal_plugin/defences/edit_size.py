"""How large an edit is where it acts.

    size[l] = mean over prompts of  |h'[l] - h[l]| / |h[l]|

h, h': `resid_post` at the last prompt token, just before and just after the edit of block l.

An edit as long as the residual itself has replaced what it should have nudged: that explains most failed defences.
"""

from collections.abc import Iterable
from typing import Any

import torch

from ..inference.edits import Edit, site_modules
from ..models import anatomy, layers
from ..prompts import Prompt, batches
from ..traced.read import gather, residual
from ..traced.write import edit_blocks


def edit_size(model: Any, prompts: Iterable[Prompt], edit: Edit) -> list[float]:
    """Relative size of an edit per layer, on prompts of one modality, in one pass.

    Edits at other sites than `resid_post` act in the run but are not counted.

    Args:
        model: a loaded model.
        prompts: at least one.
        edit: with one strength for all rows.

    Returns:
        one number per layer of the model; 0 where nothing is edited.
    """
    facts = anatomy(model)
    edit.check(facts)
    plan, sites, blocks = edit.plan(), site_modules(model, edit), layers(model)
    early = {layer: [p for p in plan if p[0] == layer and p[1] != "resid_post"] for layer in range(facts.n_layers)}
    late = {layer: [p for p in plan if p[0] == layer and p[1] == "resid_post"] for layer in range(facts.n_layers)}
    total, n = torch.zeros(facts.n_layers), 0
    for rows, batch in batches(model, list(prompts)):
        last = batch.last
        with torch.no_grad(), model.trace(**batch.inputs):
            sizes = []
            for layer, block in enumerate(blocks):
                edit_blocks(sites, early[layer])
                before = gather(residual(block.output), last).float()
                edit_blocks(sites, late[layer])
                after = gather(residual(block.output), last).float()
                sizes.append(((after - before).norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-9)).sum())
            found = torch.stack(sizes).save()  # type: ignore[attr-defined]  # nnsight's
        total += found.cpu()
        n += len(rows)
    return [float(value) for value in total / max(n, 1)]
