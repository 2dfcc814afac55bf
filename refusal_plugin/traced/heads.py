"""What attention heads, MLPs and biases write along directions: projected where it arises, never built in full.

    c[b, h] = g(b) * <z[b, h], W_O[h] w>        z: input of the attention output projection, split into heads

`w` is the direction pulled back through a norm behind the attention and `g` that norm's scale (no such norm: `w = r`,
`g = 1`). A head's write of width d_model is never made: its `d_head` numbers meet a precomputed read vector.

A `site` is a dict of one decoder layer's traced modules: "layer", "attention" (what mixes positions), "projection" (its
output projection) and "norm" (behind it), each None where there is none; "factor", on what these add; "early" and
"late", pairs of a further part (the MLP and the like) and its factor, those that run before the attention and those
behind it; "keep", the factor on the stream that the layer was given; "heads", their number and their width. A `read`
is a dict of that layer's fixed tensors, made by `read_by_calling` or, where the weights are at hand, by
`refusal_plugin.models.heads.head_reads`. Signs: positive adds to the stream along `r`.
"""

import torch

from .read import gather, residual

LARGE = 1024.0  # a power of two, exact in every float format; an epsilon vanishes beside it
CHUNK = 512


def rows(hidden, index):
    """Rows of a module's input or output at per-prompt positions, whatever shape it has inside the layer.

    Args:
        hidden: (batch, pos, width), the same flattened to (batch * pos, width), or a tuple that begins with it.
        index: (batch, n) positions.

    Returns:
        (batch, n, width) float32, a copy.
    """
    h = residual(hidden)
    return gather(h.reshape(index.shape[0], -1, h.shape[-1]), index).float()


def norm_scale(x, epsilon, centred):
    """`1 / sqrt(mean square + epsilon)` of every row: (..., width) to (...), float32.

    Args:
        centred: True (LayerNorm), False (RMSNorm), or the same as a tensor of 1 or 0.
    """
    x = x.float()
    x = x - centred * x.mean(-1, keepdim=True)
    return torch.rsqrt(x.square().mean(-1) + epsilon)


def project_heads(z, read):
    """`<z[h], read[h, :, k]>` for every head and direction.

    Args:
        z: (..., head * d_head), input of the output projection.
        read: (head, d_head, k).

    Returns:
        (..., head, k) float32.
    """
    split = z.float().reshape(*z.shape[:-1], read.shape[0], read.shape[1])
    return torch.einsum("...hd,hdk->...hk", split, read.to(z.device))


def layer_writes(site, read, directions, index):
    """What one layer adds to the stream along directions at chosen positions.

    Args:
        site, read: see the module.
        directions: (d_model, k).
        index: (batch, n) positions.

    Returns:
        heads (batch, n, head, k), bias (batch, n, k), mlp (batch, n, k).
    """
    before = parts_write(site["early"], directions, index)
    heads, bias = read["read"].new_zeros(*index.shape, 0, directions.shape[-1]), 0.0 * directions[0]
    if site["projection"] is not None:
        z = rows(site["projection"].input, index)
        heads = project_heads(z, read["read"])
        constant, scaled = read["constant"].to(z.device), read["scaled"].to(z.device)
        bias = (constant + scaled).expand(*index.shape, -1)
        if site["norm"] is not None:
            scale = norm_scale(rows(site["attention"].output, index), read["epsilon"], read["centred"])
            heads = heads * scale[..., None, None]
            bias = constant + scale.unsqueeze(-1) * scaled
    mlp = before + parts_write(site["late"], directions, index)
    return heads, bias.expand(*index.shape, -1), mlp.expand(*index.shape, -1)


def parts_write(parts, directions, index):
    """What parts without heads add: `sum of factor * <output, directions>`.

    Args:
        parts: pairs (module, factor), in the order in which they run.
        directions: (d_model, k).
        index: (batch, n) positions.

    Returns:
        (batch, n, k) float32; zeros (k,) without parts.
    """
    found = 0.0 * directions[0].float()
    for module, factor in parts:
        written = rows(module.output, index)
        found = found.to(written.device) + factor * (written @ directions.to(written.device))
    return found


def no_heads(directions):
    """The `read` of a layer that has no heads.

    Args:
        directions: (d_model, k).
    """
    none = torch.zeros(directions.shape[-1])
    return {
        "read": torch.zeros(0, 1, directions.shape[-1]),
        "constant": none,
        "scaled": none,
        "epsilon": 0.0,
        "centred": False,
    }


def direct_writes(sites, reads, directions, index):
    """Every contribution to the stream along directions, layer by layer, in one pass.

    Args:
        sites, reads: one per layer, from layer 0 on.
        directions: (d_model, k).
        index: (batch, n) positions.

    Returns:
        dict of float32 tensors on the CPU: heads (batch, n, layer, head, k), layers with fewer heads filled up with
        zeros, bias and mlp (batch, n, layer, k), embedding (batch, n, k): the stream before layer 0, stream
        (batch, n, layer, k): behind every layer, and carry (layer,): what has multiplied the stream so far. The sum of
        the parts up to a layer times its carry is the stream behind it; carry is 1 unless layers scale the stream.
    """
    embedding, every_heads, every_bias, every_mlp, streams = [], [], [], [], []  # type: ignore[var-annotated]
    most = max([site["heads"][0] for site in sites])
    carry = []  # type: ignore[var-annotated]
    for site, read in zip(sites, reads, strict=True):
        if not embedding:
            before = rows(site["layer"].input, index)
            embedding.append((before @ directions.to(before.device)).cpu())
        heads, bias, mlp = layer_writes(site, read, directions, index)
        after = rows(site["layer"].output, index)
        carry.append(site["keep"] * (carry[-1] if carry else 1.0))
        missing = heads.new_zeros(*heads.shape[:2], most - heads.shape[2], heads.shape[3])
        every_heads.append(torch.cat([heads, missing], dim=2).cpu() / carry[-1])
        every_bias.append(bias.cpu() / carry[-1])
        every_mlp.append(mlp.cpu() / carry[-1])
        streams.append((after @ directions.to(after.device)).cpu())
    return {
        "heads": torch.stack(every_heads, dim=2),
        "bias": torch.stack(every_bias, dim=2),
        "mlp": torch.stack(every_mlp, dim=2),
        "stream": torch.stack(streams, dim=2),
        "embedding": embedding[0],
        "carry": torch.tensor(carry),
    }


def probe_norm(norm, width, like):
    """Gain, bias and kind of a norm, from calls with inputs that tell them: forms with `weight` and `1 + weight` agree.

    Args:
        norm: a norm module, called and never changed.
        like: a tensor of the device and dtype it works in.

    Returns:
        gain (width,), bias (width,) float32, centred: a tensor of 1 (LayerNorm) or 0 (RMSNorm).
    """
    signs = torch.ones(width, device=like.device, dtype=like.dtype)
    signs[1::2] = -1
    flat = torch.ones_like(signs) * LARGE
    calls = []
    for row in (signs * LARGE, -signs * LARGE, flat, -flat):
        calls.append(residual(norm(row.view(1, 1, width))).reshape(width).float())
    positive, negative, up, down = calls
    centred = ((up - down).abs().max() <= 1e-3 * positive.abs().max()).float()
    return (positive - negative) / 2 * signs.float(), (positive + negative) / 2, centred


def read_by_calling(site, directions, epsilon, like):
    """A layer's read vectors without its weights: the projection is called with the rows of the identity.

    Exact for any linear projection, LoRA and quantised ones included, and allowed on a server that shows no weight. The
    identity is scaled by a power of two, so that a bias costs no precision in half precision.

    Args:
        site: see the module.
        directions: (d_model, k).
        epsilon: of the norm behind the attention; unused without one.
        like: a tensor of the device and dtype the layer works in.

    Returns:
        a `read`, see the module.
    """
    if site["projection"] is None:
        return no_heads(directions)
    n_heads, width = site["heads"][0], site["heads"][0] * site["heads"][1]
    r = directions.to(like.device).float()
    back, behind, centred = r, torch.zeros_like(r[0]), torch.zeros_like(r[0, 0])
    if site["norm"] is not None:
        gain, offset, centred = probe_norm(site["norm"], r.shape[0], like)
        back = gain.unsqueeze(-1) * r
        back = back - centred * back.mean(0)
        behind = offset @ r
    zero = torch.zeros(1, 1, width, device=like.device, dtype=like.dtype)
    bias = residual(site["projection"](zero)).reshape(-1).float()
    parts = []
    for start in range(0, width, CHUNK):
        n = min(CHUNK, width - start)
        unit = torch.zeros(1, n, width, device=like.device, dtype=like.dtype)
        unit[0, torch.arange(n), torch.arange(start, start + n)] = LARGE
        parts.append((residual(site["projection"](unit)).reshape(n, -1).float() - bias) / LARGE @ back)
    factor = site["factor"]
    return {
        "read": factor * torch.cat(parts).reshape(n_heads, width // n_heads, -1),
        "constant": factor * behind,
        "scaled": factor * (bias @ back),
        "epsilon": epsilon,
        "centred": centred,
    }


def read_layers(sites, directions, epsilons):
    """The read vectors of several layers, in one pass of the model; see `read_by_calling`.

    Args:
        sites, epsilons: one per layer, from layer 0 on.
        directions: as there.
    """
    like = residual(sites[0]["layer"].output)
    reads = []
    for site, epsilon in zip(sites, epsilons, strict=True):
        reads.append(read_by_calling(site, directions, epsilon, like))
    return reads


def logit_factors(raw, logits):
    """What stands between the output head and the logits, per token: `logits = factor * raw`.

    A scale (Granite, Cohere) or a soft cap (Gemma 2) is taken as it acted at this very point, so that contributions
    times the factor add up to the logits exactly, although a cap is not linear.

    Args:
        raw: (batch, k) output of the head.
        logits: (batch, k) what the model returned.

    Returns:
        (batch, k) float32; where `raw` is too small to divide by, the factor of the row's largest entry.
    """
    raw, logits = raw.float(), logits.float()
    largest = raw.abs().argmax(-1, keepdim=True)
    fallback = (logits / raw).gather(-1, largest)
    small = raw.abs() < 1e-4 * raw.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    return torch.where(small, fallback, logits / torch.where(small, torch.ones_like(raw), raw))


def source_writes(values, pattern, read, scale):
    """From which positions heads write, at one query position: `A[h, s] * <v[h, s], W_O[h] w> * g`.

    Args:
        values: (batch, kv, source, d_head): the values that the attention mixes.
        pattern: (batch, head, source): the attention at the query position.
        read: (head, d_head): the direction's read vectors.
        scale: (batch,): the scale of the norm behind the attention; ones without one.

    Returns:
        (batch, head, source) float32; its sum over sources is the head's direct contribution.
    """
    v = values.float().repeat_interleave(read.shape[0] // values.shape[1], dim=1)
    seen = torch.einsum("bhsd,hd->bhs", v, read.to(v.device))
    return pattern.float() * seen * scale[:, None, None]


def silence(z, heads, width, value, where):
    """Replace what chosen heads hand to the output projection, in place: zero or mean ablation.

    Args:
        z: (batch, pos, head * d_head), input of the output projection; its storage is changed.
        heads: the heads of this layer that are replaced.
        width: d_head.
        value: (batch, head * d_head) or (head * d_head,): what to write (zeros, or means).
        where: "last" (position -1: batches are left-padded) or "all".
    """
    new = value.to(device=z.device, dtype=z.dtype)
    for head in heads:
        span = slice(head * width, (head + 1) * width)
        if where == "last":
            z[:, -1, span] = new[..., span]
        else:
            z[:, :, span] = new[..., span] if new.ndim == 1 else new[:, None, span]
