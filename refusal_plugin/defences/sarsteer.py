"""SARSteer: steer with refusal text, outside the space of safe inputs (arXiv 2510.17633, ICML 2026).

A query is a medium m with one instruction t; in the other arm refusal text p is appended to t, the medium stays.

    v[l]      = mean_i ( h[l](m_i, t + p) - h[l](m_i, t) )         harmful items, last prompt token, block output
    U_k[l]    = top-k principal directions of h[l](m_i safe, t)    paired safe items, centred by their mean
    v'[l]     = v[l] - lambda U_k U_k^T v[l]                        the vector is neither centred nor renormalised
    h[l]     <- h[l] + alpha v'[l]                                  every block, last position, prefill and decode steps

    sarsteer        lambda = 1, k = 10, alpha = 0.1 (stable between 0.05 and 0.15 on the paper's 7B models)
    sarsteer_v1     safe_space=None      nothing is removed
    sarsteer_v2     safe_space="mean"    the projection on the mean safe activation is removed instead

v[l] is already the cumulative difference at depth l and is added again at all L blocks, so late layers receive up to
about alpha L v: a fixed alpha does not transfer between models of different depth. Calibrate it.

Data: MEDIA of the training split, harmful items with the safe items of their pairs. "Text-derived" means that only the
appended text differs between the arms, not that media are absent. `fit_on="text"` uses text prompts instead.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from ..geometry import decompose, pca, unit
from ..inference.edits import When, Where
from ..prompts import Prompt, encode
from .data import DefenceData
from .modal import FitOn, ModalAddition, require_moving, sources
from .registry import method

REFUSAL_TEXT = "I cannot assist with that."
ALPHA = 0.1


def remainder(
    v: Float[Tensor, "layer d_model"],
    safe: Float[Tensor, "item layer d_model"],
    *,
    safe_space: Literal["pca", "mean"] | None = "pca",
    k: int = 10,
    lambda_: float = 1.0,
) -> Float[Tensor, "layer d_model"]:
    """What is left of a vector outside the safe space: equations 2 and 3.

    Args:
        v: one vector per layer.
        safe: activations of safe items.
        safe_space: "pca" (k principal directions), "mean" (the mean activation), or None.
        k: principal directions, 1 .. n - 1.
        lambda_: share of the parallel part that is removed.

    Raises:
        DataError: k out of range, or safe activations that do not differ.
    """
    if safe_space is None:
        return v
    if safe_space == "mean":
        return decompose(v, unit(safe.double().mean(0)).unsqueeze(-1), strength=lambda_)[1].float()
    return decompose(v, pca(safe, k).basis, strength=lambda_)[1].float()


@method(
    "sarsteer",
    sees="media",
    summary="refusal text's shift, outside the safe space",
    variants={"sarsteer_v1": {"safe_space": None}, "sarsteer_v2": {"safe_space": "mean"}},
)
def fit_sarsteer(
    model: Any,
    data: DefenceData,
    *,
    seed: int = 0,
    p: str = REFUSAL_TEXT,
    k: int = 10,
    lambda_: float = 1.0,
    safe_space: Literal["pca", "mean"] | None = "pca",
    layers: Sequence[int] | Literal["selected", "all"] = "all",
    fit_on: FitOn = "modality",
    n: int | None = None,
    where: Where = "last",
    when: When = "every_step",
) -> ModalAddition:
    """Fit SARSteer.

    Args:
        p: refusal text, appended with one space inside the user turn.
        k: principal directions of the safe space.
        lambda_: share of the part inside the safe space that is removed.
        safe_space: "pca", "mean" (V2) or None (V1).
        layers: "all", "selected" (the layer of the text direction), or numbers.
        fit_on: "modality", "pooled" (all media together) or "text".
        n: most harmful items per modality; None for all.
        where, when: positions and steps.

    Raises:
        PromptError: no training media, or no safe partner in any pair.
        DataError: fewer than k + 1 safe items, a safe_space that does not exist, NaN.
    """
    if safe_space not in ("pca", "mean", None):
        raise DataError(f"SARSteer with safe_space={safe_space!r}", "no such choice", "use 'pca', 'mean' or None")
    chosen = data.layers(layers)
    unknown = unknown_words(model, p)
    vectors: dict[str, Tensor] = {}
    figures: dict[str, Any] = {}
    used: list[Prompt] = []
    for modality, kinds in sources(data, fit_on, "SARSteer").items():
        harmful, safe = pairs_of(data, kinds, n)
        without, with_p = data.arms(harmful, p)
        v = (with_p.double() - without.double()).mean(0).float()
        safe_streams = data.streams(safe)
        left = remainder(v, safe_streams, safe_space=safe_space, k=k, lambda_=lambda_)
        vectors[modality] = left[list(chosen)]
        kept = left.norm(dim=-1) / v.norm(dim=-1).clamp_min(1e-30)
        figures[modality] = {"n": len(harmful), "kept": kept.tolist(), "full_norm": v.norm(dim=-1).tolist()}
        used += [prompt for prompt in (*harmful, *safe) if prompt.id not in {q.id for q in used}]
    require_moving(vectors, "SARSteer")
    return ModalAddition(
        name="sarsteer",
        strength=ALPHA,
        layers=chosen,
        vectors=vectors,
        figures={"fit": figures, "unknown_words": unknown},
        when=when,
        where=where,
        switches={
            "p": p,
            "k": k,
            "lambda_": lambda_,
            "safe_space": safe_space,
            "layers": layers,
            "fit_on": fit_on,
            "n": n,
            "where": where,
            "when": when,
        },
        provenance=data.provenance(used),
    )


def pairs_of(data: DefenceData, kinds: Sequence[Any], n: int | None) -> tuple[list[Prompt], list[Prompt]]:
    """Harmful items and their safe partners of some modalities together, at most `n` per modality."""
    harmful: list[Prompt] = []
    safe: list[Prompt] = []
    for kind in kinds:
        unsafe, partners = data.paired(kind)
        harmful += list(unsafe)[:n]
        safe += list(partners)[:n]
    return harmful, safe


def unknown_words(model: Any, p: str) -> list[str]:
    """Pieces of the refusal text that the model's tokenizer does not know; a warning if there are any."""
    batch = encode(model, Prompt(p, id="refusal text"))
    unknown = list(batch.unknown[0]) if batch.unknown else []
    if unknown:
        warnings.warn(
            f"SARSteer: this model's tokenizer does not know {', '.join(unknown)} of the refusal text {p!r}; "
            "pass p= with words it knows",
            stacklevel=2,
        )
    return unknown
