"""Measure candidate directions beside the weights: all passes of a selection in one session.

`directions.selection` says what the figures mean. Candidates are rows of one batch, additions begin behind their own
block, and all strengths of a layer are searched in step, from where those of the layer before were found. Work
comes in units, so that a selection too large for one request is cut between them:

    {"kind": "ablate", "operator": ..., "places": [(layer, p), ...], "stream": bool}     candidates as rows of a batch
    {"kind": "add", "layer": l, "ps": [p, ...], "induce": bool, "priced": [p, ...], "target": nats}     behind block l

`p` counts the candidates' positions. Every call makes the two plain passes anew (they are the reference of the KL) and
moves the streams from the first block to its first layer; that is what cutting costs.
"""

import torch

from .grid import grid_ask, grid_begin, grid_law, grid_tell
from .measure import kl_divergence, refusal_score
from .passes import forward_from_layer, forward_one_block, forward_with_edits
from .resume import per_row, removed_at
from .write import add, set_coordinate


def measure_candidates(model, blocks, sites, bench, harmful, benign, ids, units, plain=None):
    """Figures of candidate directions `harmful - benign` (towards refusal).

    Args:
        model: the traced model.
        blocks: its decoder blocks.
        sites: per block, site name to traced module, all sites in the order in which they run.
        bench: validation prompts, see `directions.figures.bench`.
        harmful, benign: (position, layer, d_model) means of the fit.
        ids: (k,) tokens that open a refusal.
        units: see above.
        plain: of an earlier call with the same prompts, to spare the two plain passes.

    Returns:
        dict: "harmful", "benign": mean streams (layer, d_model) of the validation prompts; "layers": COSMIC's
        evaluation layers; "units": per unit a dict of tensors with one row per candidate.
    """
    if plain is None:
        plain = plain_runs(model, blocks, bench)
    means = {name: plain[name]["stream"].mean(0) for name in ("harmful", "benign")}
    chosen = evaluation_layers(means["harmful"], means["benign"])
    table = {
        "model": model,
        "blocks": blocks,
        "sites": sites,
        "ids": ids,
        "bench": bench,
        "plain": plain,
        "layers": chosen,
        "harmful": harmful,
        "benign": benign,
        "streams": {},
        "limits": {},
        "faint": faint_edits(harmful[bench["last"]], benign[bench["last"]], bench["keep"]),
    }
    found = []
    for unit in units:
        found.append(ablated(table, unit) if unit["kind"] == "ablate" else added(table, unit))
    return {"harmful": means["harmful"], "benign": means["benign"], "layers": chosen, "units": found}


def plain_runs(model, blocks, bench):
    """Per group of prompts what `plain_run` finds; benign prompts are a part of the safe ones."""
    plain = {name: plain_run(model, blocks, bench[name]) for name in ("harmful", "safe")}
    rows = bench["benign_rows"]
    plain["benign"] = {key: plain["safe"][key][rows] for key in ("logits", "stream")}
    return plain


def plain_run(model, blocks, run):
    """Next-token logits (prompt, vocab) and streams (prompt, layer, d_model) of the untouched model."""
    order, logits, streams = [], [], []
    for rows, inputs in run["batches"]:
        some, stream = forward_from_layer(model, blocks, inputs, (-1, torch.empty(0), -1), [], [], True)
        order += rows
        logits.append(some.float().cpu())
        streams.append(stream.cpu())
    back = torch.tensor(order).argsort()
    return {"logits": torch.cat(logits)[back], "stream": torch.cat(streams)[back]}


def evaluation_layers(harmful, benign):
    """The tenth of layers with the lowest cosine between two mean streams (layer, d_model), lowest first."""
    a, b = harmful.double(), benign.double()
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    similarity = (a * b).sum(-1).clamp(-1.0, 1.0).float()
    return similarity.argsort()[: max(1, round(0.1 * len(similarity)))]


def faint_edits(harmful, benign, keep):
    """Edits that move the last token's coordinate part of the way to its benign mean; see `Direction.attenuated`.

    A layer whose means are equal has no direction: its unit is zero, and the edit changes nothing there.
    """
    units = torch.nn.functional.normalize(harmful - benign, dim=-1)
    edits = []
    for layer in range(len(units)):
        tensors = {"unit": units[layer], "value": float(benign[layer] @ units[layer]), "keep": keep}
        edits.append((layer, "resid_post", "last", set_coordinate, tensors))
    return edits


def ablated(table, unit):
    """Harmful and benign prompts without each candidate.

    Returns:
        "bypass" (candidate,) mean score of harmful prompts; "kl" (candidate,) of benign ones; "stream"
        (candidate, chosen layer, d_model) of harmful ones where it is asked for.
    """
    removed = removal(table, unit["places"], unit["operator"])
    n = len(unit["places"])
    harmful = sweep_rows(table, "harmful", n, removed=removed, keep=unit["stream"])
    benign = sweep_rows(table, "benign", n, removed=removed)
    found = {"bypass": torch.stack([row.mean() for row in harmful["score"]]), "kl": benign["kl"].mean(1)}
    if unit["stream"]:
        found["stream"] = harmful["stream"][:, table["layers"]]
    return found


def removal(table, places, operator):
    """How candidates are removed: unit vectors (candidate, d_model) and, for a mean, origins (candidate, layer)."""
    units, origins = [], []
    for layer, p in places:
        vector = table["harmful"][p, layer] - table["benign"][p, layer]
        units.append(vector / vector.norm())
        origins.append(torch.stack([mean @ units[-1] for mean in table["benign"][p]]))
    return torch.stack(units), torch.stack(origins) if operator == "benign_mean" else None


def added(table, unit):
    """Prompts with the candidates of one layer added behind it.

    Returns:
        "at_harmful", "at_safe" (candidate, prompt) coordinates along the candidates; "induce" (candidate,) and "stream"
        (candidate, chosen layer, d_model) of benign prompts where asked for; "strength", "kl_add", "gain" (priced,).
    """
    layer = unit["layer"]
    vectors = table["harmful"][unit["ps"], layer] - table["benign"][unit["ps"], layer]
    found = {}
    for name in ("harmful", "safe"):
        along = [table["plain"][name]["stream"][:, layer] @ (vector / vector.norm()) for vector in vectors]
        found["at_" + name] = torch.stack(along)
    if unit["induce"]:
        begin = stream_to(table, "benign", layer)
        steered = sweep_rows(table, "benign", len(vectors), begin=begin, vectors=vectors, keep=True)
        found["induce"] = torch.stack([row.mean() for row in steered["score"]])
        found["stream"] = whole_streams(table, layer, vectors, steered["stream"])[:, table["layers"]]
    if unit["priced"]:
        chosen = torch.stack([vectors[unit["ps"].index(p)] for p in unit["priced"]])
        found.update(priced(table, layer, unit["priced"], chosen, unit["target"]))
    return found


def whole_streams(table, layer, vectors, later):
    """Mean benign streams of all layers: before the addition nothing changes, at its layer the vector is added."""
    benign = table["plain"]["benign"]["stream"].mean(0)
    parts = [torch.cat([benign[:layer], (benign[layer] + vector).unsqueeze(0)]) for vector in vectors]
    return torch.cat([torch.stack(parts), later], dim=1)


def priced(table, layer, ps, vectors, target):
    """The strength at which each vector costs `target` nats on safe prompts, its cost, and its gain on faint harm."""
    bench, n = table["bench"], len(vectors)
    begin = stream_to(table, "safe", layer)
    bottom, top, size = bench["strengths"]
    known = [table["limits"].get(p, (size, 2.0)) for p in ps]
    start, power = (torch.tensor(column) for column in zip(*known, strict=True))
    state = grid_begin(start, power, size)
    where, which = grid_ask(state, target)
    while len(which):
        strength = bottom + (top - bottom) * where / size
        moved = (strength.unsqueeze(1) * vectors)[which]
        costs = sweep_rows(table, "safe", len(which), begin=begin, vectors=moved)["kl"].mean(1)
        grid_tell(state, where, which, costs, target)
        where, which = grid_ask(state, target)
    ends, powers = grid_law(state, target)
    table["limits"].update(zip(ps, zip(ends.tolist(), powers.tolist(), strict=True), strict=True))
    strength = bottom + (top - bottom) * state["low"] / size
    before = faint_score(table)
    begin = stream_to(table, "faint", layer)
    moved = strength.unsqueeze(1) * vectors
    after = sweep_rows(table, "harmful", n, begin=begin, vectors=moved, later=table["faint"])
    return {"strength": strength, "kl_add": state["low_cost"], "gain": (after["score"] - before).mean(1)}


def faint_score(table):
    """Refusal scores (prompt,) of harmful prompts whose direction is halved; measured once."""
    if "faint_score" not in table:
        run = table["bench"]["harmful"]
        score = torch.empty(run["n"])
        for rows, inputs in run["batches"]:
            logits = forward_with_edits(table["model"], table["blocks"], inputs, table["sites"], table["faint"])
            score[rows] = refusal_score(logits, table["ids"]).cpu()
        table["faint_score"] = score
    return table["faint_score"]


def stream_to(table, name, layer):
    """The stream of "benign", "safe" or "faint" harmful prompts behind a layer: moved on, or begun again.

    Returns:
        dict: "layer", "extras", and for each batch "hidden" (batch, pos, d_model).
    """
    stream = table["streams"].get(name)
    if stream is None or stream["layer"] > layer:
        stream = {"layer": -1, "extras": -1, "hidden": None}
    # The faint ones are edited at the last token, the others not at all.
    edits = table["faint"] if name == "faint" else []
    work = table["bench"]["harmful" if name == "faint" else name]["batches"]
    while stream["layer"] < layer:
        moved, extras = [], stream["extras"]
        for k, (_rows, inputs) in enumerate(work):
            hidden = torch.empty(0) if stream["hidden"] is None else stream["hidden"][k]
            begin = (stream["layer"], hidden, stream["extras"])
            one, extras = forward_one_block(table["model"], table["blocks"], inputs, begin, table["sites"], edits)
            moved.append(one)
        stream = {"layer": stream["layer"] + 1, "extras": extras, "hidden": moved}
    table["streams"][name] = stream
    return stream


def sweep_rows(table, name, n, removed=None, begin=None, vectors=None, later=(), keep=False):
    """What n candidates do to the next token of every prompt, many of them as rows of one batch.

    Args:
        table: of `measure_candidates`.
        name: which prompts.
        n: number of candidates.
        removed: from `removal`.
        begin, vectors: a stream, and what each candidate (n, d_model) adds to it at all positions.
        later: edits of later layers, the same for every candidate.
        keep: whether streams are wanted.

    Returns:
        "score", "kl" (n, prompt), and "stream" (n, layer, d_model), means over the prompts, if `keep`.
    """
    run, blocks = table["bench"][name], table["blocks"]
    start = -1 if begin is None else begin["layer"]
    score, kl, streams = torch.empty(n, run["n"]), torch.zeros(n, run["n"]), None
    for place, (rows, inputs) in enumerate(run["batches"]):
        size, length = inputs["input_ids"].shape
        at_once = max(1, table["bench"]["budget"] // (size * length))
        for first in range(0, n, at_once):
            chunk = slice(first, min(n, first + at_once))
            copies = chunk.stop - chunk.start
            edits = list(later) if removed is None else removing(table["sites"], removed, chunk, size)
            hidden, extras = torch.empty(0), -1
            if begin is not None:
                hidden = add(begin["hidden"][place].repeat(copies, 1, 1), per_row(vectors[chunk], size))
                extras = begin["extras"]
            wanted = keep and start + 1 < len(blocks)
            logits, stream = forward_from_layer(
                table["model"],
                blocks,
                repeated(inputs, copies),
                (start, hidden, extras),
                table["sites"],
                edits,
                wanted,
            )
            shape = (copies, len(rows))
            score[chunk, rows] = refusal_score(logits, table["ids"]).cpu().reshape(shape)
            reference = table["plain"][name]["logits"][rows].repeat(copies, 1)
            kl[chunk, rows] = kl_divergence(logits, reference).cpu().reshape(shape)
            if wanted:
                if streams is None:
                    streams = torch.zeros(n, stream.shape[1], stream.shape[2], dtype=torch.float64)
                streams[chunk] += stream.double().cpu().unflatten(0, shape).sum(1)
    mean = torch.empty(n, 0, table["harmful"].shape[-1]) if streams is None else (streams / run["n"]).float()
    return {"score": score, "kl": kl, "stream": mean}


def removing(sites, removed, chunk, size):
    """Site edits that remove the candidates of a chunk, each from its own rows."""
    unit = per_row(removed[0][chunk], size)
    if removed[1] is None:
        every = [(layer, site) for layer in range(len(sites)) for site in removed_at(layer, sites[layer])]
        return [(layer, site, "all", set_coordinate, {"unit": unit}) for layer, site in every]
    edits = []
    for layer in range(len(sites)):
        origin = per_row(removed[1][chunk, layer].unsqueeze(1), size)
        edits.append((layer, "resid_post", "last", set_coordinate, {"unit": unit, "value": origin}))
    return edits


def repeated(inputs, copies):
    """The inputs of a batch, its rows repeated."""
    if copies == 1:
        return inputs
    many = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            value = value.repeat(copies, *[1] * (value.ndim - 1))
        many[name] = value
    return many
