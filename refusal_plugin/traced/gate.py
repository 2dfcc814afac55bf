"""Edits that decide per row whether and how far to step.

`mars` decides at the position it edits. The others decide on the prompt and keep the decision for the answer:
`remember` notes a strength per row in a memory while the prompt is read, `recall` multiplies the strength of an edit
by it. The memory is a dict that belongs to one run (`Edit.plan` and `Edit.attached` make a new one), and every prompt
overwrites it.

A prompt is told from a decode step by its length: a rendered prompt is never one token long, a decode step always is.
Where all but the last token of the prompt has been read before (`refusal_plugin.prefill`), the run begins with that
token, and its memory is empty. Every row of a batch is decided by itself.
"""

import torch

from .write import row


def mars(x, unit, centre, safe, unsafe, margin, reach, norm, target, strength, gate, mode):
    """One step along `unit` for the rows whose re-centred coordinate lies beyond a margin (MARS, arXiv 2606.31876).

        z = x - centre,  p = <z, unit>,  d_s = ||z - safe||,  d_u = ||z - unsafe||
        wanted = ||r|| d_s / (d_s + d_u)   (mode "distance")   or   max(0, target - p)   (mode "target")
        step   = open(p) min(strength wanted, max(0, reach - p))
        open   = 1[p > margin] ("hard"), 1[p > margin] min(1, 2 (p - margin) / ||r||) ("soft"), or 1 ("none")

    Args:
        x: (batch, q, d_model).
        unit: (d_model,) of norm one, towards refusal.
        centre: (d_model,), or (batch, 1, d_model) where rows are of different modalities.
        safe, unsafe: (d_model,) text centroids, relative to the centre of text.
        margin, reach, norm, target: numbers in the units of the stream: gate, end of the trust region, ||r||, target.
        strength: a number, or (batch, 1, 1).
        gate: "hard", "soft" or "none".
        mode: "distance" or "target".
    """
    u = unit.to(x.device)
    z = x.float() - row(centre, x)
    p = (z @ u).unsqueeze(-1)
    if mode == "target":
        wanted = (target - p).clamp_min(0.0)
    else:
        near = (z - safe.to(x.device)).norm(dim=-1, keepdim=True)
        far = (z - unsafe.to(x.device)).norm(dim=-1, keepdim=True)
        wanted = norm * near / (near + far).clamp_min(1e-12)
    step = torch.minimum(row(strength, x) * wanted, (reach - p).clamp_min(0.0))
    if gate != "none":
        step = step * (p > margin)
    if gate == "soft":
        step = step * (2.0 * (p - margin) / norm).clamp(0.0, 1.0)
    return x + (step * u).to(x.dtype)


def ramp(x, unit, low, high):
    """A strength that rises linearly with the coordinate along `unit`: 0 up to `low`, 1 from `high` on.

    Args:
        x: (batch, 1, d_model), the last prompt token.

    Returns:
        (batch, 1, 1).
    """
    p = x.float() @ unit.to(x.device)
    return ((p - low) / (high - low)).clamp(0.0, 1.0).unsqueeze(-1)


def sigmoid(x, unit, middle, width):
    """A strength `1 / (1 + exp(-(p - middle) / width))` of the coordinate `p` along `unit`.

    Args:
        x: (batch, 1, d_model), the last prompt token.

    Returns:
        (batch, 1, 1).
    """
    p = x.float() @ unit.to(x.device)
    return torch.sigmoid((p - middle) / width).unsqueeze(-1)


def alike(x, unit, centre, threshold):
    """1 for rows whose cosine with `unit`, seen from `centre`, exceeds a threshold, else 0.

    Args:
        x: (batch, 1, d_model), the last prompt token.

    Returns:
        (batch, 1, 1).
    """
    z = x.float() - centre.to(x.device)
    cosine = (z @ unit.to(x.device)) / z.norm(dim=-1).clamp_min(1e-12)
    return (cosine > threshold).float().unsqueeze(-1)


def learned(x, centre, scale, inward, bias, outward, offset):
    """A strength in 0..1 from a network of one hidden layer, fitted to labelled prompts (OmniSteer, arXiv 2602.10161).

        sigmoid( w2 . relu( W1 z + b1 ) + b2 ),   z = (x - centre) / scale

    Args:
        x: (batch, 1, d_model), the last prompt token.
        centre, scale: (d_model,) of the prompts it was fitted on.
        inward, bias: (d_model, hidden) and (hidden,).
        outward, offset: (hidden,) and (1,).

    Returns:
        (batch, 1, 1).
    """
    z = (x.to(centre.dtype) - centre.to(x.device)) / scale.to(x.device)
    hidden = torch.relu(z @ inward.to(x.device) + bias.to(x.device))
    return torch.sigmoid(hidden @ outward.to(x.device) + offset.to(x.device)).unsqueeze(-1)


def always(x):
    """1 for every row: for edits that only need to know the step.

    Args:
        x: (batch, 1, d_model).

    Returns:
        (batch, 1, 1).
    """
    return torch.ones(x.shape[0], 1, 1, device=x.device)


def remember(x, memory, gate, condition):
    """Change nothing; note `gate(last prompt token)` for every row, and count the steps behind the prompt.

    Args:
        x: (batch, pos, d_model), all positions.
        memory: dict of this run, shared with `recall`.
        gate: a function of this file that returns (batch, 1, 1).
        condition: its keyword arguments.
    """
    if x.shape[1] > 1 or not memory:
        memory["strength"] = gate(x[:, -1:], **condition)
        memory["step"] = 0
    else:
        memory["step"] = memory["step"] + 1
    return x


def recall(x, memory, strength, function, tensors, first, last):
    """An edit with its strength multiplied by what was remembered of each row.

    Args:
        x: (batch, q, d_model).
        memory: dict of this run, shared with `remember`, which runs first.
        strength: a number, or (batch, 1, 1).
        function: an edit function with an argument `strength`.
        tensors: its other keyword arguments.
        first, last: the steps in which it acts; 0 is the prompt, `last=None` means to the end.
    """
    if memory["step"] < first or (last is not None and memory["step"] > last):
        return x
    return function(x, strength=row(strength, x) * memory["strength"].to(x.device), **tensors)
