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
    arena: DefenceRun,
    training: Callable[[], PromptSet],
    tokens: RefusalTokens,
    stages: Checkpoints,
    undefended: Mapping[str, Sequence[Answer]],
    *,
    seed: int,
    judge: Judge | None = None,
) -> tuple[dict[str, dict[str, Record]], list[str]]:
    """The entries `modalities.*.defences.sarsteer` and `.mars` of results.json, and what went wrong.

    Args:
        arena: the model with the study's prompts and the price.
        training: gives the prompts with training media; called only if something has to be fitted, and nothing of
            their test split is looked at.
        tokens: refusal tokens.
        stages: what is finished is kept there.
        undefended: answers of the model as it is, by modality.
        seed: of the fits and the bootstrap.
        judge: who labels answers.

    Returns:
        by modality and defence: the rates, their change against no defence, `strength`, `kl` and `edit_norm`; and a
        warning for each defence that could not be fitted.
    """

    def work() -> Record:
        rows: dict[str, dict[str, Record]] = {m: {} for m in undefended}
        warnings: list[str] = []
        made = fitted()
        for name, error in made.items():
            if isinstance(error, RefusalPluginError):
                warnings.append(f"{name} was not fitted: {error}")
        for m, answers in undefended.items():  # the defences of one modality share its prompts and untouched answers
            arena.untouched[m] = answers
            for name, found in made.items():
                try:
                    if isinstance(found, Defence):
                        rows[m][name] = row(found, m, answers)
                except RefusalPluginError as error:
                    warnings.append(f"{name} was not measured on {m}: {error}")
            arena.forget()
        return {"rows": rows, "warnings": warnings}

    def fitted() -> dict[str, Defence | RefusalPluginError]:
        made: dict[str, Defence | RefusalPluginError] = {}
        data: DefenceData | None = None
        for name in NAMES:
            try:
                data = data or DefenceData.of(arena.model, training(), seed, tokens=tokens, wanted=undefended)  # type: ignore[arg-type]
                switches = {"k": components(data)} if name == "sarsteer" else {}
                made[name] = fit_defence(name, arena.model, data, **switches)
            except RefusalPluginError as error:
                made[name] = error
        return made

    def row(defence: Defence, modality: str, answers: Sequence[Answer]) -> Record:
        test = arena.tests[modality]  # type: ignore[index]
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
