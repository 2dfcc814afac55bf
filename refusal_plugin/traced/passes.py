"""One forward pass per function: what a session does many times, in one place.

They open a trace themselves, so they run inside a session (or alone) and never inside another trace. Nothing is stopped
early: in NDIF 0.1.2's sandbox a stopped trace disturbs the next one. A pass that needs no more than one block leaves
the blocks behind it out instead.
"""

import torch

from .measure import agrees
from .read import at_ends, next_logits
from .resume import begin_behind, run_behind, stream_behind
from .write import edit_blocks


def forward_with_edits(model, blocks, inputs, sites, edits):
    """The model with edits; see `write.edit_blocks`. Returns logits of the next token (batch, vocab)."""
    with model.trace(**inputs):
        edit_blocks(sites, edits)
        logits = next_logits(model.output).save()
    return logits


def forward_from_layer(model, blocks, inputs, ends, begin, sites, edits, keep):
    """The model from behind one block; see `resume.run_behind`.

    Args:
        ends: (prompt, 2) row and column of each prompt's last token, see `resume.run_behind`.
        begin: (layer, hidden, extras), see `resume.begin_behind`; layer -1 is the whole model.
        keep: whether the streams are wanted.

    Returns:
        logits of the next token (prompt, vocab), and the streams of `run_behind`.
    """
    layer, hidden, extras = begin
    from_end = ends - torch.tensor([0, inputs["input_ids"].shape[1]])  # the head may run at the last columns only
    with model.trace(**inputs):
        stream = run_behind(blocks, layer, hidden, extras, sites, edits, ends, keep).save()
        logits = at_ends(model.output.logits, from_end).save()
    return logits, stream


def additive(sees, dtype):
    """An attention mask as a model adds it to its logits: 0 where a token is seen, the lowest number elsewhere.

    Args:
        sees: (batch, 1, pos, pos) bool.
        dtype: of the model.
    """
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)


def holds_on_trees(model, blocks, inputs, ends, expected):
    """Whether the model computes on prefix trees what it computes on the prompts one by one.

    It does not where it builds its own masks (a window shorter than a prompt, positions by distance in the row) or
    where it is no attention at all; some of these raise.

    Args:
        inputs, ends: trees, see `refusal_plugin.prompts.tree`.
        expected: (prompt, vocab) logits of the prompts in plain rows.
    """
    try:
        found = forward_from_layer(model, blocks, inputs, ends, (-1, torch.empty(0), -1), [], [], False)[0]
    except Exception:
        return False
    return bool(agrees(found, expected, found.dtype).all())


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
