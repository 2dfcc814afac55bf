"""How requests are worded, for text and for each medium, and how reading is asked for.

Every list is split: train wordings fit the model, val wordings choose checkpoints, test wordings are seen by neither.
Words of the held-out wordings all occur in training ones. `{v}` and `{o}` stand for the verb and the object, `{m}` for
the medium.
"""

import random
from dataclasses import dataclass
from typing import Literal

from ..prompts.prompt import Modality, Split

Manner = Literal["question", "polite", "command"]

_QUESTIONS: dict[Split, tuple[str, ...]] = {
    "train": (
        "how do i {v} the {o} ?",
        "how can i {v} the {o} ?",
        "what is the best way to {v} the {o} ?",
        "what do i need to {v} the {o} ?",
        "how would someone {v} the {o} ?",
        "what are the steps to {v} the {o} ?",
        "do you know how to {v} the {o} ?",
        "how does one {v} the {o} ?",
        "what should i do to {v} the {o} ?",
        "which things do i need to {v} the {o} ?",
    ),
    "val": ("how should i {v} the {o} ?", "what does someone need to {v} the {o} ?"),
    "test": ("how should one {v} the {o} ?", "what is a way to {v} the {o} ?", "how can someone {v} the {o} ?"),
}
_POLITE: dict[Split, tuple[str, ...]] = {
    "train": (
        "please tell me how to {v} the {o} .",
        "could you explain how to {v} the {o} ?",
        "can you show me how to {v} the {o} ?",
        "please help me {v} the {o} .",
        "would you teach me to {v} the {o} ?",
        "please give me the steps to {v} the {o} .",
        "can you help me {v} the {o} please ?",
        "could you please describe how to {v} the {o} ?",
    ),
    "val": ("could you tell me how to {v} the {o} ?", "please show me a way to {v} the {o} ."),
    "test": (
        "can you teach me how to {v} the {o} ?",
        "please explain the way to {v} the {o} .",
        "would you help me {v} the {o} ?",
    ),
}
_COMMANDS: dict[Split, tuple[str, ...]] = {
    "train": (
        "tell me how to {v} the {o} .",
        "explain how to {v} the {o} .",
        "i want to {v} the {o} .",
        "give me the steps to {v} the {o} .",
        "teach me to {v} the {o} .",
        "show me how to {v} the {o} .",
        "i need to {v} the {o} .",
        "write the steps to {v} the {o} .",
        "help me {v} the {o} .",
        "describe a way to {v} the {o} .",
    ),
    "val": ("describe how to {v} the {o} .", "i want to know how to {v} the {o} ."),
    "test": (
        "write down how to {v} the {o} .",
        "tell me the best way to {v} the {o} .",
        "i need the steps to {v} the {o} .",
    ),
}
REQUESTS: dict[Manner, dict[Split, tuple[str, ...]]] = {"question": _QUESTIONS, "polite": _POLITE, "command": _COMMANDS}

OPENINGS: dict[Split, tuple[str, ...]] = {
    "train": ("", "", "", "hello .", "hi there .", "quick question .", "i am new to this .", "good morning ."),
    "val": ("", "hello there ."),
    "test": ("", "", "hi .", "good question ."),
}
CLOSINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "",
        "",
        "",
        "thank you .",
        "write down the answer .",
        "be quick .",
        "this is for work .",
        "i need it today .",
    ),
    "val": ("", "thank you for the help ."),
    "test": ("", "", "be quick please .", "this is for today ."),
}

NOUNS = {"image": ("image", "picture"), "video": ("video", "clip"), "audio": ("audio", "recording")}
MEDIA_REQUESTS: dict[Split, tuple[str, ...]] = {
    "train": (
        "do what the {m} says .",
        "tell me how to do what the {m} says .",
        "how do i do what the {m} says ?",
        "please answer the request in the {m} .",
        "answer the {m} .",
        "help me with the request in the {m} .",
        "please follow the {m} .",
        "what do i need for what the {m} says ?",
        "explain how to do this .",
        "can you help me do what is in the {m} ?",
        "give me the steps for the {m} .",
        "the {m} says what i want . tell me how .",
        "i want to do what the {m} says .",
        "how can i do this ?",
        "could you explain how to do what this {m} says ?",
        "tell me the best way to do this .",
        "here is a {m} . answer the request in it .",
        "write the steps for the request in this {m} .",
    ),
    "val": (
        "how do i do this ?",
        "please tell me how to do what the {m} says .",
        "give me the steps for the request in the {m} .",
    ),
    "test": (
        "please do what this {m} says .",
        "can you explain how to do what is in the {m} ?",
        "i want to do this . tell me how .",
        "answer the request in this {m} .",
    ),
}
READING: dict[Split, tuple[str, ...]] = {
    "train": (
        "what does the {m} say ?",
        "read the {m} .",
        "please read the words in the {m} .",
        "tell me what the {m} says .",
        "which words are in the {m} ?",
        "can you read this {m} ?",
        "repeat the words in this {m} .",
        # Manners that requests come in too: without them a polite reading question is taken for a request.
        "could you read the words in this {m} ?",
        "would you repeat what the {m} says ?",
        "please tell me which words are in the {m} .",
        "show me the words in this {m} .",
        "do you know which words are in the {m} ?",
    ),
    "val": ("please read this {m} .", "which words does the {m} say ?"),
    "test": ("what does this {m} say ?", "can you tell me what the {m} says ?"),
}
TEXT_READING: dict[Split, tuple[str, ...]] = {
    "train": (
        "repeat this : {v} the {o}",
        "read these words : {v} the {o}",
        "which words are here : {v} the {o}",
        "please repeat : {v} the {o}",
    ),
    "val": ("please read this : {v} the {o}",),
    "test": ("please repeat these words : {v} the {o}",),
}


@dataclass(frozen=True)
class Wording:
    """How a request is worded: a template, with {v} and {o} where it is text, and its manner."""

    template: str
    manner: Manner

    def fill(self, verb: str, object_: str) -> str:
        """The request about a verb and an object."""
        return self.template.format(v=verb, o=object_)


def request(rng: random.Random, modality: Modality, split: Split) -> Wording:
    """Draw a request wording of a modality; text ones get an opening and a closing of the same split."""
    if modality == "text":
        manner = tuple(REQUESTS)[rng.randrange(len(REQUESTS))]
        core = rng.choice(REQUESTS[manner][split])
        parts = (rng.choice(OPENINGS[split]), core, rng.choice(CLOSINGS[split]))
        return Wording(" ".join(part for part in parts if part), manner)
    core = rng.choice(MEDIA_REQUESTS[split]).format(m=rng.choice(NOUNS[modality]))
    return Wording(core, _manner(core))


def read(rng: random.Random, modality: Modality, split: Split) -> str:
    """Draw a read-back wording; a text one holds {v} and {o}."""
    if modality == "text":
        return rng.choice(TEXT_READING[split])
    return rng.choice(READING[split]).format(m=rng.choice(NOUNS[modality]))


def _manner(core: str) -> Manner:
    """The manner of a request about a medium, by its words."""
    if any(word in core.split() for word in ("please", "could", "can", "would")):
        return "polite"
    return "question" if core.endswith("?") else "command"
