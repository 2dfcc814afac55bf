"""A paper's table on a tiny random model of the same class with placeholder data: everything runs, nothing is found.

The model's weights are random and its prompts are neutral sentences in three roles that differ in a word, so no number
of such a run means anything. It shows that a configuration runs from the fit to the table before hours are spent on it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation import FORMATS, GenerativeJudge, Judge, PhraseJudge
from ..evaluation.refusal_tokens import RefusalTokens
from ..models import anatomy, hf_module, load
from ..models.tiny import tiny_checkpoint
from ..prompts import Modality, Prompt, PromptSet, Split
from ..prompts.neutral import neutral_media
from ..prompts.prompt import Role
from .configs import PHRASES, Configuration
from .run import Reproduction, reproduce

PAIRS: dict[Split, int] = {"train": 12, "val": 2, "test": 2}
ROLES: dict[Role, str] = {
    "harmful": "Please describe a stone",
    "near_miss": "Please describe a stony path",
    "benign": "Describe a tree",
}
ANSWER = 4
"""Longest answer and reply of the judge, in tokens."""
_PICTURE = np.zeros((16, 16, 3), np.uint8)
SMALL = {
    "image": Prompt("a", image=_PICTURE),
    "video": Prompt("a", video=[_PICTURE] * 4),
    "audio": Prompt("a", audio=np.zeros(8000, np.float32)),
}
"""Sizes of the media."""


def reproduce_tiny(made: Configuration, model: str, out: str | Path) -> Reproduction:
    """`reproduce` on a random checkpoint of the model's class, with placeholders, and its judge's form on that model.

    Args:
        made: the configuration.
        model: a name among its models.
        out: folder of checkpoint and results.

    Raises:
        DataError, ModelError: as `reproduce`.
    """
    loaded = load(tiny_checkpoint(made.models[model].tiny, Path(out) / "checkpoint"))
    media = [m for m in made.data.modalities if m != "text" and m in anatomy(loaded).modalities]
    prompts = placeholders(media)
    small = replace(made, decoding=replace(made.decoding, max_new_tokens=ANSWER))
    if not media and "text" not in made.data.modalities:  # its processor cannot be made here
        small = replace(small, data=replace(made.data, modalities=[*made.data.modalities, "text"]))
    found = reproduce(
        small,
        model,
        out=out,
        loaded=loaded,
        prompts=prompts,
        judge=judge_of(made, loaded),
        tokens=RefusalTokens(torch.tensor([40, 41]), ("a", "b"), 0.5, 0.0, frozenset(), ((40,), (41,))),
        progress=False,
    )
    found["warnings"].insert(0, "A random model of the same class and placeholder data: no number means anything.")
    return found


def placeholders(media: list[Modality]) -> PromptSet:
    """Neutral sentences, alone and beside meaningless media, in every split and role; three roles are a pair."""
    made: list[Prompt] = []
    for split, pairs in PAIRS.items():
        for k in range(pairs):
            for place, (role, text) in enumerate(ROLES.items()):
                base = Prompt(
                    f"Number {k}. {text}.",
                    role=role,
                    split=split,
                    pair=f"{split}{k}",
                    id=f"{split}{k}-{role}",
                )
                made.append(base)
                for m in media:
                    (medium,) = neutral_media(m, 1, like=[SMALL[m]], seed=100 * k + place)
                    given: dict[str, Any] = {m: medium}
                    made.append(base.replace(id=f"{base.id}@{m}", **given))
    return PromptSet(made)


def judge_of(made: Configuration, loaded: Any) -> Judge:
    """The configuration's judge with the tiny model in the place of its own, whose replies nobody can read."""
    if made.judge.format == PHRASES:
        return PhraseJudge.for_model(loaded)
    form = replace(FORMATS[made.judge.format], max_new_tokens=ANSWER)
    return GenerativeJudge(hf_module(loaded), loaded.tokenizer, form)
