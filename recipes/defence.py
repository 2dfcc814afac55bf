"""Can a direction found in text alone keep a model from answering harm it is shown or told? MARS, before and after.

MARS (arXiv 2606.31876, `refusal_plugin.defences.mars`) is fitted on text and on meaningless media, its layer chosen on
held-out text; then the test prompts are answered without and with it. No real medium is seen before the test. Strength
is the paper's kappa = 1; `refusal-plugin compare` sets it by price instead, and knows more defences.

    refusal-plugin run defence            on the embedded model
    refusal-plugin cp defence .           to change it
"""

from dataclasses import dataclass
from typing import Any

from refusal_plugin.defences import Defence, DefenceData, fit_defence
from refusal_plugin.evaluation import DefenceRates, Power, label_answers, rate_changes, refusal_rates, statistical_power
from refusal_plugin.inference.arm_sets import ArmSet, generate_arm_sets
from refusal_plugin.inference.edits import NO_EDIT
from refusal_plugin.models import anatomy
from refusal_plugin.models.own_prompts import with_media_to_train_on
from refusal_plugin.prompts import PromptSet

METHOD = "mars"  # any that `refusal-plugin compare list` names
MAX_NEW_TOKENS = 24
LIMIT = 128  # most training prompts per role


@dataclass(frozen=True)
class Defended:
    """What the recipe found.

    Attributes:
        defence: as fitted, with its curves.
        before, after: rates by modality, without and with the defence.
        powers: by modality, what the test prompts can show.
    """

    defence: Defence
    before: dict[str, DefenceRates]
    after: dict[str, DefenceRates]
    powers: dict[str, Power]


def run(model: Any, prompts: PromptSet, *, remote: bool | str = False, strength: float = 1.0) -> Defended:
    """Fit on text (train and val) and neutral media, and answer the test prompts.

    Args:
        model: a loaded model.
        prompts: with roles and splits.
        remote: run on NDIF, one request per step.
        strength: kappa; 1 is the paper's.
    """
    facts, test = anatomy(model), prompts.filter(split="test").require(roles=("harmful",), asked="test the defence")
    every = with_media_to_train_on(model, prompts)  # media give the sizes of the neutral ones
    data = DefenceData.of(model, every, share=1.0, limit=LIMIT, remote=remote)
    shown = [p for m in data.shown for p in data.neutral(m)[1]]
    data.streams([*data.train("text", "harmful", "benign"), *data.val("harmful", "benign"), *shown])  # read at once
    defence = fit_defence(METHOD, model, data)

    kinds = [m for m in test.modalities if facts.takes(m)]
    sets = [ArmSet(test.filter(modality=m), [NO_EDIT, defence.edit(strength, modality=m) or NO_EDIT]) for m in kinds]
    before, after, powers = {}, {}, {}
    spoken = generate_arm_sets(model, sets, max_new_tokens=MAX_NEW_TOKENS, remote=remote)
    for m, one, arms in zip(kinds, sets, spoken, strict=True):
        first, second = (label_answers(one.prompts, answers) for answers in arms)
        before[m], after[m], powers[m] = refusal_rates(first), rate_changes(second, first), statistical_power(first)
    return Defended(defence, before, after, powers)


def show(result: Defended) -> None:
    """Print the result as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("test prompts", "harmful refused", "gain [95 %]", "near miss", "benign", box=None)
    for name, after in result.after.items():
        cells = []
        for measure in ("harmful_refusal", "near_miss_refusal", "benign_refusal"):
            old, new = (getattr(rates, measure).value or 0 for rates in (result.before[name], after))
            cells.append(f"{100 * old:.0f} -> {100 * new:.0f} %")
        table.add_row(name, cells[0], str(after.gain), *cells[1:])
    console = Console()
    console.print(f"{METHOD} at layer {result.defence.diagnostics()['layers']}, fitted on text. Before -> after:")
    console.print(table)
    for name, found in result.powers.items():
        if found.words:
            console.print(f"{name}: {found.words}.")
