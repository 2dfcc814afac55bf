"""Begin a run in the middle: the blocks up to one layer are left out, their result is put in.

What an edit at layer l changes lies behind block l. If the stream there is known, the l + 1 blocks before it need not
run again: an edit at every layer in turn costs half of as many full passes. The model's own forward pass still makes
masks, positions and rotary embeddings, so it works for every architecture whose blocks hand on one tensor.
"""

import torch

from .read import residual
from .write import edit_blocks


def begin_behind(layers, layer, hidden, extras):
    """Leave out the blocks 0 to `layer`; the model goes on as if block `layer` had put out `hidden`.

    Args:
        layers: the decoder blocks.
        layer: the last block that is left out; -1 leaves out none.
        hidden: (batch, pos, d_model), `resid_post` of that block.
        extras: how many further entries the blocks' output has where it is a tuple, -1 where it is a tensor.
    """
    # Each block gets a stream of its own: edits further on write in place.
    for block in layers[: layer + 1]:
        if extras < 0:
            block.skip(hidden.clone())
        else:
            block.skip((hidden.clone(),) + (None,) * extras)


def stream_behind(layers, layer, hidden, extras, sites, edits):
    """One block further: run block `layer` on the stream behind the one before it.

    Args:
        layers: the decoder blocks.
        layer: the block to run.
        hidden: (batch, pos, d_model) behind block `layer - 1`; unused at layer 0.
        extras: see `begin_behind`.
        sites, edits: of `edit_blocks`; only those of this layer are applied.

    Returns:
        (batch, pos, d_model) behind block `layer`, and `extras` of its output.
    """
    begin_behind(layers, layer - 1, hidden, extras)
    edit_blocks(sites, [edit for edit in edits if edit[0] == layer])
    output = layers[layer].output
    n = len(output) - 1 if isinstance(output, (tuple, list)) else -1
    return residual(output).clone(), n


def run_behind(layers, layer, hidden, extras, sites, edits, keep):
    """Run the rest of the model, edited.

    Args:
        layers: the decoder blocks.
        layer, hidden, extras: see `begin_behind`.
        sites, edits: of `edit_blocks`; those of later layers are applied.
        keep: whether to return the streams.

    Returns:
        (batch, layer, d_model) float32 `resid_post` at the last prompt token of every later layer if `keep`, else an
        empty tensor.
    """
    begin_behind(layers, layer, hidden, extras)
    kept = []
    for number in range(layer + 1, len(layers)):
        edit_blocks(sites, [edit for edit in edits if edit[0] == number])
        if keep:
            kept.append(residual(layers[number].output)[:, -1].float())
    return torch.stack(kept, dim=1) if kept else torch.empty(0)


def removed_at(layer, sites):
    """The sites of a block at which to remove a direction: a later block's input is the output of the one before."""
    return [site for site in sites if layer == 0 or site != "resid_pre"]


def per_row(tensors, size):
    """One vector per candidate (candidate, d) as one per row (row, 1, d) of a batch with the prompts once for each."""
    return tensors.repeat_interleave(size, 0).unsqueeze(1)
