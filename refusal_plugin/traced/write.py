"""Edits of the residual stream: one function per kind, written once, used everywhere.

An edit function takes the rows it may change, `x` of shape (batch, q, d_model), and plain tensors, and returns the
new rows. It treats the rows of a batch independently. `place` writes its result back into the hidden state, in place,
at the last position (`where="last"`) or at all (`where="all"`); the same two functions run in a trace, in `generate`,
in a remote session and in torch hooks, so that a parity test can hold them to identical ids.

Signs: a direction points TOWARDS refusal; adding it makes the model refuse more.
"""

import torch

from .read import residual


def row(value, x):
    """A strength beside the rows: numbers stay, tensors (batch, 1, 1) go to the device, in float32."""
    if isinstance(value, torch.Tensor):
        return value.to(device=x.device, dtype=torch.float32)
    return value


def add(x, vector, strength=1.0):
    """`x + strength v`: activation addition (ActAdd, Turner et al. 2023; CAA, Rimsky et al. 2024).

    Args:
        x: (batch, q, d_model).
        vector: (d_model,), or (batch, 1, d_model) for a vector of its own in each row.
        strength: a number, or (batch, 1, 1) for a strength of its own in each row.
    """
    step = vector.to(device=x.device)
    if isinstance(strength, torch.Tensor) or strength != 1.0:
        step = row(strength, x) * step
    return x + step.to(x.dtype)


def set_coordinate(x, unit, value=0.0, keep=0.0):
    """`x + (1 - keep)(value - u^T x) u`: set the coordinate along `u`, or move it part of the way.

    value 0 projects the direction out (directional ablation, Arditi et al. 2024); any other is the affine form (ACE,
    arXiv 2411.09003). Idempotent where `keep` is 0. A causal test, never a way to store weights.

    Args:
        x: (batch, q, d_model), or (batch q, d_model): some MLPs (OPT's) put all tokens into one axis.
        unit: (d_model,) of norm one, or (batch, 1, d_model) for a direction of its own in each row.
        value: the coordinate that is set or approached, a number, or (batch, 1, 1).
        keep: share of the distance that stays: 0 sets the coordinate, 1 changes nothing; a number, or (batch, 1, 1).
    """
    u = unit.to(device=x.device, dtype=x.dtype)
    if u.ndim == 1:
        along = (x @ u).unsqueeze(-1)
        return x + ((1.0 - row(keep, x)) * (row(value, x) - along)).to(x.dtype) * u
    rows = x.reshape(len(u), -1, x.shape[-1])
    along = (rows * u).sum(-1, keepdim=True)
    return (rows + ((1.0 - row(keep, x)) * (row(value, x) - along)).to(x.dtype) * u).reshape(x.shape)


def blend(x, target, strength):
    """`x + strength (target - x)`, strength cut to 0..1: a step towards a point that never overshoots.

    Args:
        x: (batch, q, d_model).
        target: (d_model,).
        strength: a number, or (batch, 1, 1).
    """
    share = torch.as_tensor(row(strength, x), dtype=torch.float32, device=x.device).clamp(0.0, 1.0)
    return x + (share * (target.to(x.device) - x.float())).to(x.dtype)


def transform(x, matrix, strength):
    """`x + strength x M`: a step that is a linear function of the stream (AlphaSteer, arXiv 2506.07022).

    Args:
        x: (batch, q, d_model).
        matrix: (d_model, d_model), applied from the right.
        strength: a number, or (batch, 1, 1).
    """
    return x + (row(strength, x) * (x.float() @ matrix.to(x.device))).to(x.dtype)


def on_rows(x, rows, function, tensors):
    """An edit of some rows of a batch: rows of different edits run side by side.

    Args:
        x: (batch, q, d_model).
        rows: (k,) row numbers.
        function: an edit function.
        tensors: its keyword arguments.
    """
    index = rows.to(x.device)
    out = x.clone()
    out[index] = function(x[index], **tensors)
    return out


def place(hidden, where, function, tensors):
    """Write an edit into a hidden state, in place.

    Args:
        hidden: (batch, pos, d_model) or a tuple that begins with it; its storage is changed.
        where: "last" (position -1: batches are left-padded, so it is each row's newest token) or "all".
        function: an edit function of this file.
        tensors: its keyword arguments; those on another device move there for good, once and not at every step.
    """
    h = residual(hidden)
    settle(tensors, h.device)
    if where == "last":
        h[:, -1:] = function(h[:, -1:], **tensors)
    else:
        h[:] = function(h, **tensors)


def settle(tensors, device):
    """Move tensors of keyword arguments to a device, in place; what a run remembers is there already."""
    for name in tensors:
        value = tensors[name]
        if isinstance(value, dict) and name != "memory":
            settle(value, device)
        elif isinstance(value, torch.Tensor) and value.device != device:
            tensors[name] = value.to(device)


def edit_blocks(sites, edits):
    """Apply edits to the blocks of a traced model, in the order in which the model runs.

    Args:
        sites: per block, a dict from site name to the traced module whose tensor is edited
            (`resid_pre` is edited at that module's input, every other site at its output); an edit of a place that is
            not in it is left out.
        edits: per edit, a tuple `(layer, site, where, function, tensors)`, sorted by execution order.
    """
    for layer, site, where, function, tensors in edits:
        if site not in sites[layer]:
            continue
        if site == "resid_pre":
            place(sites[layer][site].input, where, function, tensors)
        else:
            place(sites[layer][site].output, where, function, tensors)
