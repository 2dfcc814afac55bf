"""What a refusal subspace does to a model: all its directions together, beside the first alone and beside chance.

added     mean change of the refusal score of BENIGN test items; every arm's vector has the length of the difference
ablated   mean change on HARMFUL test items, coordinates set to their benign mean
arms      one: the first direction; together: all k; random: a random vector, and k random directions
more_...  together minus one, item by item: what the other directions add
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..contrasts import change
from ..errors import PromptError
from ..evaluation.refusal_tokens import refusal_tokens
from ..geometry import random_control
from ..inference.activations import known_layers
from ..inference.arm_sets import ArmSet, score_arm_sets
from ..inference.edits import NO_EDIT, Edit, Operator, addition, removal, together
from ..inference.streams import collect_streams, need_disjoint, some_pairs
from ..models.provenance import provenance
from ..prompts import Modality, PromptSet, Role
from .subspace import K_MAX, Subspace

ARMS = ("one", "together", "random")


def analyse_subspace(
    model: Any,
    prompts: PromptSet,
    layer: int,
    *,
    k: int | None = None,
    k_max: int = K_MAX,
    modality: Modality = "text",
    refusal_ids: Int[Tensor, " k"] | None = None,
    strength: float = 1.0,
    operator: Operator = "benign_mean",
    pairs: int = 24,
    seed: int = 0,
    remote: bool | str = False,
) -> Subspace:
    """How many refusal directions there are at a layer, and whether the first does what all do together.

    Args:
        model: a loaded model.
        prompts: with roles and splits: "train" fits and cross-validates, "test" is acted on.
        layer: block.
        k, k_max: see `Subspace.fit`.
        modality: of the prompts.
        refusal_ids: the model's refusal tokens; None derives them from training text.
        strength: of the addition, in lengths of the difference in means.
        operator: how directions are taken away, see `inference.edits.removal`.
        pairs: test pairs, at most.
        seed: of folds, bootstrap and random directions.
        remote: run on NDIF: one request each for streams, scores, and refusal tokens where they are not given.

    Returns:
        the subspace, with `effects`: "added one", ..., "ablated random", "more_added" and "more_ablated", each value,
        low, high and n, in nats of the refusal score; intervals over pairs.

    Raises:
        PromptError: a role is missing from a split, or a pair lies in both.
        DirectionError: an unknown layer.
        DataError: as `Subspace.fit`.
    """
    known_layers(model, [layer])
    fit, test = (prompts.filter(split=name, modality=modality) for name in ("train", "test"))
    need_disjoint(fit, test, "refusal subspace")
    asked = some_pairs(test, pairs)
    for part, split in ((fit, "train"), (asked, "test")):
        if not {"harmful", "benign"} <= {p.role for p in part}:
            raise PromptError("refusal subspace", f"no harmful and benign {modality} in split '{split}'", "add some")
    if refusal_ids is None:
        text = prompts.filter(split="train", modality="text")
        refusal_ids = refusal_tokens(model, text, remote=remote, progress=False).ids
    streams = collect_streams(model, {"fit": fit}, remote=remote)["fit"]
    found = Subspace.fit(streams, layer, k=k, k_max=k_max, seed=seed, provenance=provenance(model, fit))
    parts: tuple[tuple[Role, list[Any]], ...] = (
        ("benign", added(found, strength, seed)),
        ("harmful", ablated(found, operator, seed)),
    )
    sets = [ArmSet(asked.filter(role=role), [NO_EDIT, *edits]) for role, edits in parts]
    effects = {}
    scored = score_arm_sets(model, sets, refusal_ids, remote=remote)
    for name, one, scores in zip(("added", "ablated"), sets, scored, strict=True):
        plain, *arms = scores.score
        groups = [p.pair for p in one.prompts]
        for arm, score in zip(ARMS, arms, strict=True):
            effects[f"{name} {arm}"] = change(score, plain, groups, seed).to_json()
        effects[f"more_{name}"] = change(arms[1], arms[0], groups, seed).to_json()
    return replace(found, effects=effects)


def added(found: Subspace, strength: float, seed: int) -> list[Edit]:
    """The arms of `added`: vectors of one length."""
    length = found.difference.norm()
    vectors = [found.first(1).vector, found.vector, random_control(found.difference, seed)]
    return [addition({found.layer: v / v.norm().clamp_min(1e-12) * length}, strength=strength) for v in vectors]


def ablated(found: Subspace, operator: Operator, seed: int) -> list[Edit]:
    """The arms of `ablated`; the control takes as many random directions away."""
    drawn = torch.randn(found.basis.shape, generator=torch.Generator().manual_seed(seed))
    random = [removal(u, found.benign, operator) for u in torch.linalg.qr(drawn)[0].T]
    return [found.first(1).ablation(operator), found.ablation(operator), together("random", *random)]
