"""Measures a checkpoint on held-out items: rates per modality, and how far the text direction separates harm in media.

Reading, refusing and answering are measured by greedy generation; harm by the AUROC of the difference-in-means
direction of TEXT training prompts, at the last prompt token of every layer, harmful against benign and near-miss
items.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import MODALITIES, ROLES, Modality, Prompt, Split
from refusal_plugin.statistics import Estimate, auroc, auroc_interval, wilson

from . import measure

Direction = np.ndarray
"""(layers, width), pointing towards refusal."""


@lru_cache(maxsize=16)
def prompts(split: Split, modality: Modality) -> tuple[Prompt, ...]:
    """All prompts of a split and modality, their media drawn once."""
    return tuple(organism_prompts(split=split, modality=modality))


def middle(n_layers: int) -> range:
    """The layers before the last quarter: where a direction can still be found and used, as selections do."""
    return range(math.ceil(0.75 * n_layers))


def rate(counts: tuple[int, int]) -> Estimate:
    """A share with Wilson's interval."""
    return Estimate(counts[0] / counts[1], *wilson(*counts), counts[1])


def text_direction(model: Any, processor: Any, per_role: int = 150) -> Direction:
    """Difference in means, harmful minus benign and near-miss, on TEXT training prompts."""
    chosen: list[Prompt] = []
    counts = dict.fromkeys(ROLES, 0)
    for prompt in prompts("train", "text"):
        role = prompt.role
        if role and counts[role] < (per_role if role == "harmful" else per_role // 2):
            counts[role] += 1
            chosen.append(prompt)
    hidden, harmful = measure.residuals(model, processor, chosen), is_harmful(chosen)
    return np.asarray(hidden[harmful].mean(axis=0) - hidden[~harmful].mean(axis=0))


def is_harmful(chosen: Sequence[Prompt]) -> np.ndarray:
    """(prompts,) bool."""
    return np.array([prompt.role == "harmful" for prompt in chosen])


def projections(model: Any, processor: Any, chosen: Sequence[Prompt], direction: Direction) -> np.ndarray:
    """(prompts, layers): projection of the last prompt token on the unit direction of its layer."""
    hidden = measure.residuals(model, processor, chosen)
    unit = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray((hidden * unit).sum(axis=-1))


def auroc_with_interval(scores: np.ndarray, chosen: Sequence[Prompt]) -> Estimate:
    """AUROC of harmful against safe prompts by their scores (prompts,), with a bootstrap interval over pair groups."""
    harmful, groups = is_harmful(chosen), np.array([prompt.pair for prompt in chosen])
    return auroc_interval(
        scores[harmful], scores[~harmful], groups[harmful], groups[~harmful], rng=np.random.default_rng(0)
    )


def measure_modality(
    model: Any,
    processor: Any,
    split: Split,
    modality: Modality,
    direction: Direction,
    *,
    every: int = 1,
) -> dict[str, Any]:
    """Counts and projections of one modality; `every` thins the prompts for quick looks."""
    chosen = prompts(split, modality)[::every]
    counts = measure.rates(chosen, measure.answers(model, processor, chosen))
    counts["read_back"] = measure.read_back(chosen, measure.answers(model, processor, chosen, read=True))
    return {"counts": counts, "scores": projections(model, processor, chosen, direction), "prompts": chosen}


def measure_checkpoint(model: Any, processor: Any, split: Split = "test") -> dict[str, Any]:
    """The full table of a checkpoint, JSON-ready.

    `position_by_layer` places the mean projections of each role between benign text (0) and harmful text (1).
    """
    direction = text_direction(model, processor)
    out: dict[str, Any] = {
        "split": split,
        "direction_norm_by_layer": np.linalg.norm(direction, axis=1).tolist(),
        "modalities": {},
    }
    for modality in MODALITIES:
        found = measure_modality(model, processor, split, modality, direction)
        layers = range(found["scores"].shape[1])
        means = {
            role: found["scores"][[prompt.role == role for prompt in found["prompts"]]].mean(axis=0) for role in ROLES
        }
        if modality == "text":
            zero, one = means["benign"], means["harmful"]
        out["modalities"][modality] = {
            **{key: rate(counts).to_json() for key, counts in found["counts"].items()},
            "auroc_by_layer": [auroc_with_interval(found["scores"][:, n], found["prompts"]).to_json() for n in layers],
            "projection_by_layer": {role: mean.tolist() for role, mean in means.items()},
            "position_by_layer": {role: ((m - zero) / (one - zero)).tolist() for role, m in means.items()},
        }
    return out


def quick(model: Any, processor: Any, split: Split = "val", every: int = 5) -> dict[Modality, dict[str, float]]:
    """A thinned look at all modalities: {modality: {rates, best AUROC of the middle layers and its layer}}.

    `every` should share no factor with 6, the period of roles and renderings among the prompts.
    """
    direction = text_direction(model, processor, per_role=100)
    out: dict[Modality, dict[str, float]] = {}
    for modality in MODALITIES:
        found = measure_modality(model, processor, split, modality, direction, every=every)
        harmful, scores = is_harmful(found["prompts"]), found["scores"]
        aurocs = [auroc(scores[harmful, n], scores[~harmful, n]) for n in middle(scores.shape[1])]
        best = int(np.argmax(aurocs))
        out[modality] = {k: c[0] / max(1, c[1]) for k, c in found["counts"].items()} | {
            "auroc": aurocs[best],
            "layer": best,
        }
    return out


def lines(found: dict[Modality, dict[str, float]]) -> str:
    """`quick`'s result as readable lines."""
    rows = []
    for modality, r in found.items():
        p = {key: f"{100 * value:5.1f}" for key, value in r.items()}
        rows.append(
            f"  {modality:5s} refused {p['harmful_refusal']} near {p['near_miss_refusal']} benign {p['benign_refusal']}"
            f" | exact {p['benign_exact']} near {p['near_miss_exact']} | read {p['read_back']}"
            f" | AUROC {r['auroc']:.3f} at layer {int(r['layer'])}"
        )
    return "\n".join(rows)
