"""One forward pass per function: what a session does many times, in one place.

They open a trace themselves, so they run inside a session (or alone) and never inside another trace. Nothing is stopped
early: in NDIF 0.1.2's sandbox a stopped trace disturbs the next one. A pass that needs no more than one block leaves
the blocks behind it out instead.
"""

from .read import residuals
from .resume import begin_behind, run_behind, stream_behind
from .write import edit_blocks


def plain_pass(model, blocks, inputs, last):
    """The model as it is.

    Args:
        model: the traced model.
        blocks: its decoder blocks.
        inputs: keyword arguments of its forward pass.
        last: (batch, 1) last prompt token of every row.

    Returns:
        logits of the next token (batch, vocab), and (batch, layer, d_model) float32 `resid_post` at the last token.
    """
    with model.trace(**inputs):
        stream = residuals(blocks, last)[:, 0].save()
        logits = model.output.logits[:, -1].save()
    return logits, stream


def edited_pass(model, blocks, inputs, sites, edits):
    """The model with edits; see `write.edit_blocks`. Returns logits of the next token (batch, vocab)."""
    with model.trace(**inputs):
        edit_blocks(sites, edits)
        logits = model.output.logits[:, -1].save()
    return logits


def rest_pass(model, blocks, inputs, last, begin, sites, edits, keep):
    """The model from behind one block; see `resume.run_behind`.

    Args:
        begin: (layer, hidden, extras), see `resume.begin_behind`; layer -1 is the whole model.
        keep: whether the streams are wanted.

    Returns:
        logits of the next token (batch, vocab), and the streams of `run_behind`.
    """
    layer, hidden, extras = begin
    with model.trace(**inputs):
        stream = run_behind(blocks, layer, hidden, extras, sites, edits, last, keep).save()
        logits = model.output.logits[:, -1].save()
    return logits, stream


def block_pass(model, blocks, inputs, begin, sites, edits):
    """One block further than `begin`; the blocks behind it are left out.

    Returns:
        (batch, pos, d_model) behind block `layer + 1`, and `extras` of its output.
    """
    layer, hidden, extras = begin
    with model.trace(**inputs):
        found = stream_behind(blocks, layer + 1, hidden, extras, sites, edits)
        moved, more = found[0].save(), found[1].save()
        begin_behind(blocks[layer + 2 :], len(blocks), moved, more)
    return moved, more
