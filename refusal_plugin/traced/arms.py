"""Many directions at once: rows of one batch that differ in what acts on them, reduced beside the weights.

One pass over a batch whose rows repeat the same prompts under different directions costs far less than one pass per
direction: the overhead of a trace is paid once.
"""

import torch

from .measure import kl_divergence, refusal_score
from .passes import forward_with_edits
from .selecting import repeated


def score_rows(model, blocks, work, refusal_ids, price):
    """Refusal score and price of every row of some batches.

    Args:
        model, blocks: traced.
        work: per batch the inputs of its prompts, how often these stand in it, and the modules and the plan of the
            edit of all rows (see `write.edit_blocks`).
        refusal_ids: (k,) tokens that open a refusal.
        price: whether each batch also runs its prompts untouched.

    Returns:
        per batch (2, row) float32 on the CPU: refusal score, and KL(untouched || edited) of the next token with
        `price`, else 0; both in nats.
    """
    found = []
    for inputs, copies, sites, edits in work:
        logits = forward_with_edits(model, blocks, repeated(inputs, copies), sites, edits)
        score = refusal_score(logits, refusal_ids)
        cost = torch.zeros_like(score)
        if price:
            plain = forward_with_edits(model, blocks, inputs, [], [])
            cost = kl_divergence(logits, plain.repeat(copies, 1))
        found.append(torch.stack([score, cost]).cpu())
    return found
