"""The study's sections on transfer, modality gap and safe space: measured on what the study has collected already.

Everything is fitted on training items (media: the model's own, or those among the prompts), the layer and the strength
are the study's, chosen on validation text and harmless prompts; the test split is only measured.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..directions.direction import Direction
from ..errors import RefusalPluginError
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.activations import Activations, collect_activations
from ..inference.answers import Answer
from ..models.own_prompts import MEDIA_PAIRS, with_media_to_train_on
from ..prompts import PromptSet, Role
from ..safe_space import analyse_safe_space
from ..storage import Checkpoints
from ..transfer import Known, Streams, TransferReport, analyse_transfer
from .transfer_words import gap_words, safe_space_words, transfer_words

Record = dict[str, Any]

ROLES: tuple[Role, ...] = ("harmful", "benign")
SCORE_PAIRS, RATE_PAIRS, SWEEP_PAIRS = 12, 36, 12
KS = (1, 2, 5, 10, 20, 40)
SECTIONS = ("transfer", "modality_gap", "safe_space")


def transfer_sections(
    model: Any,
    prompts: PromptSet,
    direction: Direction,
    tokens: RefusalTokens,
    stages: Checkpoints,
    *,
    out: Path,
    streams: Mapping[str, Activations],
    answers: Mapping[str, Sequence[Answer]],
    understood: Mapping[str, frozenset[str] | None],
    limit: int | None,
    seed: int,
    max_new_tokens: int,
) -> Record:
    """The sections `transfer`, `modality_gap` and `safe_space` of results.json, and `findings`: a sentence for each.

    Args:
        model: a loaded model.
        prompts: of the study.
        direction: the study's; its layer and strength are used for every modality.
        tokens: refusal tokens.
        stages: what is finished is kept there.
        out: folder of the two reports.
        streams, answers, understood: of the test split, by modality: test streams at the last prompt token, undefended
            answers, and the items read back correctly (None: nobody asked).
        limit: of the study.
        seed: of bootstrap and controls.
        max_new_tokens: longest answer.

    Returns:
        the sections; one that cannot be measured is None, and `transfer_warnings` says why.
    """
    if direction.position != -1 or not all(streams.values()):
        return nothing(f"the direction was read at position {direction.position}, transfer needs the last prompt token")
    test = {name: Streams(a.prompts, a.values[:, 0]) for name, a in streams.items()}
    modalities = tuple(a.prompts[0].modality for a in streams.values())

    def work() -> Record:
        found: Record = {**dict.fromkeys(SECTIONS), "findings": {}, "transfer_warnings": []}
        try:
            # Drawing training media takes seconds, so only when the stage has to run.
            everything = with_media_to_train_on(model, prompts, modalities, training_pairs(limit))
            fit = fit_streams(model, everything, stages)
            known = Known(test, answers, understood, fit)
            report = analyse_transfer(
                model, everything, targets=list(test), layer=direction.layer, refusal_ids=tokens.ids,
                strength=direction.strength, score_pairs=SCORE_PAIRS, rate_pairs=RATE_PAIRS,
                max_new_tokens=max_new_tokens, known=known, seed=seed, progress=False,
            )  # fmt: skip
        except RefusalPluginError as error:
            return nothing(str(error))
        report.save(out / "transfer.safetensors")
        found["transfer_warnings"] += report.warnings
        found["transfer"] = report.to_json()
        found["findings"]["transfer"] = transfer_words(report)
        if report.gap is not None:
            found["modality_gap"] = report.gap.to_json()
            found["findings"]["modality_gap"] = gap_words(report.gap)
        try:
            space = analyse_safe_space(
                model, everything, layer=direction.layer, strength=direction.strength, ks=KS, pairs=SWEEP_PAIRS,
                refusal_ids=tokens.ids, streams=fit, seed=seed, progress=False,
            )  # fmt: skip
        except RefusalPluginError as error:
            found["transfer_warnings"].append(f"safe space not measured: {error}")
            return found
        space.save(out / "safe_space.safetensors")
        found["safe_space"] = space.to_json()
        found["findings"]["safe_space"] = safe_space_words(found["safe_space"])
        return found

    sections: Record = stages.run("transfer", work)
    return sections


def nothing(why: str) -> Record:
    """Sections that could not be measured."""
    return {**dict.fromkeys(SECTIONS), "findings": {}, "transfer_warnings": [f"transfer not measured: {why}"]}


def training_pairs(limit: int | None) -> int:
    """Training pairs of each medium that are drawn for the embedded model: fewer with the limit of a study."""
    return MEDIA_PAIRS if limit is None else max(6, min(MEDIA_PAIRS, limit // 10))


def fit_streams(model: Any, prompts: PromptSet, stages: Checkpoints) -> dict[str, Streams]:
    """Training streams of every modality with harmful and benign items, kept as stages."""
    found: dict[str, Streams] = {}
    for name in dict.fromkeys(p.modality for p in prompts):
        part = prompts.filter(split="train", modality=name)
        if not all(len(part.filter(role=role)) for role in ROLES):
            continue
        work = partial(collect_activations, model, part, progress=False)
        found[name] = Streams(part, stages.tensor(f"fit-{name}", partial(_last, work)))
    return found


def _last(work: Callable[[], Activations]) -> Tensor:
    """Streams at the last prompt token."""
    found: Tensor = work().values[:, 0]
    return found


__all__ = ["TransferReport", "transfer_sections", "training_pairs"]
