"""Read the residual stream at chosen token positions.

Sites (`resid_pre`, `attn_out`, `mlp_out`, `resid_post`) follow TransformerLens. `layers` is the list of decoder
blocks of the traced model (`refusal_plugin.models.layers(model)`), bound to a local name before the block.
"""

import torch


def residual(output):
    """The hidden state of a module's output: blocks return a tensor or a tuple that begins with it.

    The one place that normalises: `output[0]` on a plain tensor would silently be row 0 of the batch.

    Args:
        output: (batch, pos, d_model), or a tuple whose first entry is that.
    """
    if isinstance(output, (tuple, list)):
        return output[0]
    return output


def gather(hidden, index):
    """Rows of the hidden state at per-prompt positions.

    Args:
        hidden: (batch, pos, d_model).
        index: (batch, k) integer positions, as derived from the attention mask.

    Returns:
        (batch, k, d_model), a copy: a slice would keep the whole hidden state alive.
    """
    index = index.to(hidden.device)
    return torch.gather(hidden, 1, index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


def next_logits(output):
    """Logits of the next token, where the head ran at one position and where it ran at all of them.

    Args:
        output: of the model, with `logits` (batch, pos, vocab).

    Returns:
        (batch, vocab), a copy: a slice would keep the logits of every position alive, and take them out of the trace.
    """
    return output.logits[:, -1].clone()


def span_mean(hidden, mask):
    """Mean of the hidden state over a masked span of each row.

    Args:
        hidden: (batch, pos, d_model).
        mask: (batch, pos) bool, at least one True per row.

    Returns:
        (batch, 1, d_model) in float32.
    """
    weight = mask.to(device=hidden.device, dtype=torch.float32)
    total = torch.einsum("bp,bpd->bd", weight, hidden.float())
    return (total / weight.sum(1, keepdim=True)).unsqueeze(1)


def residuals(layers, index):
    """`resid_post` of several blocks at per-prompt positions, in one pass.

    Args:
        layers: the decoder blocks to read, in the order in which they run.
        index: (batch, k) integer positions.

    Returns:
        (batch, k, layer, d_model) float32.
    """
    rows = []
    for layer in layers:
        rows.append(gather(residual(layer.output), index).float())
    return torch.stack(rows, dim=2)


def span_residuals(layers, mask):
    """`resid_post` of several blocks, averaged over a masked span of each row.

    Returns:
        (batch, 1, layer, d_model) float32.
    """
    rows = []
    for layer in layers:
        rows.append(span_mean(residual(layer.output), mask))
    return torch.stack(rows, dim=2)
