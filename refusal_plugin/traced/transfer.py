"""Fits beside the weights: means of groups, a model's own refusal tokens, bases of safe spaces."""

import torch


def class_means(rows, groups, n_groups):
    """Mean of rows by group, in float64.

    Args:
        rows: (n, layer, d_model).
        groups: (n,) integer group of each row; a negative number leaves the row out.
        n_groups: number of groups, each with at least one row.

    Returns:
        (n_groups, layer, d_model).
    """
    means = []
    for group in range(n_groups):
        means.append(rows[groups == group].double().mean(0))
    return torch.stack(means)


def opening_tokens(first, harmful, share):
    """First tokens of a model's own refusals, from its next-token choices alone (no judge reads the answers).

    A token counts if at least `share` of the harmful prompts are answered with it and it opens answers to harmful
    prompts more often than to harmless ones. The rule needs a model that refuses most harmful prompts.

    Args:
        first: (n,) most likely next token of each prompt.
        harmful: (n,) bool.
        share: smallest share of the harmful prompts.

    Returns:
        (k,) token ids, the most frequent one if none reaches the share.
    """
    bad, good = first[harmful], first[~harmful]
    ids, counts = torch.unique(bad, return_counts=True)
    often = counts / max(1, len(bad))
    elsewhere = torch.stack([(good == token).float().mean() if len(good) else torch.zeros(()) for token in ids])
    kept = ids[(often >= share) & (often > elsewhere.to(often.device))]
    return kept if len(kept) else ids[counts.argmax()].reshape(1)


def safe_bases(parts, n, layer, k):
    """Principal directions of several groups from sums that were collected batch by batch.

    Args:
        parts: per batch (counts (g,), sums (g, 1, layer, d), products (g, 1, layer, d, d)) as `group_moments` gives
            them; the last n groups are wanted.
        n: how many groups.
        layer: which layer.
        k: directions to keep.

    Returns:
        list of n tensors (d, k), orthonormal, by falling variance, float64.
    """
    bases = []
    for group in range(-n, 0):
        count = torch.stack([counts[group] for counts, _, _ in parts]).sum()
        total = torch.stack([sums[group, 0, layer] for _, sums, _ in parts]).sum(0)
        product = torch.stack([products[group, 0, layer] for _, _, products in parts]).sum(0)
        mean = total / count
        _, vectors = torch.linalg.eigh(product - count * mean.unsqueeze(1) * mean.unsqueeze(0))
        bases.append(vectors.flip(-1)[:, :k])
    return bases
