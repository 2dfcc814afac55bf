"""MDSteer: difference-in-means steering fitted on media themselves, the rival of text-derived directions.

    h2s   v[l] = mean harmful-media h[l] - mean safe-media h[l]          last prompt token
    c2r   v[l] = mean h[l] of refused harmful media - mean h[l] of complied harmful media
          h[l] <- h[l] + c v[l]     all blocks, last position, every step: placed as SARSteer, so that only v differs

Source: the baselines of SARSteer (arXiv 2510.17633); the placement is our reading.

Data: MEDIA of the training split, with their harm labels (h2s) or the model's own answers to them (c2r).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..evaluation import REFUSALS, Judge, PhraseJudge
from ..inference.answers import generate
from ..inference.edits import When, Where
from ..models import anatomy
from ..prompts import Prompt
from .data import DefenceData
from .modal import FitOn, ModalAddition, require_moving, sources
from .registry import method
from .sarsteer import pairs_of

FEWEST = 2
"""Refused, and complied, harmful items that a modality needs for a vector of its own."""


@method("mdsteer_h2s", sees="media", summary="harmful media minus safe media")
def fit_h2s(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected", "all"] = "all",
    fit_on: FitOn = "modality",
    where: Where = "last",
    when: When = "every_step",
) -> ModalAddition:
    """Harmful minus safe, per modality.

    Args:
        layers: "all", "selected" (the layer of the text direction), or numbers.
        fit_on: "modality", "pooled" (all media together) or "text".
        where, when: positions and steps.

    Raises:
        PromptError: no training media, or no safe partner in any pair.
    """
    vectors: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    used: list[Prompt] = []
    for modality, kinds in sources(data, fit_on, "MDSteer-h2s").items():
        harmful, safe = pairs_of(data, kinds, None)
        vectors[modality] = difference(data, harmful, safe)
        figures[modality] = {"n": len(harmful)}
        used += [p for p in (*harmful, *safe) if p.id not in {q.id for q in used}]
    switches = {"layers": layers, "fit_on": fit_on, "where": where, "when": when}
    return _defence("mdsteer_h2s", data, vectors, figures, used, switches)


@method("mdsteer_c2r", sees="media", summary="refused minus complied harmful media")
def fit_c2r(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    layers: Sequence[int] | Literal["selected", "all"] = "all",
    fit_on: FitOn = "modality",
    judge: Judge | None = None,
    max_new_tokens: int = 24,
    where: Where = "last",
    when: When = "every_step",
) -> ModalAddition:
    """Refused minus complied, per modality; a modality with fewer than 2 of either takes the vector of all media.

    Args:
        layers, fit_on, where, when: as for h2s.
        judge: who says what is a refusal.
        max_new_tokens: of the answers it judges.

    Raises:
        PromptError: no training media.
        DataError: the model refuses, or answers, fewer than 2 harmful items altogether.
    """
    vectors: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    used: list[Prompt] = []
    every = sources(data, fit_on, "MDSteer-c2r")
    pool = sorted({kind for kinds in every.values() for kind in kinds} - {"text"}) or ["text"]
    for modality, kinds in every.items():
        refused, complied = answered(data, kinds, judge, max_new_tokens)
        pooled = min(len(refused), len(complied)) < FEWEST
        if pooled:
            refused, complied = answered(data, pool, judge, max_new_tokens)
        if min(len(refused), len(complied)) < FEWEST:
            raise DataError(
                f"fit MDSteer-c2r on {', '.join(pool)}",
                f"'{anatomy(model).name}' refused {len(refused)} harmful items and complied with {len(complied)}",
                f"it needs {FEWEST} of each: give more items, or use mdsteer_h2s",
            )
        vectors[modality] = difference(data, refused, complied)
        figures[modality] = {"refused": len(refused), "complied": len(complied), "pooled": pooled}
        used += [p for p in (*refused, *complied) if p.id not in {q.id for q in used}]
    switches = {"layers": layers, "fit_on": fit_on, "where": where, "when": when}
    return _defence("mdsteer_c2r", data, vectors, figures, used, switches)


def difference(data: DefenceData, left: Sequence[Prompt], right: Sequence[Prompt]) -> Float[Tensor, "layer d_model"]:
    """Mean stream of `left` minus mean stream of `right`, every layer."""
    return (data.streams(left).double().mean(0) - data.streams(right).double().mean(0)).float()


def answered(
    data: DefenceData, kinds: Sequence[Any], judge: Judge | None, max_new_tokens: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Harmful training prompts that the model refuses, and those it complies with."""
    prompts = list(data.train(kinds, "harmful"))
    key = f"answers {max_new_tokens}"
    known: dict[str, Any] = data.memory.setdefault(key, {})
    missing = [p for p in prompts if p.id not in known]
    if missing:
        found = generate(data.model, missing, max_new_tokens=max_new_tokens, progress=data.progress)
        known.update({p.id: answer for p, answer in zip(missing, found, strict=True)})
    labels = (judge or PhraseJudge()).label(prompts, [known[p.id] for p in prompts])
    named = list(zip(prompts, labels, strict=True))
    return [p for p, label in named if label in REFUSALS], [p for p, label in named if label == "compliance"]


def _defence(
    name: str,
    data: DefenceData,
    vectors: Mapping[str, Float[Tensor, "layer d_model"]],
    figures: Mapping[str, Any],
    used: Sequence[Prompt],
    switches: Mapping[str, Any],
) -> ModalAddition:
    chosen = data.layers(switches["layers"])
    require_moving(vectors, name)
    return ModalAddition(
        name=name,
        layers=chosen,
        vectors={modality: rows[list(chosen)] for modality, rows in vectors.items()},
        figures={"fit": dict(figures)},
        when=switches["when"],
        where=switches["where"],
        switches=switches,
        provenance=data.provenance(used),
    )
