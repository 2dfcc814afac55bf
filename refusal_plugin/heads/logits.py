"""Direct logit attribution: which heads push towards the words that open a refusal, away from those of an answer.

    logit[t] = f[t] * ( g * <resid_post[L-1], w[t]> + constant[t] )
    refuse minus comply = mean over refusal tokens of logit - mean over answer tokens of logit

`w[t]` is token t's row of the output head pulled back through the final norm, `g` that norm's scale at the last prompt
token, `f[t]` what stands between head and logits (Granite's and Cohere's scale, Gemma 2's soft cap) taken as it acted
at this very point. So the parts add up to the model's own logits exactly, although norm and cap are not linear; at
another point they would have other factors. Sign: positive pushes towards refusing. Unit: nats of logit.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.answers import generate
from ..models import anatomy, unembed
from ..models.heads import final_read, head_reads, head_sites
from ..models.wrapper import save
from ..progress import Progress
from ..prompts import Prompt, PromptSet, batches
from ..traced.heads import direct_writes, logit_factors, norm_scale
from ..traced.heads import rows as rows_at
from ..traced.read import next_logits
from .labels import Labels, chosen_prompts
from .result import HeadAttribution


def answer_tokens(model: Any, prompts: PromptSet, tokens: RefusalTokens, *, share: float = 0.05) -> Tensor:
    """First tokens of what the model says to benign prompts, without the refusal tokens: (k,) int64.

    Raises:
        DataError: every answer opens like a refusal.
    """
    said = generate(model, prompts.filter(role="benign"), max_new_tokens=1, progress=False)
    first = [answer.ids[0] for answer in said if answer.ids]
    refusing = set(tokens.ids.tolist())
    ids = [token for token in sorted(set(first) - refusing) if first.count(token) >= share * len(first)]
    if not ids:
        raise DataError(
            f"find the answer tokens of '{anatomy(model).name}'",
            f"its {len(first)} answers to benign prompts open like refusals",
            "pass comply_ids",
        )
    return torch.tensor(ids)


def attribute_logits(
    model: Any,
    refuse_ids: Tensor,
    comply_ids: Tensor,
    prompts: Iterable[Prompt | str],
    *,
    token_budget: int = 4096,
    max_rows: int = 64,
    progress: Progress = None,
) -> HeadAttribution:
    """Direct contribution of every head to the logit difference of refusing and complying, at the last prompt token.

    Args:
        model: a loaded model, on this machine.
        refuse_ids, comply_ids: (k,), (m,) token ids, see `refusal_tokens` and `answer_tokens`.
        prompts: of any modality the model takes.
        token_budget, max_rows: limits of one batch.
        progress: None shows a bar where somebody can see it.

    Returns:
        A `HeadAttribution` in nats of logit; `constant` holds the biases of final norm and head, `remainder` what is
        left between the sum and the model's own logits.

    Raises:
        ModelError: no output head, a remote model, or heads that cannot be attributed.
        DataError: no token on one side, or one token on both.
    """
    both = set(refuse_ids.tolist()) & set(comply_ids.tolist())
    if not len(refuse_ids) or not len(comply_ids) or both:
        found = f"tokens {sorted(both)} on both sides" if both else "no token on one side"
        raise DataError("attribute logits", found, "give disjoint sets of tokens")
    facts = anatomy(model)
    chosen = chosen_prompts(prompts, "attribute logits")
    ids = torch.cat([refuse_ids, comply_ids]).cpu()
    weight = torch.cat([torch.full((len(x),), s / len(x)) for x, s in ((refuse_ids, 1.0), (comply_ids, -1.0))])
    w, constant, norm = final_read(model, ids)
    sites, reads = head_sites(model, range(facts.n_layers)), head_reads(model, w, range(facts.n_layers))
    output, n = unembed(model), len(chosen)
    parts: dict[str, Tensor] = {}
    for rows, batch in batches(model, chosen, token_budget=token_budget, max_rows=max_rows):
        last = batch.last
        with torch.no_grad(), model.trace(**batch.inputs):
            written = save(direct_writes(sites, reads, w, last))
            stream = rows_at(sites[-1]["layer"].output, last)[:, 0].cpu().save()
            raw = output.output[:, -1].clone().float().cpu().save()
            logits = next_logits(model.output).float().cpu().save()
        scale = torch.ones(len(rows)) if norm is None else _scale(norm, stream)
        factor = logit_factors(raw[:, ids], logits[:, ids]) * weight  # (batch, token)
        mix = factor * scale[:, None] * written["carry"][-1]
        mixed = {
            "heads": torch.einsum("blhk,bk->blh", written["heads"][:, 0], mix),
            **{name: torch.einsum("blk,bk->bl", written[name][:, 0], mix) for name in ("bias", "mlp")},
            "embedding": (written["embedding"][:, 0] * mix).sum(-1),
            "constant": (factor * constant).sum(-1),
            "total": (logits[:, ids] * weight).sum(-1),
        }
        for name, value in mixed.items():
            parts.setdefault(name, torch.empty(n, *value.shape[1:]))[rows] = value
    known = parts["heads"].sum((1, 2)) + parts["bias"].sum(1) + parts["mlp"].sum(1)
    known = known + parts["embedding"] + parts["constant"]
    return HeadAttribution(
        heads=parts["heads"].unsqueeze(-1),
        bias=parts["bias"].unsqueeze(-1),
        mlp=parts["mlp"].unsqueeze(-1),
        embedding=parts["embedding"].unsqueeze(-1),
        constant=parts["constant"].unsqueeze(-1),
        total=parts["total"].unsqueeze(-1),
        remainder=(parts["total"] - known).unsqueeze(-1),
        labels=Labels.of(chosen),
        names=("refuse - comply",),
        layers=(facts.n_layers - 1,),
        norms=torch.ones(1),
        model=facts.name,
        unit="logit",
    )


def _scale(norm: Any, stream: Tensor) -> Tensor:
    scale: Tensor = norm_scale(stream, norm.epsilon, norm.centred)
    return scale
