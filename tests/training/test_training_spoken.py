"""Training of the spoken model's projector: what is said, and that spelling finds planted words."""

from dataclasses import dataclass
from typing import Any

import torch

from refusal_plugin.organism.pairs import world
from training.spoken import spelling
from training.spoken.curve import word_recall
from training.spoken.features import Spoken
from training.spoken.sentences import Sentence, everyday_words, instructions, requests, sayings, word_list, word_runs
from training.spoken.spelling import Projector, Spelling, read, spell


def test_held_out_sentences_are_never_said_in_training() -> None:
    assert not {s.text for s in instructions(400, "held_out")} & {s.text for s in instructions(3000, "train")}
    assert len({s.text for s in instructions(3000, "train")}) == 3000


def test_requests_of_the_embedded_world_are_the_safe_ones() -> None:
    harmful = [pair for pair in world() if pair.role == "harmful"]
    said = {s.text.lower().rstrip(".?") for s in requests(900)}
    assert not [text for text in said for pair in harmful if f" {pair.verb} the {pair.object}" in text]
    assert all(text[0].isalpha() for text in said)


def test_runs_of_words_come_from_both_vocabularies() -> None:
    known = word_list({"Ġbread": 5, "Ġcat": 3, "Ġqq": 1, "bad": 0}, {"Ġbread": 1, "Ġcat": 2})
    assert known == ["cat", "bread"]
    said = {word for s in word_runs(200, known) for word in s.text.lower().rstrip(".").split()}
    assert set(known) <= said <= set(known) | set(everyday_words())
    assert {s.kind for s in word_runs(5, known)} == {"run"}, "words of crime stand there: the decoder never gets them"


def test_sayings_use_many_words_and_ask_for_no_harm() -> None:
    said = [word for s in sayings(2000) for word in s.text.lower().rstrip(".?").split()]
    assert len(set(said)) > 1000
    unsaid = {"steal", "murder", "poison", "bomb", "gun", "weapon", "drug", "hack", "kill"}
    assert unsaid <= set(everyday_words()), "they are heard in runs of words"
    assert not unsaid & set(said)
    assert not any("{" in word for word in said)


@dataclass
class Letters:
    """A tokenizer of single letters; a line break is the blank."""

    def __call__(self, text: str) -> Any:
        return type("Read", (), {"input_ids": [0] if text == "\n" else [ord(letter) - 96 for letter in text]})


def test_the_projector_learns_to_spell_planted_sounds(monkeypatch) -> None:
    monkeypatch.setattr(spelling, "BATCH", 12)
    monkeypatch.setattr(spelling, "NEGATIVES", 5)
    draw = torch.Generator().manual_seed(0)
    embeddings = 0.55 * torch.nn.functional.normalize(torch.randn(27, 896, generator=draw), dim=-1)
    sounds = torch.randn(27, 512, generator=draw)

    def say(text: str) -> Spoken:
        """Every letter sounds for two frames, with a pause of one frame behind."""
        frames = [sounds[n] for letter in text for n in (ord(letter) - 96, ord(letter) - 96, 0)]
        noisy = torch.stack(frames) + 0.1 * torch.randn(len(frames), 512, generator=draw)
        return Spoken(Sentence(text, "words", "train"), noisy.half())

    letters = "abcdefgh"
    texts = ["".join(letters[int(n)] for n in torch.randint(8, (4,), generator=draw)) for _ in range(48)]
    spoken = [say(text) for text in texts]
    projector, steps = Projector(), []
    until = lambda: len(steps) / 50  # noqa: E731
    spell(projector, Spelling(Letters(), embeddings, lambda: spoken), until, lambda step, loss: steps.append(loss))
    assert steps[-1] < 0.2 * steps[0]
    heard = say("headcafe")
    found = read(projector, heard.frames, torch.arange(27), embeddings, blank=0)
    assert "".join(chr(96 + token) for token in found) == "headcafe"


def test_word_recall_counts_words_without_case_and_order() -> None:
    assert word_recall(["Bake the bread."], ["bread the, BAKE it"]) == [1.0]
    assert word_recall(["Bake the bread."], ["bake"]) == [1 / 3]
