"""What one forward and one backward pass say about every candidate direction at once, to first order.

J is a number of one prompt, `h[l]` the stream behind block l, r a vector and u its unit:

    added(l, r)    = sum over positions of <dJ/dh[l], r>
                     adding c r behind block l, at all positions, changes J by about c times this
    removed(u)     = - sum over writes w and positions of <dJ/dw, u> <w, u>
                     projecting u out of all that is written into the stream (the embedding, attention, MLPs) takes it
                     out of every layer; the streams themselves are no writes, or each would count many times
    levelled(u, o) = sum over layers of <dJ/dh[l] at the last token, u> ((o[l] - o[l-1]) - <h[l] - h[l-1], u>)
                     the same where the last token's coordinate is set to o[l] in every layer

Two numbers are used as J: the refusal score s, and a random probe of the curvature of KL, which has no slope at the
untouched model. With random signs e_y over the vocabulary and p held fixed,

    z = sum over y of e_y sqrt(p_y) log p_y,      E (dz)^2 = sum over y of p_y (d log p_y)^2,
    KL(untouched || edited) ~ (dz)^2 / 2          on average over the signs (Fisher's information)

Sources: attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348). First order errs most where a candidate
is added early and much happens behind it: the estimates rank, `traced.selecting` measures.
"""

import torch

from .measure import refusal_score
from .read import next_logits, residual
from .write import edit_blocks


def slopes(model, blocks, sites, inputs, edits, table, goals):
    """First-order effects of all candidates on some numbers of each prompt.

    Args:
        model, blocks, sites: as in `selecting.measure_candidates`.
        inputs: of one batch, left-padded.
        edits: what acts meanwhile, see `write.edit_blocks`, on `resid_post` only: slopes are those behind it.
        table: "vectors" (position, layer, d_model) to add; "ids" of the tokens that open a refusal; "seed" of the
            signs; "origins" (position, layer, layer): coordinates to set at the last token per candidate, for the
            first of these positions; "removed", "levelled": whether these are wanted.
        goals: of "score" and "probe", each one backward pass.

    Returns:
        per goal a dict of float32 tensors on the CPU: "value" (batch,), "added" and where asked "removed" and
        "levelled" (batch, position, layer).
    """
    with torch.enable_grad(), model.trace(**inputs):
        begin = residual(blocks[0].input)
        begin.requires_grad_(True)  # a leaf: no weight asks for a gradient, so this is where the graph begins
        streams, writes = [], [begin]
        for layer in range(len(blocks)):
            for site in ("attn_out", "mlp_out"):
                if table["removed"] and site in sites[layer]:
                    writes.append(residual(sites[layer][site].output))
            edit_blocks(sites, [edit for edit in edits if edit[0] == layer])
            streams.append(residual(blocks[layer].output))
        found = []
        logits = next_logits(model.output)
        for goal in goals:
            value = refusal_score(logits, table["ids"]) if goal == "score" else probe(logits, table["seed"])
            slope = torch.autograd.grad(value.sum(), streams + writes, retain_graph=goal != goals[-1])
            found.append(effects(streams, writes, slope, value, inputs["attention_mask"], table))
        found = found.save()  # type: ignore[attr-defined]
    return dict(zip(goals, found, strict=True))


def probe(logits, seed):
    """Sum over the vocabulary of random signs x sqrt(p) x log p, p held fixed: (batch,) float32."""
    logp = torch.log_softmax(logits.float(), dim=-1)
    signs = torch.randint(0, 2, logp.shape, generator=torch.Generator().manual_seed(seed))
    weight = (2.0 * signs - 1.0).to(logp.device) * (logp.detach() / 2).exp()
    return torch.where(logp.detach() > -80.0, weight * logp, 0.0).sum(-1)


def effects(streams, writes, slope, value, mask, table):
    """The three sums of the module, per prompt and candidate."""
    vectors = table["vectors"]
    units = torch.nn.functional.normalize(vectors, dim=-1).flatten(0, 1)
    behind, into = slope[: len(streams)], slope[len(streams) :]
    shape = (len(value), vectors.shape[0], vectors.shape[1])
    found = {"value": value.detach().float().cpu()}
    added = []
    for layer, g in enumerate(behind):
        whole = masked(g, mask).float().sum(1)
        added.append((whole @ vectors[:, layer].to(g.device).T).cpu())
    found["added"] = torch.stack(added, dim=-1)
    if table["removed"]:
        removed = torch.zeros(len(value), len(units))
        for w, g in zip(writes, into, strict=True):
            u = units.to(g.device, g.dtype).T
            along = (masked(g, mask) @ u).float() * (masked(w.detach(), mask) @ u).float()
            removed -= along.sum(1).cpu()
        found["removed"] = removed.reshape(shape)
    if table["levelled"]:
        origins, changed = table["origins"].flatten(0, 1), torch.zeros(len(value), len(units))
        before, level = 0.0, 0.0
        for layer, g in enumerate(behind):
            u = units.to(g.device).T
            along = (streams[layer].detach()[:, -1].float() @ u).cpu()
            step = (origins[:, layer] - level) - (along - before)
            changed += (g[:, -1].float() @ u).cpu() * step
            before, level = along, origins[:, layer]
        found["levelled"] = changed.reshape(shape)
    return found


def masked(x, mask):
    """Zero at padding, whatever is there."""
    return torch.where(mask.to(x.device).bool().unsqueeze(-1), x, 0)
