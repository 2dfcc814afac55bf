"""One forward pass per function: what a session does many times, in one place.

They open a trace themselves, so they run inside a session (or alone) and never inside another trace. Nothing is stopped
early: in NDIF 0.1.2's sandbox a stopped trace disturbs the next one. A pass that needs no more than one block leaves
the blocks behind it out instead.
"""

from .read import next_logits
from .resume import begin_behind, run_behind, stream_behind
from .write import edit_blocks


def forward_with_edits(model, blocks, inputs, sites, edits):
    """The model with edits; see `write.edit_blocks`. Returns logits of the next token (batch, vocab)."""
    with model.trace(**inputs):
        edit_blocks(sites, edits)
        logits = next_logits(model.output).save()
    return logits


def forward_from_layer(model, blocks, inputs, begin, sites, edits, keep):
    """The model from behind one block; see `resume.run_behind`.

    Args:
        begin: (layer, hidden, extras), see `resume.begin_behind`; layer -1 is the whole model.
        keep: whether the streams are wanted.

    Returns:
        logits of the next token (batch, vocab), and the streams of `run_behind`.
    """
    layer, hidden, extras = begin
    with model.trace(**inputs):
        stream = run_behind(blocks, layer, hidden, extras, sites, edits, keep).save()
        logits = next_logits(model.output).save()
    return logits, stream


def forward_one_block(model, blocks, inputs, begin, sites, edits):
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
