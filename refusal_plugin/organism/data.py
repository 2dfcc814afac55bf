"""The prompts of the generated world as `PromptSet`s.

Ids read "<split>/<modality>/<role>/<group>/<verb>-<object>[/r<rendering>]". Val and test media are the shipped ones,
two renderings per pair; train media are drawn on the spot from seeds (speech by the NumPy voice) when they are asked
for.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast, get_args

from refusal_plugin.errors import PromptError
from refusal_plugin.organism import drawing, wordings
from refusal_plugin.organism.items import MODALITIES, Item, items
from refusal_plugin.organism.pairs import Pair, Role, Split, pairs
from refusal_plugin.organism.shipped import held_out
from refusal_plugin.organism.wordings import Modality
from refusal_plugin.prompts import Prompt, PromptSet

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def organism_prompts(
    split: str | None = None,
    modality: str | Sequence[str] | None = None,
    role: str | None = None,
    *,
    renderings: int = 2,
    limit: int | None = None,
) -> PromptSet:
    """The embedded model's prompts.

    Args:
        split: "train" (pairs and wordings the model was trained on), "val" or "test" (pairs and wordings it never
            saw); None: all three.
        modality: one or several of text, image, video, audio; None: all four (train media take seconds to draw).
        role: "harmful", "benign" or "near_miss"; None: all.
        renderings: renderings per pair and medium, 1 or 2. They share the pair's group.
        limit: at most that many pairs per split, modality and role: the first ones, the same on every call.

    Raises:
        PromptError: no such split, modality or role, or `renderings` / `limit` out of range.
    """
    chosen = MODALITIES if modality is None else (modality,) if isinstance(modality, str) else tuple(modality)
    for what, given, known in (
        ("modality", chosen, MODALITIES),
        ("split", (split,), (None, *SPLITS)),
        ("role", (role,), (None, *get_args(Role))),
    ):
        for value in given:
            if value not in known:
                raise PromptError(
                    f"organism prompts of {what} {value!r}",
                    f"no such {what}",
                    f"use one of {', '.join(str(k) for k in known if k)}",
                )
    if renderings not in (1, 2) or (limit is not None and limit < 1):
        raise PromptError(
            "organism prompts", f"renderings={renderings}, limit={limit}", "use 1 or 2 renderings and a positive limit"
        )
    out: list[Prompt] = []
    for one in cast(Sequence[Split], SPLITS if split is None else (split,)):
        for kind in cast(Sequence[Modality], chosen):
            counts: dict[str, set[str]] = {}
            for item in train_items(kind) if one == "train" else items(one, kind):
                pair = item.pair
                seen = counts.setdefault(pair.role, set())
                if (role is not None and pair.role != role) or item.rendering >= renderings:
                    continue
                if limit is not None and pair.words not in seen and len(seen) >= limit:
                    continue
                seen.add(pair.words)
                out.append(_prompt(item))
    return PromptSet(out)


@lru_cache(maxsize=4)
def train_items(modality: Modality) -> tuple[Item, ...]:
    """Every training pair once per rendering with training wordings, roles interleaved."""
    out = []
    for pair in _interleaved(pairs(split="train")):
        for rendering in range(1 if modality == "text" else 2):
            rng = random.Random(f"train/{modality}/{pair.words}/{rendering}")
            wording = wordings.request(rng, modality, "train")
            read = wordings.read(rng, modality, "train")
            out.append(
                Item(
                    pair,
                    modality,
                    rendering,
                    wording.fill(pair.verb, pair.object),
                    read.format(v=pair.verb, o=pair.object),
                    wording.template,
                )
            )
    return tuple(out)


def _interleaved(chosen: list[Pair]) -> list[Pair]:
    """Whole groups first, so that a limit keeps harmful pairs and their twins together."""
    sizes: dict[str, int] = {}
    for pair in chosen:
        sizes[pair.group] = sizes.get(pair.group, 0) + 1
    return sorted(chosen, key=lambda p: (-sizes[p.group], p.group))


def _prompt(item: Item) -> Prompt:
    pair = item.pair
    media: dict[str, Any] = {}
    if item.modality != "text":
        drawn = (
            drawing.medium(item.modality, (pair.verb, pair.object), item.id)
            if pair.split == "train"
            else held_out()(item)
        )
        media[item.modality] = drawn
    return Prompt(
        text=item.text,
        role=pair.role,
        pair=pair.group,
        split=pair.split,
        id=item.id,
        answer=item.answer,
        read_text=item.read_text,
        read_answer=item.read_answer,
        wording=item.wording,
        meta={"verb": pair.verb, "object": pair.object, "kind": pair.kind, "rendering": item.rendering},
        **media,
    )


def neutral_media(modality: Modality, n: int = 16, seed: int = 0) -> list[Any]:
    """Meaningless media of the world's size: random colours, clips of random colours, silence or noise.

    Raises:
        PromptError: text has no media.
    """
    if modality not in ("image", "video", "audio"):
        raise PromptError(f"neutral media of modality {modality!r}", "it has none", "use image, video or audio")
    return [drawing.medium(modality, (), f"neutral/{modality}/{seed}/{number}") for number in range(n)]
