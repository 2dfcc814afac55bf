"""Reduce beside the weights: return a few numbers per prompt, not activations.

Signs: the refusal score grows with refusal; a projection is positive towards refusal.
"""

import torch


def refusal_score(logits, refusal_ids):
    """Log odds that the next token opens a refusal (Arditi et al. 2024, with the model's own refusal tokens).

    `logsumexp(logits[refusal]) - logsumexp(logits[all others])`, in nats; 0 means one half.

    Args:
        logits: (batch, vocab) at the last prompt position.
        refusal_ids: (k,) token ids.

    Returns:
        (batch,) float32.
    """
    x = logits.float()
    refusal = torch.zeros(x.shape[-1], dtype=torch.bool, device=x.device)
    refusal[refusal_ids.to(x.device)] = True
    inside = torch.logsumexp(x[:, refusal], dim=-1)
    outside = torch.logsumexp(x[:, ~refusal], dim=-1)
    return inside - outside


def opening_score(logits, nodes):
    """Log odds that the next tokens open a refusal: `refusal_score` for openings of several tokens.

    At every beginning of an opening the probability mass parts: into tokens that complete an opening, tokens that lead
    on, and all others, which leave.

    Args:
        logits: (path x batch, pos, vocab), the last columns of prompts that are followed by the paths.
        nodes: per beginning, parents first: its parent (-1 for none), the token that leads to it, the tokens that
            complete an opening, those that lead on, and where its logits are: path, and tokens behind the prompt.

    Returns:
        (batch,) float32.
    """
    copies = 1 + max(path for _, _, _, _, path, _ in nodes)
    behind = max(depth for _, _, _, _, _, depth in nodes)
    rows = logits.shape[0] // copies
    first = logits.shape[1] - 1 - behind
    inside, outside = [], []
    # The root's logits need no normalising: it would cancel.
    steps = [logits[:rows, first].float()]
    reached = [torch.zeros(rows, device=logits.device)]
    for parent, token, leaves, inner, path, depth in nodes:
        if parent >= 0:
            here = logits[path * rows : (path + 1) * rows, first + depth].float()
            reached.append(reached[parent] + steps[parent][:, token])
            steps.append(torch.log_softmax(here, dim=-1))
        here, mass = steps[-1], reached[-1]
        stay = torch.zeros(here.shape[-1], dtype=torch.bool, device=here.device)
        stay[leaves] = True
        if leaves:
            inside.append(mass + torch.logsumexp(here[:, stay], dim=-1))
        stay[inner] = True
        outside.append(mass + torch.logsumexp(here[:, ~stay], dim=-1))
    return torch.logsumexp(torch.stack(inside), dim=0) - torch.logsumexp(torch.stack(outside), dim=0)


def kl_divergence(logits, reference):
    """KL(reference || edited) of next-token distributions, per prompt, in nats.

    Args:
        logits: (batch, vocab) of the edited run.
        reference: (batch, vocab) of the untouched run.

    Returns:
        (batch,) float32, never negative.
    """
    edited = torch.log_softmax(logits.float(), dim=-1)
    plain = torch.log_softmax(reference.to(edited.device).float(), dim=-1)
    return (plain.exp() * (plain - edited)).sum(-1).clamp_min(0.0)


def group_moments(rows, groups, n_groups, second):
    """Counts, sums and sums of products of rows by group, in float64.

    These add up over batches, so a server returns O(groups x layers x d_model) numbers (d_model^2 with "full") however
    many prompts it saw.

    Args:
        rows: (batch, k, layer, d_model).
        groups: (batch,) integer group of each row.
        n_groups: number of groups.
        second: "diagonal" for sums of squares, "full" for sums of outer products.

    Returns:
        counts (n_groups,), sums (n_groups, k, layer, d_model), products of the same shape or with one d_model more.
    """
    x = rows.double()
    member = torch.nn.functional.one_hot(groups.to(x.device), n_groups).to(x.dtype)
    sums = torch.einsum("bg,bkld->gkld", member, x)
    if second == "full":
        products = torch.stack([torch.einsum("b,bkld,bkle->klde", w, x, x) for w in member.unbind(1)])
    else:
        products = torch.einsum("bg,bkld->gkld", member, x * x)
    return member.sum(0), sums, products


def agrees(found, expected, dtype):
    """Whether a quick way of computing something gives what the plain way gives, to the rounding of its number format.

    Args:
        found, expected: (..., d) logits or streams.
        dtype: in which the model computes.

    Returns:
        (...) bool: the difference is below 1e-3 of the norm (1e-5 in float64, 3e-2 in half precision); never for NaN.
    """
    limit = {torch.float32: 1e-3, torch.float64: 1e-5}.get(dtype, 3e-2)
    a, b = found.double(), expected.to(found.device).double()
    return (a - b).norm(dim=-1) <= limit * b.norm(dim=-1).clamp_min(1e-30)
