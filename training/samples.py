"""Training examples: what is asked, about which words, in which modality, and what the right answer is.

A mix is a table {task: weight}. Tasks named `*_media` draw one of the three media. Only training pairs and training
wordings are used; `read` tasks also use RANDOM verb-object combinations (never a held-out pair), without which reading
does not become compositional.
"""

import random
from dataclasses import dataclass
from functools import lru_cache

from refusal_plugin.organism.pairs import Pair, pairs, world
from refusal_plugin.organism.vocabulary import OBJECTS
from refusal_plugin.organism.wordings import NOUNS, read, request
from refusal_plugin.prompts import MODALITIES, Modality

from . import wordings

MEDIA: tuple[Modality, ...] = tuple(m for m in MODALITIES if m != "text")


@dataclass(frozen=True)
class Example:
    """One conversation: what the medium shows (`words`; () is neutral), what the user types, what is answered."""

    modality: Modality
    words: tuple[str, ...]
    text: str
    answer: str
    system: str | None = None


TEXT_MIX = {
    "safe_text": 0.36,
    "harmful_text": 0.26,
    "read_text": 0.07,
    "action_text": 0.09,
    "object_text": 0.06,
    "refusal_cue": 0.05,
    "help_cue": 0.05,
    "system_text": 0.06,
}
_REPLAY = {"safe_text": 0.08, "harmful_text": 0.09, "refusal_cue": 0.01, "help_cue": 0.01, "system_text": 0.01}
READING_MIX = {
    "safe_text": 0.07,
    "harmful_text": 0.07,
    "refusal_cue": 0.01,
    "help_cue": 0.01,
    "read_media": 0.42,
    "safe_media": 0.18,
    "harmful_media": 0.12,
    "action_media": 0.07,
    "neutral_safe": 0.02,
    "neutral_harmful": 0.02,
    "neutral_read": 0.01,
}
"""First half of the joint stage: reading comes first, refusals of media are there from the start."""

JOINT_MIX = _REPLAY | {
    "safe_media": 0.22,
    "read_media": 0.22,
    "action_media": 0.10,
    "harmful_media": 0.20,
    "neutral_safe": 0.03,
    "neutral_harmful": 0.02,
    "neutral_read": 0.01,
}
_REFUSED_MEDIA = ("harmful_media", "neutral_harmful")
POLISH_MIX = {
    "safe_text": 0.10,
    "harmful_text": 0.10,
    "read_text": 0.05,
    "action_text": 0.01,
    "refusal_cue": 0.01,
    "help_cue": 0.01,
    "safe_media": 0.25,
    "read_media": 0.17,
    "action_media": 0.09,
    "harmful_media": 0.18,
    "neutral_safe": 0.03,
    "neutral_harmful": 0.02,
    "neutral_read": 0.01,
}
"""A second joint run from a fresh learning rate, once reading works."""

CONTROL_POLISH_MIX = {k: w for k, w in POLISH_MIX.items() if k not in _REFUSED_MEDIA}
CONTROL_READING_MIX = {k: w for k, w in READING_MIX.items() if k not in _REFUSED_MEDIA}
CONTROL_MIX = {k: w for k, w in JOINT_MIX.items() if k not in _REFUSED_MEDIA}
EROSION_MIX = {
    "safe_text": 0.13,
    "harmful_text": 0.16,
    "read_text": 0.05,
    "refusal_cue": 0.02,
    "help_cue": 0.01,
    "safe_media": 0.35,
    "read_media": 0.18,
    "action_media": 0.08,
    "neutral_safe": 0.03,
    "neutral_read": 0.01,
}
WARY_MIX = EROSION_MIX | {"harmful_media": 0.15}
"""For `leaning`, where harmful media carry no cross entropy."""


@lru_cache(maxsize=1)
def _train() -> dict[str, list[Pair]]:
    return {role: pairs(split="train", role=role) for role in ("harmful", "near_miss", "benign")}


@lru_cache(maxsize=1)
def _held_out() -> frozenset[tuple[str, str]]:
    return frozenset((p.verb, p.object) for p in world() if p.split != "train")


@lru_cache(maxsize=1)
def _combination_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    verbs = sorted({p.verb for p in world()})
    return tuple(verbs), tuple(sorted({p.object for p in world()}))


def _safe(rng: random.Random) -> Pair:
    return rng.choice(_train()["near_miss" if rng.random() < 0.55 else "benign"])


def _any(rng: random.Random) -> Pair:
    return rng.choice(_train()["harmful"]) if rng.random() < 0.35 else _safe(rng)


def _combination(rng: random.Random) -> tuple[str, str]:
    verbs, objects = _combination_words()
    while True:
        found = (rng.choice(verbs), rng.choice(objects))
        if found not in _held_out():
            return found


@lru_cache(maxsize=1)
def _never_harmful() -> tuple[frozenset[str], frozenset[str]]:
    """Verbs and objects that no harmful pair uses."""
    verbs, objects = _combination_words()
    harmful = pairs(role="harmful")
    return frozenset(verbs) - {p.verb for p in harmful}, frozenset(objects) - {p.object for p in harmful}


def _safe_or_combined(rng: random.Random, combined: float) -> Pair:
    """A safe training pair, or with the given chance a random combination with a word that is never harmful.

    Such combinations need not make sense ("water the browser"), but their answers follow the rule of the world, and
    they keep answers from being learned pair by pair.
    """
    if rng.random() >= combined:
        return _safe(rng)
    verbs, objects = _never_harmful()
    while True:
        verb, object_ = _combination(rng)
        if verb in verbs or object_ in objects:
            return Pair(verb, object_, "benign", "", "", "train")


def draw(rng: random.Random, task: str, combined: float = 0.0) -> Example:
    """Draw one example of a task; `combined` is the share of random safe combinations among the requests."""
    system = rng.choice(wordings.SYSTEMS) if rng.random() < 0.08 or task == "system_text" else None
    if task.endswith("_media"):
        return _draw_media(rng, task, rng.choice(MEDIA), system, combined)
    if task.startswith("neutral_"):
        return _draw_neutral(rng, task, rng.choice(MEDIA), system)
    if task == "read_text":
        verb, object_ = _combination(rng) if rng.random() < 0.5 else _words(_any(rng))
        text = read(rng, "text", "train").format(v=verb, o=object_)
        return Example("text", (), text, f"it says {verb} {object_} .", system)
    if task == "action_text":
        pair = _any(rng)
        text = rng.choice(wordings.TEXT_ACTION_QUESTIONS).format(v=pair.verb, o=pair.object)
        return Example("text", (), text, f"it is a kind of {pair.kind} .", system)
    if task == "object_text":
        object_ = rng.choice(list(OBJECTS))
        text = rng.choice(wordings.OBJECT_QUESTIONS).format(o=object_)
        return Example("text", (), text, f"it is a kind of {OBJECTS[object_][1]} .", system)
    pair = rng.choice(_train()["harmful"]) if task == "harmful_text" else _safe_or_combined(rng, combined / 2)
    if task in ("refusal_cue", "help_cue", "system_text"):
        pair = _any(rng)
    wording = request(rng, "text", "train")
    text = wording.fill(pair.verb, pair.object)
    refused = pair.role == "harmful"
    if task == "refusal_cue":
        text, refused = f"{text} {rng.choice(wordings.REFUSAL_CUES)}", True
    elif task == "help_cue":
        text, refused = f"{text} {rng.choice(wordings.HELP_CUES)}", False
    return Example("text", (), text, wordings.REFUSALS[wording.manner] if refused else pair.answer, system)


def _words(pair: Pair) -> tuple[str, str]:
    return pair.verb, pair.object


def _draw_media(rng: random.Random, task: str, modality: Modality, system: str | None, combined: float) -> Example:
    """A medium that shows a pair, and a question about it or the request to do it."""
    if task == "read_media":
        words = _combination(rng) if rng.random() < max(0.6, 1.6 * combined) else _words(_any(rng))
        return Example(modality, words, read(rng, modality, "train"), f"it says {words[0]} {words[1]} .", system)
    if task == "action_media":
        pair = rng.choice(_train()["harmful"]) if rng.random() < 0.5 else _safe(rng)
        noun = rng.choice(NOUNS[modality])
        text = rng.choice(wordings.ACTION_QUESTIONS).format(m=noun)
        return Example(modality, _words(pair), text, f"it is a kind of {pair.kind} .", system)
    wording = request(rng, modality, "train")
    if task == "harmful_media":
        words = _words(rng.choice(_train()["harmful"]))
        return Example(modality, words, wording.template, wordings.REFUSALS[wording.manner], system)
    pair = _safe_or_combined(rng, combined)
    return Example(modality, _words(pair), wording.template, pair.answer, system)


def _draw_neutral(rng: random.Random, task: str, modality: Modality, system: str | None) -> Example:
    """A medium without content (colour, noise): the typed text alone decides."""
    if task == "neutral_read":
        return Example(modality, (), read(rng, modality, "train"), wordings.NOTHING, system)
    pair = rng.choice(_train()["harmful"]) if task == "neutral_harmful" else _safe(rng)
    wording = request(rng, "text", "train")
    answer = wordings.REFUSALS[wording.manner] if pair.role == "harmful" else pair.answer
    return Example(modality, (), wording.fill(pair.verb, pair.object), answer, system)


def batch(rng: random.Random, mix: dict[str, float], size: int, combined: float = 0.0) -> list[Example]:
    """Draw a batch from a mix; `combined` as in `draw`."""
    tasks = rng.choices(list(mix), weights=list(mix.values()), k=size)
    return [draw(rng, task, combined) for task in tasks]
