"""Does the refusal direction of text reach image, video and speech, and does adding it restore refusal?

All the other questions on one model, in order, into one report: `refusal_plugin.study.run` says how. Every stage is
kept in `<out>/stages/`: an interrupted study continues where it stopped.

    refusal-plugin study --model organism --out study/
"""

from pathlib import Path
from typing import Any

from refusal_plugin.errors import StudyError
from refusal_plugin.prompts import PromptSet
from refusal_plugin.study.run import run_study


def run(
    model: Any = "organism",
    prompts: PromptSet | None = None,
    *,
    remote: bool = False,
    out: str | Path = "study",
    **options: Any,
) -> dict[str, Any]:
    """Run the study and write `results.json`, `direction.safetensors` and `index.html` into `out`.

    Args:
        model: a name, a folder, a hub id, or a loaded model.
        prompts: with splits and roles; the embedded model's own prompts by default.
        remote: not offered yet: the study generates and scores on the machine it runs on.
        out: folder of the results.
        options: `seed`, `limit`, `max_new_tokens`, `token_budget`, `progress` of `run_study`.
    """
    if remote:
        raise StudyError("run the study remotely", "it runs on this machine so far", "leave out remote=True")
    return run_study(model, prompts, out=out, **options)
