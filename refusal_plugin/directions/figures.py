"""The figures by which direction candidates are chosen: all passes of a selection in one session.

    ablation (bypass, KL)         acts in every block: full passes, candidates as rows of one batch
    addition (induce, cost, gain) acts behind its own block l: passes of the L - 1 - l blocks after it
    strength                      searched for all positions of a layer in step, one row per position

The session is `traced.selecting.measure_candidates`, on this machine as on a server: work that exceeds
`remote.Settings.max_tokens` is cut between units (groups of candidates, layers); every further request repeats the two
plain passes. What the figures mean stands in `selection`.
"""

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..evaluation.refusal_tokens import RefusalTokens
from ..geometry import cosine
from ..inference.edits import Operator, block_sites, site_module
from ..inference.scores import Encoded
from ..models import anatomy, layers
from ..models.running import running
from ..models.wrapper import save
from ..prompts import PromptSet
from ..prompts.light import next_token_inputs
from ..remote.cutting import portions, workload
from ..statistics import auroc
from ..traced.selecting import measure_candidates, plain_runs
from .calibration import TARGET_KL
from .direction import Candidates

Place: TypeAlias = tuple[int, int]
"""Layer and position of a candidate."""
Figures: TypeAlias = dict[str, float]
"""Some of "bypass", "induce", "kl_ablate", "cosmic", "auroc", "strength", "kl_add" and "gain" of a candidate."""

KEEP = 0.5
STRENGTHS = (0.0, 2.0)
GRID = 128
"""Strengths are multiples of 1/128 of that range."""
GROUP = 32
"""Candidates ablated together; bounds the streams that COSMIC keeps."""
TOKEN_BUDGET = 4096
"""Tokens in one batch, padding and candidates included."""
PROMPTS = 16
"""Prompts in one batch: candidates fill it, and little is padded."""
SEARCH = 5
"""Passes that a strength takes, about: for the estimate of cost."""


def measure(
    model: Any,
    candidates: Candidates,
    prompts: PromptSet,
    tokens: RefusalTokens,
    *,
    places: Sequence[Place],
    priced: Collection[Place] = (),
    removal: bool = True,
    operator: Operator = "project_out",
    target_kl: float = TARGET_KL,
    remote: bool | str = False,
    known: dict[str, Any] | None = None,
) -> dict[Place, Figures]:
    """Figures of given candidates, in one session, or in several where one would be too long for a server.

    Args:
        model: a loaded model.
        candidates: from `fit_direction`.
        prompts: validation text: harmful, benign and, if there are any, near misses.
        tokens: the model's refusal tokens.
        places: which candidates.
        priced: those whose strength, cost and gain are wanted.
        removal: whether bypass, induce, KL of ablation and COSMIC are wanted.
        operator, target_kl, remote: as in `select_direction`.
        known: shared by calls on this machine that ask for other candidates of the same: what need not run again.

    Raises:
        RemoteError: the server refuses or fails; says why and what to do.
    """
    known = {} if known is None or remote else known
    work = known["work"] = known.get("work") or bench(model, prompts, candidates.positions)
    harmful, benign, ids = candidates.harmful, candidates.benign, tokens.ids
    blocks, sites = layers(model), sites_of(model)
    every = units(candidates.positions, places, priced, removal=removal, operator=operator, target_kl=target_kl)
    found: list[dict[str, Any]] = []
    if not remote and "plain" not in known:
        with running(model, "select a direction"), torch.no_grad(), model.session():
            plain = save(plain_runs(model, blocks, work))
        known["plain"] = plain
    plain = known.get("plain")
    for (some,) in portions(work_of(model, work, every), remote=remote, fixed=2 * tokens_of(work)):
        with running(model, "select a direction", remote), torch.no_grad(), model.session(remote=remote):
            part = save(measure_candidates(model, blocks, sites, work, harmful, benign, ids, some, plain))
        found.append(part)
    return figures_of(candidates.positions, every, found)


def bench(model: Any, prompts: PromptSet, positions: Sequence[int]) -> dict[str, Any]:
    """Validation prompts, encoded: plain data for `traced.selecting.measure_candidates`.

    Args:
        model: a loaded model.
        prompts: harmful, benign and near-miss text.
        positions: of the candidates; -1 is among them.

    Returns:
        "harmful", "safe", "benign": each "n" prompts in "batches" of (rows, inputs); which of the safe ones are benign;
        and the numbers of the search.
    """
    safe = prompts.filter(role=("benign", "near_miss"))
    parts = {"harmful": prompts.filter(role="harmful"), "safe": safe, "benign": safe.filter(role="benign")}
    found: dict[str, Any] = {}
    for name, some in parts.items():
        encoded = Encoded.of(model, some, token_budget=TOKEN_BUDGET, max_rows=PROMPTS).batches
        found[name] = {"n": len(some), "batches": [(rows, next_token_inputs(model, one)) for rows, one in encoded]}
    return found | {
        "benign_rows": [row for row, prompt in enumerate(safe) if prompt.role == "benign"],
        "last": list(positions).index(-1),
        "keep": KEEP,
        "strengths": (*STRENGTHS, GRID),
        "budget": TOKEN_BUDGET,
    }


def sites_of(model: Any) -> list[dict[str, Any]]:
    """Per block its traced modules by site, in the order in which they run."""
    facts = anatomy(model)
    return [
        {site: site_module(block, layer, site, facts) for site in block_sites(layer, facts)}
        for layer, block in enumerate(layers(model))
    ]


def units(
    positions: Sequence[int],
    places: Sequence[Place],
    priced: Collection[Place] = (),
    *,
    removal: bool = True,
    operator: Operator = "project_out",
    target_kl: float = TARGET_KL,
) -> list[dict[str, Any]]:
    """Units of work for `traced.selecting`: groups of candidates to remove, layers to add at.

    At position -1 a candidate can be set to its benign mean, at others it is projected out: the mean belongs to the
    position it was read at.

    Args:
        positions: of the candidates, in their order.
        Others as in `measure`.
    """
    index = {position: p for p, position in enumerate(positions)}
    found: list[dict[str, Any]] = []
    groups: dict[str, list[Place]] = {"benign_mean": [], "project_out": []}
    for place in places if removal else ():
        groups[operator if place[1] == -1 else "project_out"].append(place)
    for how, some in groups.items():
        for first in range(0, len(some), GROUP):
            named = [(layer, index[position]) for layer, position in some[first : first + GROUP]]
            found.append({"kind": "ablate", "operator": how, "places": named, "stream": True})
    for layer in sorted({layer for layer, _ in places}):
        here = [position for at, position in places if at == layer]
        costly = [index[position] for position in here if (layer, position) in priced]
        unit = {"kind": "add", "layer": layer, "ps": [index[position] for position in here]}
        found.append(unit | {"induce": removal, "priced": costly, "target": target_kl})
    return found


def work_of(model: Any, work: dict[str, Any], every: Sequence[dict[str, Any]]) -> Any:
    """Units as a stage of `remote.portions`."""
    n_layers, tokens = anatomy(model).n_layers, tokens_of(work)
    return workload(list(every), tokens=[tokens * passes(unit, n_layers) for unit in every])


def passes(unit: dict[str, Any], n_layers: int) -> float:
    """Forward passes over the validation prompts that a unit takes, about."""
    if unit["kind"] == "ablate":
        return float(len(unit["places"]))
    rest = float((n_layers - 1 - unit["layer"]) / n_layers)
    return len(unit["ps"]) * rest * bool(unit["induce"]) + len(unit["priced"]) * rest * (SEARCH + 1) + 3 / n_layers


def tokens_of(work: dict[str, Any]) -> int:
    """Tokens of the validation prompts, padding included."""
    return sum(int(b[1]["input_ids"].numel()) for name in ("harmful", "safe") for b in work[name]["batches"])


def figures_of(
    positions: Sequence[int], every: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]
) -> dict[Place, Figures]:
    """Figures per candidate from what came back.

    Args:
        positions: of the candidates, in their order.
        every: the units.
        found: per request, what `measure_candidates` returned for some of them, in order.
    """
    rows: dict[Place, Figures] = {}
    removed: dict[Place, Tensor] = {}
    results = [result for one in found for result in one["units"]]
    for unit, result in zip(every, results, strict=True):
        if unit["kind"] == "ablate":
            for k, (layer, p) in enumerate(unit["places"]):
                place = (layer, positions[p])
                rows[place] = {"bypass": float(result["bypass"][k]), "kl_ablate": float(result["kl"][k])}
                removed[place] = result["stream"][k]
            continue
        for k, p in enumerate(unit["ps"]):
            place = (unit["layer"], positions[p])
            row = rows.setdefault(place, {})
            row["auroc"] = auroc(result["at_harmful"][k], result["at_safe"][k])
            if unit["induce"]:
                row["induce"] = float(result["induce"][k])
                row["cosmic"] = _cosmic(found[0], removed[place], result["stream"][k])
        for k, p in enumerate(unit["priced"]):
            row = rows[unit["layer"], positions[p]]
            row |= {key: float(result[key][k]) for key in ("strength", "kl_add", "gain")}
    return rows


def _cosmic(means: dict[str, Tensor], removed: Tensor, added: Tensor) -> float:
    """The COSMIC score from mean streams (chosen layer, d_model) of ablated harmful and of steered benign prompts."""
    chosen = means["layers"]
    first = cosine(removed.flatten(), means["benign"][chosen].flatten())
    return float(first + cosine(added.flatten(), means["harmful"][chosen].flatten()))
