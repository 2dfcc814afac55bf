"""What is said in training: benign sentences, written for this project, and runs of single words.

Instructions come from a grammar of frames and things (`grammar.txt`); a run of words is drawn from the words that the
decoder and the encoder's own tokenizer both know, in no order, so that it asks for nothing and still teaches how words
sound. Held-out sentences use frames that training never saw.
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

Kind = Literal["instruction", "words"]
Fold = Literal["train", "held_out"]


@dataclass(frozen=True)
class Sentence:
    """A sentence to be spoken.

    Attributes:
        text: as it is written.
        kind: an instruction that the decoder answers, or words that ask for nothing.
        fold: training, or held out (frames of its own).
    """

    text: str
    kind: Kind
    fold: Fold


def _grammar() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Things by name and frames by fold, from `grammar.txt`."""
    things, frames = {}, defaultdict(list)
    for line in Path(__file__).with_name("grammar.txt").read_text(encoding="utf-8").splitlines():
        fold, is_frame, frame = line.partition("> ")
        name, is_thing, found = line.partition(": ")
        if line.startswith("#"):
            continue
        if is_frame:
            frames[fold].append(frame)
        elif is_thing:
            things[name] = found.split(" | ")
    return things, frames


def instructions(count: int, fold: Fold, seed: int = 0) -> list[Sentence]:
    """Distinct benign instructions of a fold's frames."""
    rng = random.Random(f"{seed}/{fold}")
    things, frames = _grammar()
    found: dict[str, None] = {}
    while len(found) < count:
        frame = rng.choice(frames[fold])
        text = re.sub(r"{(\w+)}", lambda slot: rng.choice(things[slot[1]]), frame)
        found[text] = None
    return [Sentence(text, "instruction", fold) for text in found]


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


def word_runs(count: int, words: list[str], fold: Fold, seed: int = 0) -> list[Sentence]:
    """Runs of four to seven words in no order; a frequent word is drawn more often, every word now and then.

    Of the 17,000 words both vocabularies share only the first few thousand are worth drawing from: what an embedding
    is cannot be guessed from a sound, so that a word must be heard several times.
    """
    rng = random.Random(f"{seed}/{fold}/words")
    found = []
    for _ in range(count):
        run = [words[int(len(words) * rng.random() ** 1.5)] for _ in range(rng.randint(4, 7))]
        found.append(Sentence(f"{' '.join(run).capitalize()}.", "words", fold))
    return found
