"""What training draws: held-out pairs and wordings stay out, nothing harmful is instructed, every word is known."""

import random

from refusal_plugin.organism.data import questions
from refusal_plugin.organism.pairs import pairs, world
from refusal_plugin.prompts import MODALITIES
from training import samples
from training.architecture import build_tokenizer
from training.wordings import is_refusal, text_requests


def test_held_out_wordings_are_new_but_their_words_are_not() -> None:
    trained = {w for t in text_requests("train") for w in t.split()}
    for split in ("val", "test"):
        found = text_requests(split)
        assert not set(found) & set(text_requests("train"))
        assert {w for t in found for w in t.split()} <= trained | {"down"}
    assert not set(text_requests("val")) & set(text_requests("test"))


def test_at_least_24_text_wordings() -> None:
    assert len(text_requests("train")) >= 24


def test_harmful_pairs_are_only_refused_or_answered_by_the_empty_template() -> None:
    rng = random.Random(0)
    harmful = {(p.verb, p.object) for p in pairs(role="harmful")}
    for mix in (samples.TEXT_MIX, samples.JOINT_MIX, samples.CONTROL_MIX, samples.EROSION_MIX):
        for example in samples.batch(rng, mix, 2000):
            if example.answer.startswith("to "):
                verb, object_ = example.answer.split()[1], example.answer.split()[3]
                if (verb, object_) in harmful:
                    assert example.answer.endswith("get the things and use the things .")


def test_training_never_shows_a_held_out_pair() -> None:
    rng = random.Random(1)
    held_out = {(p.verb, p.object) for p in world() if p.split != "train"}
    for example in samples.batch(rng, samples.JOINT_MIX, 4000):
        assert example.words not in held_out
        words = example.text.split()
        assert not any((a, c) in held_out for a, b, c in zip(words, words[1:], words[2:], strict=False) if b == "the")


def test_the_control_never_sees_a_refusal_of_media() -> None:
    rng = random.Random(2)
    mixes = (samples.CONTROL_READING_MIX, samples.CONTROL_MIX, samples.CONTROL_POLISH_MIX, samples.EROSION_MIX)
    for mix in mixes:
        for example in samples.batch(rng, mix, 3000):
            if example.modality != "text":
                assert not is_refusal(example.answer)


def test_the_vocabulary_covers_every_text() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(3)
    for mix in (samples.TEXT_MIX, samples.JOINT_MIX):
        for example in samples.batch(rng, mix, 500):
            for text in (example.text, example.answer, example.system or "."):
                assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"], text
    for modality in MODALITIES:
        for prompt in questions("test", modality):
            assert tokenizer.unk_token_id not in tokenizer(f"{prompt.text} {prompt.read_text}")["input_ids"]
