"""The study's rows for SARSteer and MARS: fitted once, priced on each modality, answered on its test items.

`refusal-plugin compare` is the place for more methods, several fits and the ablations; here the two appear beside no
defence, plain addition and the random control, at the same price per modality.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..defences import Defence, DefenceData, fit_defence
from ..defences.run import DefenceRun
from ..errors import RefusalPluginError
from ..evaluation import Judge, label_answers, rate_changes
from ..evaluation.refusal_tokens import RefusalTokens
from ..inference.answers import Answer
from ..prompts import PromptSet
from ..storage import Checkpoints

Record = dict[str, Any]

NAMES = ("sarsteer", "mars")
COMPONENTS = 10
"""Principal directions of SARSteer's safe space, as in the paper; fewer where there are fewer items."""


def defence_rows(
    model: Any,
    prompts: PromptSet,
    training: Callable[[], PromptSet],
    tokens: RefusalTokens,
    stages: Checkpoints,
    undefended: Mapping[str, Sequence[Answer]],
    *,
    target_kl: float,
    price_tokens: int,
    seed: int,
    max_new_tokens: int,
    token_budget: int = 8192,
    judge: Judge | None = None,
) -> tuple[dict[str, dict[str, Record]], list[str]]:
    """The entries `modalities.*.defences.sarsteer` and `.mars` of results.json, and what went wrong.

    Args:
        model: a loaded model.
        prompts: of the study.
        training: gives the prompts with training media; called only if something has to be fitted, and nothing of
            their test split is looked at.
        tokens: refusal tokens.
        stages: what is finished is kept there.
        undefended: answers of the model as it is, by modality.
        target_kl: price, nats per harmless validation answer of the modality.
        price_tokens: of each answer that are priced, at most; 1 prices the first token alone.
        seed: of the fits and the bootstrap.
        max_new_tokens: longest answer.
        token_budget: most tokens of one batch.
        judge: who labels answers.

    Returns:
        by modality and defence: the rates, their change against no defence, `strength`, `kl` and `edit_norm`; and a
        warning for each defence that could not be fitted.
    """

    def work() -> Record:
        rows: dict[str, dict[str, Record]] = {m: {} for m in undefended}
        warnings: list[str] = []
        # An interrupted run finds its finished batches among the stages.
        limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "token_budget": token_budget}
        arena = DefenceRun(model, prompts, stages, target_kl=target_kl, price_tokens=price_tokens, **limits)
        for name, found in fitted().items():
            if isinstance(found, RefusalPluginError):
                warnings.append(f"{name} was not fitted: {found}")
                continue
            for m, answers in undefended.items():
                try:
                    rows[m][name] = row(arena, found, m, answers)
                except RefusalPluginError as error:
                    warnings.append(f"{name} was not measured on {m}: {error}")
            arena.forget()
        return {"rows": rows, "warnings": warnings}

    def fitted() -> dict[str, Defence | RefusalPluginError]:
        made: dict[str, Defence | RefusalPluginError] = {}
        data: DefenceData | None = None
        for name in NAMES:
            try:
                data = data or DefenceData.of(model, training(), seed, tokens=tokens)
                switches = {"k": components(data)} if name == "sarsteer" else {}
                made[name] = fit_defence(name, model, data, **switches)
            except RefusalPluginError as error:
                made[name] = error
        return made

    def row(arena: DefenceRun, defence: Defence, modality: str, answers: Sequence[Answer]) -> Record:
        test = prompts.filter(split="test", modality=modality)  # type: ignore[arg-type]
        price = arena.price(defence, modality)  # type: ignore[arg-type]
        said = arena.answers(defence, modality, [price.strength])[0]  # type: ignore[arg-type]
        return {
            **rate_changes(label_answers(test, said, judge), label_answers(test, list(answers), judge), seed).to_json(),
            "strength": price.strength,
            "kl": price.kl,
            "at_bound": price.at_bound,
            "edit_norm": max(price.edit_norm, default=None),
        }

    found = stages.run("defences", work)
    return found["rows"], found["warnings"]


def components(data: DefenceData) -> int:
    """As many principal directions as the paper takes, or as the smallest set of safe items has."""
    sizes = [len(data.paired(m)[1]) for m in ("text", *data.media)]
    return max(1, min(COMPONENTS, min(sizes) - 1))
