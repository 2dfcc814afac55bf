"""Which heads write the refusal direction: exact direct contributions, at the token where the direction is read.

    <resid_post[K], r>  =  <embedding, r>  +  sum over layers l <= K of ( sum over heads c[l, h] + bias[l] + mlp[l] )
                           + remainder
    c[l, h] = g * <z[l, h], W_O[l, h] w>         (w, g account for a norm behind the attention: `models.conservation`)

`r` has norm one and points TOWARDS refusal, so a positive contribution pushes towards refusal; the unit is that of the
residual stream. Exact: no linearisation, nothing trained. A head with a constant bias has a large contribution and no
CONTRAST (harmful minus benign), so ranks are by contrast.

What it does NOT show: what a head does through later layers (that is the total effect, `causal`), and why a head writes
(that is its sources, `sources`). Layers behind the direction's own cannot write it and are zero.

Sources: the decomposition of Elhage et al. 2021 (A mathematical framework for transformer circuits), projected before
it is built; the remainder is what the model adds outside heads, biases, MLPs and embedding, and is never hidden.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..inference.activations import position_index
from ..inference.loop import Item, ReEncode, re_encoder, run_batches
from ..models import anatomy
from ..models.heads import Read, head_reads, head_sites, norm_epsilons
from ..models.wrapper import save
from ..progress import Progress, track
from ..prompts import Prompt, batches
from ..traced.heads import direct_writes, read_layers
from .labels import Labels, chosen_prompts
from .result import HeadAttribution
from .targets import Target, Targets, targets


def attribute_heads(
    model: Any,
    directions: Target | Mapping[str, Target],
    prompts: Iterable[Prompt | str],
    *,
    remote: Any = False,
    system: str | None = None,
    token_budget: int = 8192,
    max_rows: int = 128,
    progress: Progress = None,
) -> HeadAttribution:
    """Direct contribution of every head, MLP and bias to the stream along directions, prompt by prompt.

    One trace per batch, stopped behind the last layer that can write the direction; a few numbers per prompt come back.
    Remote runs need no weights here: the read vectors are made inside the session.

    Args:
        model: a loaded model.
        directions: a `Direction`, a pair (vector (d_model,), layer), or several of them by name.
        prompts: of any modality the model takes.
        remote: run on NDIF: one request, or several where one would exceed `remote.Settings.max_tokens`.
        system: system text.
        token_budget, max_rows: limits of one batch.
        progress: None shows a bar where somebody can see it.

    Raises:
        ModelError: the model's stream is not the sum of its parts.
        DirectionError: a direction that does not fit the model.
        PromptError: 0 prompts, or one the model does not take.
        DataError: NaN activations.
        ModelError: a single prompt does not fit into memory.
        RemoteError: the server refuses or fails; says why and what to do.
    """
    aims = targets(model, directions)
    chosen = chosen_prompts(prompts, "attribute heads")
    work = batches(model, chosen, token_budget=token_budget, max_rows=max_rows, system=system)
    rows, found = [], []
    with track(len(chosen), "direct contributions", progress) as advance:
        for (own, _), part in direct_contributions(model, aims, work, re_encoder(model, system=system), remote=remote):
            rows.append(own)
            found.append(part)
            advance(len(own))
    return assemble(found, rows, aims, Labels.of(chosen), anatomy(model).name)


def direct_contributions(
    model: Any, aims: Targets, work: Iterable[Item], again: ReEncode | None, *, remote: Any = False
) -> Iterator[tuple[Item, dict[str, Tensor]]]:
    """The measurement itself, one trace per batch; see `traced.heads.direct_writes` for what is yielded with each.

    Args:
        work: row numbers and their batch.
        again: see `loop.backed_off`.
        Others as in `attribute_heads`.
    """
    facts, ids = anatomy(model), range(aims.depth)
    sites, epsilons = head_sites(model, ids), norm_epsilons(model, ids)
    units, most = aims.units, max(site["heads"][0] for site in sites)
    # Where the weights are elsewhere, each request makes the read vectors in a pass over its first batch.
    known: list[Read] = [] if facts.remote else head_reads(model, units, ids)

    def measure(items: list[Item]) -> list[dict[str, Tensor]]:
        calls = [(batch.inputs, position_index(batch, [aims.position])) for _rows, batch in items]
        with torch.no_grad(), model.session(remote=remote):
            found = save([])
            reads = list(known)
            if not reads:
                with model.trace(**calls[0][0]) as tracer:
                    reads.extend(read_layers(sites, units, epsilons))
                    tracer.stop()
            for inputs, index in calls:
                with model.trace(**inputs) as tracer:
                    found.append(direct_writes(sites, reads, units, index))
                    tracer.stop()
        return list(found)

    options: dict[str, Any] = {"remote": remote, "row_bytes": 4 * aims.depth * (most + 3) * units.shape[1]}
    return run_batches(work, measure, again, asked=f"attribute the heads of {facts.name}", **options)


def assemble(
    found: list[dict[str, Tensor]], rows: list[list[int]], aims: Targets, labels: Labels, model: str
) -> HeadAttribution:
    """Batches back in the order of the prompts; layers behind a direction's own are zero, the rest is the remainder."""
    n = len(labels)
    parts: dict[str, Tensor] = {}
    for name in ("heads", "bias", "mlp", "embedding", "stream"):
        parts[name] = torch.empty(n, *found[0][name].shape[2:])
        for places, batch in zip(rows, found, strict=True):
            parts[name][places] = batch[name][:, 0]
    stream = parts.pop("stream")
    own = torch.tensor(aims.layers)
    written = (torch.arange(aims.depth)[:, None] <= own).float()  # (layer, direction)
    carry = found[0]["carry"][own]  # (direction,): what the layers have scaled the stream by, 1 in most models
    written = written * carry
    heads, bias, mlp = parts["heads"] * written[:, None], parts["bias"] * written, parts["mlp"] * written
    embedding = parts["embedding"] * carry
    total = stream[:, own, torch.arange(len(own))]
    known = embedding + heads.sum((1, 2)) + bias.sum(1) + mlp.sum(1)
    if not bool(torch.isfinite(total).all() and torch.isfinite(known).all()):
        bad = int((~torch.isfinite(total + known)).any(1).int().argmax())
        found_here = f"NaN or infinity in prompt '{labels.ids[bad]}'"
        raise DataError(f"attribute the heads of {model}", found_here, "load in float32 or bfloat16")
    return HeadAttribution(
        heads=heads,
        bias=bias,
        mlp=mlp,
        embedding=embedding,
        constant=torch.zeros_like(total),
        remainder=total - known,
        total=total,
        labels=labels,
        names=aims.names,
        layers=aims.layers,
        norms=aims.norms,
        model=model,
    )
