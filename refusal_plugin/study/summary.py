"""From activations and answers to the figures of `results.json`, each with a 95 % interval over pair groups."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..directions.direction import Direction
from ..evaluation import read_exactly
from ..inference.activations import Activations
from ..inference.answers import Answer
from ..prompts import Prompt, PromptSet
from ..report.shown import Shown
from ..statistics import Estimate, auroc_interval, mean_interval, random_direction_null, rate

Record = dict[str, Any]


class Study(Shown, dict[str, Any]):
    """The content of results.json, which shows itself."""

    def finding(self) -> str:
        at = self["direction"]
        where = f"layer {at['layer']} of {at['n_layers']}, strength {at['strength']:.2f} of its length"
        return f"{self['model']}: {self['regime']['name']}\n{self['regime']['words']}\nDirection from text: {where}."

    def caveats(self) -> Sequence[str]:
        return list(self["warnings"])

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per modality: shares refused as it is, and with the direction added."""
        for name, section in self["modalities"].items():
            arms = {"": "none", "_added": "addition", "_random": "random"}
            of = {end: section["defences"][arm] for end, arm in arms.items()}
            roles = ("harmful", "near_miss", "benign")
            shares = {f"{role}{end}": of[end][f"{role}_refusal"]["value"] for role in roles for end in arms}
            yield {"modality": name, "read_back": section["read_back"]["value"], **shares}


def read_back(prompts: Sequence[Prompt], answers: Sequence[Answer], seed: int) -> tuple[Estimate, frozenset[str]]:
    """Share of prompts whose content the model reads back exactly, and the ids of those prompts.

    Args:
        prompts: the original prompts; `read_answer` is what the model should say.
        answers: to the read-back questions.
    """
    rows = [(p, hit) for p, hit in zip(prompts, read_exactly(prompts, answers), strict=True) if hit is not None]
    if not rows:
        return Estimate.missing(), frozenset(p.id for p in prompts)
    found = rate([hit for _, hit in rows], [p.pair for p, _ in rows], rng=np.random.default_rng(seed))
    return found, frozenset(p.id for p, hit in rows if hit)


def study_cost(work: Mapping[str, float], n: int, length: int) -> Record:
    """What a study computed, in bare passes over its prompts; see `inference.meter`.

    Args:
        work: tokens through whole passes of the model, by stage.
        n: number of prompts.
        length: their real tokens.
    """
    share = {name: round(tokens / length, 3) for name, tokens in work.items() if tokens}
    whole = round(sum(work.values()) / length, 2)  # one figure in words and in the file
    words = f"It cost {whole:.1f} bare passes over its {n} prompts ({length:,} tokens)."
    return {"equivalents": whole, "prompts": n, "tokens": length, "stages": share, "words": words}


def auroc_by_layer(
    coordinates: Float[Tensor, "prompt layer"], prompts: Sequence[Prompt], against: Sequence[str], seed: int
) -> list[Record]:
    """AUROC of harmful prompts against others along each layer's text direction.

    Args:
        coordinates: see `Direction.coordinates`.
        prompts: one per row.
        against: roles of the negatives.
    """
    bad = [row for row, p in enumerate(prompts) if p.role == "harmful"]
    good = [row for row, p in enumerate(prompts) if p.role in against]
    records = []
    for layer in range(coordinates.shape[1]):
        found = Estimate.missing(len(bad) + len(good))
        if bad and good:
            found = auroc_interval(
                coordinates[bad, layer],
                coordinates[good, layer],
                [prompts[row].pair for row in bad],
                [prompts[row].pair for row in good],
                rng=np.random.default_rng(seed),
            )
        records.append({"layer": layer, **found.to_json()})
    return records


def null_by_layer(activations: Activations, seed: int) -> list[Record]:
    """The 95 % band of AUROC under random directions, per layer: what a direction without meaning reaches."""
    bad, good = activations.role("harmful")[:, 0], activations.role("benign", "near_miss")[:, 0]
    if not len(bad) or not len(good):
        return []
    records = []
    for layer in range(bad.shape[1]):
        null = random_direction_null(
            bad[:, layer], good[:, layer], rng=np.random.default_rng(seed), directions=500, draw="within_class"
        )
        records.append({"layer": layer, "low": null.low, "high": null.high})
    return records


def projection_by_layer(
    coordinates: Float[Tensor, "prompt layer"], prompts: Sequence[Prompt], seed: int
) -> dict[str, list[Record]]:
    """Mean coordinate along the text direction per role and layer."""
    found: dict[str, list[Record]] = {}
    for role in ("harmful", "benign", "near_miss"):
        rows = [row for row, p in enumerate(prompts) if p.role == role]
        pairs = [prompts[row].pair for row in rows]
        records = []
        for layer in range(coordinates.shape[1]):
            value = Estimate.missing(len(rows))
            if len(set(pairs)) > 1:
                value = mean_interval(coordinates[rows, layer], pairs, rng=np.random.default_rng(seed))
            records.append({"layer": layer, **value.to_json()})
        found[role] = records
    return found


def separation(direction: Direction, activations: Activations, understood: frozenset[str], seed: int) -> Record:
    """How the text direction sees one modality.

    AUROC per layer (all items, items read back, near misses only), the null band, and the projections at the
    direction's own layer.
    """
    prompts = list(activations.prompts)
    coordinates = direction.coordinates(activations.values[:, 0])
    read = [row for row, p in enumerate(prompts) if p.id in understood]
    safe = ("benign", "near_miss")
    own = coordinates[:, direction.layer]
    return {
        "auroc_by_layer": auroc_by_layer(coordinates, prompts, safe, seed),
        "auroc_comprehended_by_layer": auroc_by_layer(coordinates[read], [prompts[row] for row in read], safe, seed),
        "auroc_near_miss_by_layer": auroc_by_layer(coordinates, prompts, ("near_miss",), seed),
        "auroc_random_by_layer": null_by_layer(activations, seed),
        "projection": {
            "layer": direction.layer,
            "unit": "0 = mean benign text, 1 = mean harmful text (training split)",
            **{role: _rounded(own, prompts, role) for role in ("harmful", "benign", "near_miss")},
        },
        "projection_by_layer": projection_by_layer(coordinates, prompts, seed),
    }


def _rounded(values: Float[Tensor, " prompt"], prompts: Sequence[Prompt], role: str) -> list[float]:
    return [round(float(v), 4) for v, p in zip(values, prompts, strict=True) if p.role == role]


def answers_to_json(answers: Sequence[Answer]) -> list[Record]:
    """Answers as a stage keeps them."""
    return [{"id": a.prompt_id, "text": a.text, "ids": list(a.ids), "finished": a.finished} for a in answers]


def answers_from_json(records: Sequence[Record]) -> list[Answer]:
    """Answers of a finished stage."""
    return [Answer(r["id"], r["text"], tuple(r["ids"]), r["finished"]) for r in records]


def random_like(vector: Float[Tensor, " d_model"], seed: int) -> Float[Tensor, " d_model"]:
    """A random direction of the same norm: the control of every steering figure."""
    drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = drawn / drawn.norm() * vector.norm()
    return scaled


def counts(prompts: PromptSet) -> dict[str, int]:
    """Prompts per role."""
    return {role: len(prompts.filter(role=role)) for role in ("harmful", "benign", "near_miss")}
