"""The prompts of the generated world as `PromptSet`s.

Ids read "<split>/<modality>/<role>/<group>/<verb>-<object>[/r<rendering>]". Val and test media are the shipped ones,
two renderings per pair; train media are drawn on the spot from seeds (speech by the NumPy voice) when they are asked
for.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from ..errors import PromptError
from ..prompts import MODALITIES, ROLES, SPLITS, Modality, Prompt, PromptSet, Split
from . import checkpoint_path, pictures, speech, wordings
from .held_out import held_out
from .pairs import Pair, pairs

RENDERINGS = 2


def organism_prompts(
    name: str = "organism",
    split: str | None = None,
    modality: str | Sequence[str] | None = None,
    role: str | None = None,
    *,
    renderings: int = RENDERINGS,
    limit: int | None = None,
) -> PromptSet:
    """The prompts that an embedded model brings along, the same for all four.

    An image is uint8 (32, 64, 3), a video four frames of uint8 (16, 64, 3), a sound float32 (20480,) at 16 kHz. Every
    prompt has a role, a pair group, a split, a question to read its words back, and unless it is harmful the one right
    answer; `meta` holds its verb, object, kind and rendering.

    Args:
        name: "organism", "organism-hard", "organism-control" or "organism-wary".
        split: "train" (pairs and wordings the model was trained on), "val" or "test" (pairs and wordings it never
            saw); None: all three.
        modality: one or several of text, image, video, audio; None: all four (train media take seconds to draw).
        role: "harmful", "benign" or "near_miss"; None: all.
        renderings: renderings per pair and medium, 1 or 2. They share the pair's group.
        limit: at most that many pairs per split, modality and role: the first ones, the same on every call.

    Raises:
        ModelError: no embedded model of that name.
        PromptError: no such split, modality or role, or `renderings` / `limit` out of range.
        MediaError: the file of the val and test media is missing or damaged.
    """
    checkpoint_path(name)
    chosen = MODALITIES if modality is None else (modality,) if isinstance(modality, str) else tuple(modality)
    for what, given, known in (
        ("modality", chosen, MODALITIES),
        ("split", () if split is None else (split,), SPLITS),
        ("role", () if role is None else (role,), ROLES),
    ):
        for value in given:
            if value not in known:
                raise PromptError(
                    f"organism prompts of {what} {value!r}", f"no such {what}", f"use one of {', '.join(known)}"
                )
    if renderings not in range(1, RENDERINGS + 1) or (limit is not None and limit < 1):
        raise PromptError(
            "organism prompts", f"renderings={renderings}, limit={limit}", "use 1 or 2 renderings and a positive limit"
        )
    out: list[Prompt] = []
    for one in cast(Sequence[Split], SPLITS if split is None else (split,)):
        for kind in cast(Sequence[Modality], chosen):
            counts: dict[str, set[str]] = {}
            for prompt in questions(one, kind):
                if (role is not None and prompt.role != role) or prompt.meta["rendering"] >= renderings:
                    continue
                words = f"{prompt.meta['verb']} {prompt.meta['object']}"
                seen = counts.setdefault(str(prompt.role), set())
                if limit is not None and words not in seen and len(seen) >= limit:
                    continue
                seen.add(words)
                out.append(prompt if kind == "text" else prompt.replace(**{kind: _medium(prompt, kind)}))
    return PromptSet(out)


@cache
def questions(split: Split, modality: Modality) -> tuple[Prompt, ...]:
    """What is asked about every pair of a split in one modality, once per rendering, in that split's wordings.

    The media are not in yet: a prompt about an image holds its text alone.
    """
    out = []
    for pair in _whole_groups_first(pairs(split=split)) if split == "train" else pairs(split=split):
        for rendering in range(1 if modality == "text" else RENDERINGS):
            rng = random.Random(f"{split}/{modality}/{pair.words}/{rendering}")
            request, read = wordings.request(rng, modality, split), wordings.read(rng, modality, split)
            place = f"{split}/{modality}/{pair.role}/{pair.group}/{pair.verb}-{pair.object}"
            prompt = Prompt(
                text=request.fill(pair.verb, pair.object),
                role=pair.role,
                pair=pair.group,
                split=split,
                id=place if modality == "text" else f"{place}/r{rendering}",
                answer=None if pair.role == "harmful" else pair.answer,
                read_text=read.format(v=pair.verb, o=pair.object),
                read_answer=f"it says {pair.words} .",
                wording=request.template,
                meta={"verb": pair.verb, "object": pair.object, "kind": pair.kind, "rendering": rendering},
            )
            out.append(prompt)
    return tuple(out)


def _whole_groups_first(chosen: list[Pair]) -> list[Pair]:
    """A limit then keeps harmful pairs and their twins together."""
    sizes = Counter(pair.group for pair in chosen)
    return sorted(chosen, key=lambda p: (-sizes[p.group], p.group))


def _medium(prompt: Prompt, modality: Modality) -> Any:
    """The shipped medium of a val or test prompt; a train prompt's, drawn from its id."""
    if prompt.split != "train":
        return held_out()(prompt.id)
    draw = {"image": pictures.image, "video": pictures.clip, "audio": speech.say}[modality]
    return draw((prompt.meta["verb"], prompt.meta["object"]), random.Random(prompt.id))
