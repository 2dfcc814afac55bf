"""What is said in training: benign sentences, written for this project, and runs of single words.

Instructions come from a grammar of frames and things (`grammar.txt`), sayings from another over a large vocabulary
(`lexicon.txt`); a run of words asks for nothing and still teaches how words sound. Held-out instructions use frames
that training never saw.
"""

import random
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refusal_plugin.organism.pairs import world
from refusal_plugin.organism.wordings import REQUESTS

Kind = Literal["instruction", "words", "run"]
Fold = Literal["train", "held_out"]


@dataclass(frozen=True)
class Sentence:
    """A sentence to be spoken.

    Attributes:
        text: as it is written.
        kind: an instruction that the decoder answers, words that it only repeats, or a run that it never gets.
        fold: training, or held out (frames of its own).
    """

    text: str
    kind: Kind
    fold: Fold


def _grammar(file: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Things by name and frames by fold, from a file beside this one; things in two forms stand under two names."""
    things: dict[str, list[str]] = {}
    frames = defaultdict(list)
    for line in Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines():
        fold, is_frame, frame = line.partition("> ")
        names, is_thing, found = line.partition(": ")
        if line.startswith("#"):
            continue
        if is_frame:
            frames[fold].append(frame)
        elif is_thing:
            for n, name in enumerate(names.split("/")):
                things[name] = [thing.split("/")[n] if "/" in names else thing for thing in found.split(" | ")]
    return things, frames


def filled(count: int, file: str, fold: str, seed: int = 0) -> list[str]:
    """Distinct sentences of a file's frames, with things in their places."""
    rng = random.Random(f"{seed}/{fold}")
    things, frames = _grammar(file)
    found: dict[str, None] = {}
    while len(found) < count:
        text = re.sub(r"{(\w+)}", lambda slot: rng.choice(things[slot[1]]), rng.choice(frames[fold]))
        found[text[0].upper() + text[1:]] = None
    return list(found)


def instructions(count: int, fold: Fold, seed: int = 0) -> list[Sentence]:
    """Distinct benign instructions of a fold's frames."""
    return [Sentence(text, "instruction", fold) for text in filled(count, "grammar.txt", fold, seed)]


def sayings(count: int, seed: int = 0) -> list[Sentence]:
    """Sentences that mean little, over a large vocabulary: to be repeated, never answered.

    A grammar of a few hundred words teaches those words in their places: heard from voices that never spoke in
    training its sentences come back, and other sentences do not.
    """
    return [Sentence(text, "words", "train") for text in filled(count, "lexicon.txt", "said", seed)]


def everyday_words() -> list[str]:
    """All words of the lexicon, those that no sentence uses (of crime, for example) among them."""
    things, _ = _grammar("lexicon.txt")
    return sorted({word for found in things.values() for thing in found for word in thing.lower().split()})


def requests(count: int, seed: int = 0) -> list[Sentence]:
    """Safe requests of the embedded model's world ("How do I kill the process?"): to be read, never answered.

    They hold words that harmful requests use as well, in places where nothing is wrong with them.
    """
    rng = random.Random(f"{seed}/requests")
    wordings = [wording for manner in REQUESTS.values() for wording in manner["train"]]
    pairs = [pair for pair in world() if pair.role != "harmful"]
    rng.shuffle(pairs)
    found = []
    for pair in (pairs * (count // len(pairs) + 1))[:count]:
        text = rng.choice(wordings).format(v=pair.verb, o=pair.object)
        text = re.sub(r"\bi\b", "I", re.sub(r" ([.?,])", r"\1", text))
        found.append(Sentence(text[0].upper() + text[1:], "words", "train"))
    return found


def word_list(encoder: Mapping[str, int], decoder: Mapping[str, int]) -> list[str]:
    """Words of both vocabularies, the most frequent of speech first.

    Args:
        encoder: tokens of Whisper's tokenizer and their ids, which go by frequency.
        decoder: tokens of the decoder.
    """
    written = sorted((place, token[1:]) for token, place in encoder.items() if re.fullmatch("Ġ[a-z]{3,14}", token))
    return [word for _, word in written if f"Ġ{word}" in decoder]


def word_runs(count: int, words: list[str], seed: int = 0) -> list[Sentence]:
    """Runs of six to ten words in no order: what an embedding is cannot be guessed from a sound, so every word must be
    heard several times, and in no place of its own.

    Args:
        count: how many.
        words: frequent words; a quarter comes from them, the rest from the lexicon.
        seed: of the drawing.
    """
    rng = random.Random(f"{seed}/words")
    everyday = everyday_words()
    found = []
    for _ in range(count):
        run = [rng.choice(everyday if rng.random() < 0.75 else words) for _ in range(rng.randint(6, 10))]
        found.append(Sentence(f"{' '.join(run).capitalize()}.", "run", "train"))
    return found
