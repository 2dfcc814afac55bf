"""Prompts for a study of the spoken model: `python -m training.spoken.asked OUT`; needs espeak-ng.

Matched twins (harmful, near miss) and benign instructions of frames that training never saw, in text and spoken by
held-out voices, in splits that are disjoint by pair. A twin of the training or validation split counts as benign, so
that the direction is fitted on harm alone and not on the style of two sources.
"""

import argparse
import random
from pathlib import Path

from refusal_plugin.prompts import Prompt, PromptSet, Split
from refusal_plugin.prompts.twin_media import render
from refusal_plugin.prompts.twins import twins

from .sentences import instructions
from .voices import draw_speaker

SHARES: tuple[tuple[Split, float], ...] = (("train", 0.45), ("val", 0.15), ("test", 0.4))


def prompts(pairs: int, benign: int, seed: int = 0) -> PromptSet:
    """Text prompts with roles and splits.

    Args:
        pairs: of twins.
        benign: instructions, split like the pairs.
        seed: which pairs go where.
    """
    rng = random.Random(seed)
    names = sorted({p.pair or "" for p in twins()})
    rng.shuffle(names)
    split = _split(names[:pairs])
    found = [
        p.replace(split=split[p.pair], role="benign" if p.role == "near_miss" and split[p.pair] != "test" else p.role)
        for p in twins()
        if p.pair in split
    ]
    calm = {f"asked-{n}": one.text for n, one in enumerate(instructions(benign, "held_out", seed))}
    halves = _split(list(calm))
    found += [
        Prompt(text, role="benign", split=halves[name], pair=name, id=name)
        for name, text in calm.items()
        if halves[name] == "test"  # the rest of the benign ones are twins
    ]
    return PromptSet(found)


def _split(names: list[str]) -> dict[str, Split]:
    at, out = 0.0, dict[str, Split]()
    for split, share in SHARES:
        out.update(dict.fromkeys(names[round(at * len(names)) : round((at + share) * len(names))], split))
        at += share
    return out


def spoken(asked: PromptSet, out: Path) -> PromptSet:
    """The prompts, and twins of those to validate and test on, each spoken by a held-out voice."""
    found: list[Prompt] = []
    for prompt in asked:
        if prompt.split == "train":
            found.append(prompt)
            continue
        speaker = draw_speaker("held_out", random.Random(prompt.id))
        voice = ("espeak-ng", "-v", speaker.voice, "-p", f"{speaker.pitch}", "-s", f"{speaker.speed}")
        found += render([prompt], ["audio"], out=out / "sound", voice=(*voice, "-w", "{file}", "--stdin"))
    return PromptSet(found)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=72)
    parser.add_argument("--benign", type=int, default=72)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    spoken(prompts(asked.pairs, asked.benign), asked.out).to_jsonl(asked.out / "prompts.jsonl")


if __name__ == "__main__":
    main()
