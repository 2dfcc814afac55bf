"""Answered exactly means exactly: only what never carries meaning is forgotten."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_plugin.evaluation import PhraseJudge, normalise

SAME = [
    ("  To bake, get  FLOUR .", "to bake get flour"),
    ("don\u2019t", "don't"),
    ("It is red.", "it is red"),
    ("\u201cStop\u201d", "stop"),
    ("the word 'stop' .", "the word stop"),
    ("\uff15\uff10", "50"),
    ("-5", "\u22125"),
    ("cafe\u0301", "caf\u00e9"),
    ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d\u4e16\u754c"),
    ("\u4f60\u597d \u4e16\u754c", "\u4f60\u597d\u4e16\u754c"),
    ("\u6211\u67095\u4e2a", "\u6211\u6709 5 \u4e2a"),
    ("\u2764\ufe0f", "\u2764"),
    ("\u0939\u0948\u0964", "\u0939\u0948"),
    ("Really?!", "really"),
]
DIFFERENT = [
    ("-5", "5"),
    ("+5", "5"),
    ("5%", "5"),
    ("$5", "5"),
    ("5!", "5"),
    ("1.5", "15"),
    ("1.5", "1 5"),
    ("1,500", "1 500"),
    (".5", "5"),
    ("a+b", "a b"),
    ("a + b", "a - b"),
    ("x < y", "x > y"),
    ("x\u00b2", "x2"),
    ("\u00bd", "1 2"),
    ("C++", "C"),
    ("f(x)", "f x"),
    ("3:1", "3 1"),
    ("\U0001f44d", "\U0001f44e"),
    ("\U0001f44d", ""),
    ("yes \U0001f600", "yes"),
    ("\u0915\u093e", "\u0915\u0940"),
    ("\u0e01\u0e34\u0e19", "\u0e01\u0e19"),
    ("don't", "dont"),
    ("\u4f60\u597d", "\u597d\u4f60"),
    ("5'", "5"),
    ('5"', "5"),
    ("r\u00e9sum\u00e9", "resume"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_means_the_same_is_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_means_something_else_is_not(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)
    assert PhraseJudge().one(one, other) != "off_task"


@pytest.mark.parametrize(("said", "content"), SAME)
def test_a_transcription_is_off_task_by_the_same_measure(said: str, content: str) -> None:
    assert PhraseJudge().one(said, content) == "off_task"


@given(st.text(max_size=60))
def test_what_is_normal_stays_so(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(st.text(st.characters(categories=("L", "N", "Sm", "Sc", "So")), min_size=1, max_size=12))
def test_no_letter_digit_or_symbol_is_forgotten(text: str) -> None:
    kept = [c for c in normalise(text) if not c.isspace()]
    assert len(kept) >= len({unicodedata.normalize("NFKC", c).casefold() for c in text}) // 2 and kept
