"""Rank all candidates to first order, so that few have to be measured: `traced.slopes` says what the slopes are.

    causal     bypass     mean score of harmful prompts + mean of removed
               induce     mean score of benign prompts + mean of added
               KL         cost of removed, on benign prompts
    defence    strength   c*, the largest on the grid at which adding c r costs `target_kl` on safe prompts
               gain       c* x mean of added, on harmful prompts whose direction is halved
    cost       KL between a refusal or not, with the score s moved by its slope a, and the rest by its curvature:
               mean of KL(sigma(s) || sigma(s + c a)) + c^2/2 max(0, mean of probe^2 - sigma(s) sigma(-s) a^2)

The first part of the cost is not left to the curvature: where a model is sure not to refuse, that is nothing near zero
and much soon after. It is one forward and two backward passes over the safe, and one of each over the harmful prompts,
for every layer and position together; all figures are estimates.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.edits import Operator
from ..inference.loop import Item, re_encoder, run_batches
from ..inference.scores import Encoded
from ..models import layers
from ..models.running import running
from ..models.wrapper import save
from ..prompts import PromptSet
from ..prompts.light import next_token_inputs
from ..traced.selecting import faint_edits
from ..traced.slopes import slopes
from .calibration import TARGET_KL
from .direction import Candidates
from .figures import GRID, KEEP, STRENGTHS, Figures, Place, sites_of

BUDGET = 2048
"""Tokens in one batch: a backward pass keeps what every block computed."""


def estimate(
    model: Any,
    candidates: Candidates,
    prompts: PromptSet,
    tokens: RefusalTokens,
    *,
    objective: str,
    operator: Operator = "project_out",
    target_kl: float = TARGET_KL,
    remote: bool | str = False,
) -> dict[Place, Figures]:
    """First-order figures of every candidate: those that an objective rests on.

    Args:
        model: a loaded model.
        candidates, prompts, tokens, objective, operator, target_kl, remote: as in `select_direction`.

    Raises:
        ModelError: a single prompt does not fit into memory (larger batches are halved).
        RemoteError: the server refuses or fails, say because it gives no gradients.
    """
    vectors = candidates.vectors
    units = normalize(vectors, dim=-1)
    table = {
        "vectors": vectors,
        "origins": torch.einsum("pld,pkd->pkl", candidates.benign, units),
        "ids": tokens.ids,
    }
    last = candidates.positions.index(-1)
    faint = faint_edits(candidates.harmful[last], candidates.benign[last], KEEP)
    safe = prompts.filter(role=("benign", "near_miss"))
    harmful, benign = prompts.filter(role="harmful"), prompts.filter(role="benign")

    def run(some: PromptSet, goals: Sequence[str], edits: Sequence[Any] = (), kind: str = "") -> dict[str, Any]:
        wanted = {"removed": kind == "removed", "levelled": kind == "removed" and operator == "benign_mean"}
        return _over(model, some, goals, edits, table | wanted, remote)

    if objective == "defence":
        at_safe = run(safe, ["score", "probe"])
        score, probe = at_safe["score"], at_safe["probe"]
        grid = torch.linspace(*STRENGTHS, GRID + 1)
        costs = torch.stack([_cost(score["value"], c * score["added"], c * probe["added"]) for c in grid])
        strength = grid[((costs <= target_kl).cumprod(0).sum(0) - 1).clamp_min(0)]
        gain = strength * run(harmful, ["score"], faint)["score"]["added"].mean(0)
        return _figures(candidates, {"strength": strength, "gain": gain})
    at_harm, at_rest = run(harmful, ["score"], kind="removed")["score"], run(benign, ["score", "probe"], kind="removed")
    score, probe = at_rest["score"], at_rest["probe"]
    found = {
        "bypass": at_harm["value"].mean() + _taken(at_harm, last).mean(0),
        "induce": score["value"].mean() + score["added"].mean(0),
        "kl_ablate": _cost(score["value"], _taken(score, last), _taken(probe, last)),
    }
    return _figures(candidates, found)


def _cost(score: Tensor, change: Tensor, probe: Tensor) -> Tensor:
    """Estimated KL, see the module: (position, layer).

    Args:
        score: (prompt,) refusal scores.
        change, probe: (prompt, position, layer) first-order changes of the score and of the probe.
    """
    s = score[:, None, None]
    up, down = s.sigmoid(), (-s).sigmoid()
    refuses = up * (logsigmoid(s) - logsigmoid(s + change)) + down * (logsigmoid(-s) - logsigmoid(-s - change))
    rest = probe.square().mean(0) - (up * down * change.square()).mean(0)
    return refuses.mean(0) + rest.clamp_min(0.0) / 2


def _taken(found: Mapping[str, Tensor], last: int) -> Tensor:
    """Effects of removal: at the last position as the operator has it, projected out at others."""
    removed = found["removed"].clone()
    if "levelled" in found:
        removed[:, last] = found["levelled"][:, last]
    return removed


def _over(
    model: Any,
    prompts: PromptSet,
    goals: Sequence[str],
    edits: Sequence[Any],
    table: dict[str, Any],
    remote: bool | str,
) -> dict[str, dict[str, Tensor]]:
    """`slopes` of all prompts, in batches that are halved where they do not fit."""
    blocks, sites = layers(model), sites_of(model)

    def measure(group: list[Item]) -> list[Any]:
        work = [(next_token_inputs(model, batch), table | {"seed": rows[0]}) for rows, batch in group]
        with running(model, "rank directions", remote), model.session(remote=remote):
            found = save([])
            for inputs, one in work:
                found.append(slopes(model, blocks, sites, inputs, edits, one, goals))
        return found  # type: ignore[no-any-return]

    encoded = Encoded.of(model, prompts, token_budget=BUDGET)
    found: dict[str, dict[str, Tensor]] = {goal: {} for goal in goals}
    for (rows, _batch), part in run_batches(encoded.batches, measure, re_encoder(model), remote=remote, passes=3.0):
        for goal in goals:
            for key, value in part[goal].items():
                whole = found[goal].setdefault(key, torch.empty(len(prompts), *value.shape[1:]))
                whole[rows] = value
    return found


def _figures(candidates: Candidates, found: Mapping[str, Tensor]) -> dict[Place, Figures]:
    return {
        (layer, position): {name: float(values[p, layer]) for name, values in found.items()}
        for p, position in enumerate(candidates.positions)
        for layer in range(candidates.n_layers)
    }
