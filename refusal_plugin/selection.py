"""Choose the layer and position of the refusal direction on a validation split of text.

By interventions (Arditi et al. 2024, arXiv 2406.11717), per candidate (layer, position), on validation prompts:

    bypass   mean refusal score of harmful prompts with the direction ablated at all layers and positions (low = causal)
    induce   mean refusal score of benign prompts with the full vector added at its own layer
    KL       KL(untouched || ablated) of the next token on benign prompts
    layer    only layers < 0.8 L

    objective="causal"   (the reference)  the smallest bypass among those with layer, KL <= 0.1 and induce >= 0
    objective="defence"  (ours)           the largest gain at equal cost, if positive, among those with layer:
        c*      the strength at which adding c r costs KL = `target_kl` on benign and near-miss prompts (bisection)
        gain    mean refusal score of harmful prompts whose direction was halved, with c* r added, minus without

For a defence the cost of ADDING on safe prompts matters, not the cost of ablating; and harmful text that the model
refuses anyway cannot show a gain. Hence the halved direction: before block 0 to L-1 the coordinate along r is moved
half-way to its mean on benign text. That is how media harm looks under the text direction (it is read, at about half
the coordinate), made from text alone, so that no harmful media is needed to choose a layer or a strength.

COSMIC (arXiv 2506.00085), without tokens: the evaluation layers are the tenth of layers with the lowest cosine
between mean harmful and mean benign; score = cos(ablated harmful, mean benign) + cos(steered benign, mean harmful)
over those layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from .calibration import largest_within
from .directions import Candidates, Direction
from .edits import addition, together
from .errors import DirectionError, PromptError
from .geometry import cosine
from .models import anatomy
from .progress import Progress, track
from .prompts import PromptSet
from .scores import Encoded, RefusalTokens, score
from .statistics import auroc

Objective: TypeAlias = Literal["causal", "defence"]
Method: TypeAlias = Literal["interventions", "cosmic"]
Operator: TypeAlias = Literal["project_out", "benign_mean"]

MAX_KL = 0.1
MAX_DEPTH = 0.8
KEEP = 0.5
STRENGTHS = (0.0, 2.0)


@dataclass(frozen=True)
class Row:
    """One line of the selection table; NaN where a figure was not needed.

    Attributes:
        layer, position: the candidate.
        bypass, induce: mean refusal scores in nats, see the module's equations.
        kl_ablate: nats per benign prompt.
        coefficient, gain: strength at equal cost, and what it gains on attenuated harmful text, in nats.
        kl_add: cost at that strength, nats per safe prompt.
        auroc: harmful against benign and near-miss validation prompts along the candidate.
        cosmic: COSMIC score.
        kept: whether it passed the filters; `reason` says why not.
    """

    layer: int
    position: int
    bypass: float
    induce: float
    kl_ablate: float
    coefficient: float
    kl_add: float
    gain: float
    auroc: float
    cosmic: float
    kept: bool
    reason: str
    chosen: bool = False


def select(
    model: Any,
    candidates: Candidates,
    prompts: PromptSet,
    tokens: RefusalTokens,
    *,
    objective: Objective = "defence",
    method: Method = "interventions",
    operator: Operator = "project_out",
    target_kl: float = 0.1,
    max_kl: float = MAX_KL,
    max_depth: float = MAX_DEPTH,
    progress: Progress = None,
) -> Direction:
    """The best candidate, with the whole selection table and a strength.

    Args:
        model: a loaded model.
        candidates: from `fit`.
        prompts: validation prompts (text): harmful, benign and, if there are any, near misses.
        tokens: the model's refusal tokens.
        objective: "defence" or "causal".
        method: "interventions" or "cosmic" (then `objective` only sets the filters).
        operator: how bypass and KL of ablation remove the direction: "project_out" of every layer and position (the
            reference), or set it to its "benign_mean" at the last prompt token (see `Direction.neutral`), which also
            works where the stream has a large offset along the direction. Candidates at
            other positions are always projected out: the mean belongs to the position it was read at.
        target_kl: nats per safe prompt that the stored strength may cost.
        max_kl, max_depth: limits of the filters.
        progress: None shows a bar where somebody can see it.

    Raises:
        PromptError: a role is missing, or prompts of the fit are used again.
        DirectionError: no candidate passes the filters; the error says which filter stopped how many.
    """
    _require_validation(candidates, prompts)
    bench = _Bench.of(model, candidates, prompts, tokens)
    rows = []
    total = len(candidates.positions) * candidates.n_layers
    with track(total, "layers and positions", progress) as advance:
        for position in candidates.positions:
            for layer in range(candidates.n_layers):
                rows.append(bench.measure(layer, position, objective, operator, target_kl, max_kl, max_depth))
                advance(1)
    kept = [row for row in rows if row.kept]
    if not kept:
        raise DirectionError(
            f"select a direction on '{anatomy(model).name}' for {objective}",
            f"none of {len(rows)} candidates passes ({_reasons(rows)})",
            "try operator='benign_mean', raise max_kl, use more prompts, or take candidates.at(layer) by hand",
        )
    if method == "cosmic":
        best = max(kept, key=lambda row: row.cosmic)
    elif objective == "causal":
        best = min(kept, key=lambda row: row.bypass)
    else:
        best = max(kept, key=lambda row: row.gain)
    if math.isnan(best.coefficient):
        best = replace(best, **bench.strength(best.layer, best.position, target_kl))
    place = (best.layer, best.position)
    table = tuple(vars(replace(best, chosen=True) if (row.layer, row.position) == place else row) for row in rows)
    chosen = candidates.at(best.layer, best.position)
    return replace(chosen, coefficient=best.coefficient, objective=objective, selection=method, table=table)


def _require_validation(candidates: Candidates, prompts: PromptSet) -> None:
    if -1 not in candidates.positions:
        raise DirectionError(
            "select a direction", f"the candidates were read at {list(candidates.positions)}", "include position -1"
        )
    for role in ("harmful", "benign"):
        if not any(p.role == role for p in prompts):
            raise PromptError("select a direction", f"the validation set has no {role} prompts", f"add {role} prompts")
    used = set(candidates.provenance.get("data_ids", ()))
    again = [p.id for p in prompts if p.id in used]
    if again:
        raise PromptError(
            "select a direction", f"{len(again)} validation prompts were used to fit it ('{again[0]}')", "split by pair"
        )


def _reasons(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    return ", ".join(f"{reason}: {n}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class _Bench:
    """The validation prompts and their untouched run, against which every candidate is measured."""

    model: Any
    candidates: Candidates
    refusal: Tensor
    harmful: Encoded
    benign: Encoded
    safe: Encoded
    harmful_residual: Float[Tensor, "harmful layer d_model"]
    safe_residual: Float[Tensor, "safe layer d_model"]
    benign_residual: Float[Tensor, "benign layer d_model"]
    benign_logits: Float[Tensor, "benign vocab"]
    safe_logits: Float[Tensor, "safe vocab"]

    @classmethod
    def of(cls, model: Any, candidates: Candidates, prompts: PromptSet, tokens: RefusalTokens) -> "_Bench":
        parts = {
            "harmful": Encoded.of(model, prompts.filter(role="harmful")),
            "benign": Encoded.of(model, prompts.filter(role="benign")),
            "safe": Encoded.of(model, prompts.filter(role=("benign", "near_miss"))),
        }
        runs = {
            name: score(model, part, tokens.ids, keep_logits=True, keep_residual=True) for name, part in parts.items()
        }
        harmful, benign, safe = runs["harmful"], runs["benign"], runs["safe"]
        assert harmful.residual is not None and benign.residual is not None and safe.residual is not None
        assert benign.logits is not None and safe.logits is not None
        return cls(
            model,
            candidates,
            tokens.ids,
            parts["harmful"],
            parts["benign"],
            parts["safe"],
            harmful.residual,
            safe.residual,
            benign.residual,
            benign.logits,
            safe.logits,
        )

    def measure(
        self,
        layer: int,
        position: int,
        objective: Objective,
        operator: Operator,
        target_kl: float,
        max_kl: float,
        max_depth: float,
    ) -> Row:
        direction = self.candidates.at(layer, position)
        removed = direction.neutral() if operator == "benign_mean" and position == -1 else direction.ablation()
        added = addition({layer: direction.vector})
        bypass = score(self.model, self.harmful, self.refusal, removed, keep_residual=True)
        without = score(self.model, self.benign, self.refusal, removed, reference=self.benign_logits)
        induce = score(self.model, self.benign, self.refusal, added, keep_residual=True)
        assert bypass.residual is not None and induce.residual is not None
        figures: dict[str, Any] = {
            "bypass": float(bypass.score.mean()),
            "induce": float(induce.score.mean()),
            "kl_ablate": float(without.kl.mean()),
            "auroc": auroc(
                self.harmful_residual[:, layer] @ direction.unit, self.safe_residual[:, layer] @ direction.unit
            ),
            "cosmic": self._cosmic(bypass.residual, induce.residual),
        }
        reason = _reason(layer, self.candidates.n_layers, figures, objective, max_kl, max_depth)
        cost: dict[str, Any] = {"coefficient": math.nan, "kl_add": math.nan, "gain": math.nan}
        if not reason and objective == "defence":
            cost = self.strength(layer, position, target_kl)
            reason = "" if cost["gain"] > 0 else "gain <= 0"
        return Row(layer, position, **figures, **cost, kept=not reason, reason=reason)

    def strength(self, layer: int, position: int, target_kl: float) -> dict[str, Any]:
        """The strength that costs `target_kl` on safe prompts, its cost, and its gain on attenuated harmful prompts."""
        direction = self.candidates.at(layer, position)

        def cost(coefficient: float) -> dict[str, float]:
            edit = addition({layer: direction.vector}, coefficient=coefficient)
            found = score(self.model, self.safe, self.refusal, edit, reference=self.safe_logits)
            return {"text": float(found.kl.mean())}

        coefficient, kl = largest_within(cost, target_kl, STRENGTHS)
        # Half-hidden harm is made at the last prompt token, whichever position the candidate was read at.
        faint = self.candidates.at(layer, -1).faint(KEEP)
        with_it = together("gain", faint, addition({layer: direction.vector}, coefficient=coefficient, when="prefill"))
        before = score(self.model, self.harmful, self.refusal, faint)
        after = score(self.model, self.harmful, self.refusal, with_it)
        return {"coefficient": coefficient, "kl_add": kl["text"], "gain": float((after.score - before.score).mean())}

    def _cosmic(
        self, ablated: Float[Tensor, "harmful layer d_model"], steered: Float[Tensor, "benign layer d_model"]
    ) -> float:
        harmful, benign = self.harmful_residual.mean(0), self.benign_residual.mean(0)
        similarity = cosine(harmful, benign)
        n = max(1, round(0.1 * len(similarity)))
        chosen = similarity.argsort()[:n]
        first = cosine(ablated.mean(0)[chosen].flatten(), benign[chosen].flatten())
        second = cosine(steered.mean(0)[chosen].flatten(), harmful[chosen].flatten())
        return float(first + second)


def _reason(
    layer: int, n_layers: int, figures: dict[str, Any], objective: Objective, max_kl: float, max_depth: float
) -> str:
    """Why a candidate is out; empty if it stays."""
    if any(math.isnan(value) for value in figures.values()):
        return "NaN"
    if layer >= max_depth * n_layers:
        return f"layer >= {max_depth:g} L"
    if objective == "causal" and figures["induce"] < 0:
        return "induce < 0"
    if objective == "causal" and figures["kl_ablate"] > max_kl:
        return f"KL of ablation > {max_kl:g}"
    return ""
