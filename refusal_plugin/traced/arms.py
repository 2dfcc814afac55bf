"""Many directions at once: rows of one batch that differ in what acts on them, reduced beside the weights.

One pass over a batch whose rows repeat the same prompts under different directions costs far less than one pass per
direction: the overhead of a trace is paid once.
"""

import torch

from .measure import kl_divergence, refusal_score
from .passes import forward_with_edits


def score_rows(model, blocks, work, refusal_ids):
    """Refusal score and price of every row of some batches.

    Args:
        model, blocks: traced.
        work: per batch its inputs, the modules and the plan of its edit (see `write.edit_blocks`), and either None or
            the inputs of the same prompts once, with the number of the prompt (row,) behind each row.
        refusal_ids: (k,) tokens that open a refusal.

    Returns:
        per batch (2, row) float32 on the CPU: refusal score, and KL(untouched || edited) of the next token where the
        prompts are given once, else 0; both in nats.
    """
    found = []
    for inputs, sites, edits, plain in work:
        reference = None
        if plain is not None:
            reference = forward_with_edits(model, blocks, plain[0], [], [])[plain[1]]
        logits = forward_with_edits(model, blocks, inputs, sites, edits)
        score = refusal_score(logits, refusal_ids)
        price = torch.zeros_like(score) if reference is None else kl_divergence(logits, reference)
        found.append(torch.stack([score, price]).cpu())
    return found
