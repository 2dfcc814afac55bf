"""Texts of answers: equal to the sign, whose words they are, where the reasoning ends, and whether they loop.

`normalise` is what "answered exactly" rests on, so it forgets only what never carries meaning: case, width, spacing,
the marks that end a sentence or a clause, and quotation marks in pairs. A sign, an operator, a decimal point, an emoji
and a combining mark are kept: "-5", "5" and "5%" are three answers, and so are "का" and "की".
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..prompts.thinking import THOUGHTS

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u0060\u00b4", "'"))
INVISIBLE = str.maketrans(dict.fromkeys("\u200b\u200e\u200f\u00ad\u2060\ufeff\ufe0e\ufe0f"))
SAME_SIGN = ("<wide>", "<narrow>", "<compat>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>", "<small>")
"""Compatibility forms that are the same sign; a superscript, a fraction or a letter-like symbol is another one."""
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff"
UNSPACED += "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Han, kana."""
STOPS = "\u3002\u3001\u060c\u061b\u061f\u0964\u0965\u06d4\u1362"
"""Marks that end a sentence or a clause and mean nothing else, wherever they stand."""
PAIRS: tuple[tuple[str, str], ...] = (
    ("\u201c\u201e\u201d", "\u201c\u201d"),
    ("\u00ab", "\u00bb"),
    ("\u00bb", "\u00ab"),
    ("\u2039", "\u203a"),
    ("\u203a", "\u2039"),
    ("\u300c", "\u300d"),
    ("\u300e", "\u300f"),
    ('"', '"'),
)
"""Quotation marks that open, and those that close them."""
SINGLE = r"(?<![\w.])['\u2018](?=[^\s'\u2018])([^\n]*?[^\s\n])['\u2019](?!\w)"
"""One quotation in single marks: an apostrophe stands inside or behind a word, never before one."""
ELSEWHERE = "\u25c7"
"""Stands for what was taken out of a text."""
NARRATOR = re.compile(
    r"^(?!(?:answer|assistant|ai|response|final|note|question|step|warning|reply|bot)\b)(?:[A-Z]\w+|[A-Z][A-Z .]+): ",
    re.I,
)


@dataclass(frozen=True)
class Reasoning:
    """Marks around what a model thinks before it answers.

    Attributes:
        pairs: (opening, closing) texts.
        begun: the chat template ends inside an open block, so an answer without a closing mark has not begun.
    """

    pairs: tuple[tuple[str, str], ...] = THOUGHTS
    begun: bool = False

    @classmethod
    def of(cls, tokenizer: Any) -> "Reasoning":
        """The pairs that a chat template writes itself, and whether its prompt ends inside one; all known pairs where
        the template names none.

        Args:
            tokenizer: of the model that answers; None or one without a chat template is fine.
        """
        template = getattr(tokenizer, "chat_template", None)
        known = cls()
        if not isinstance(template, str):
            return known
        found = tuple(pair for pair in known.pairs if pair[0] in template or pair[1] in template)
        turns = [{"role": "user", "content": "x"}]
        try:
            asked = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception:  # whatever a template raises for a plain question: then only its words are known
            asked = ""
        begun = any(asked.rstrip().endswith(opening) for opening, _ in found)
        return cls(found or known.pairs, begun)

    def strip(self, text: str) -> str | None:
        """The answer behind the reasoning; None where the text ends inside it."""
        closed = False
        for opening, closing in self.pairs:
            before, mark, after = text.rpartition(closing)
            if mark:
                # What stands before the first opening mark was said aloud; a template may have opened the block itself.
                said, opened, _ = before.partition(opening)
                text, closed = (said if opened else "") + after, True
            if opening in text:
                return None
        return None if self.begun and not closed else text


def spoken(texts: Sequence[str], reasoning: Reasoning) -> tuple[list[str], set[int]]:
    """Answers behind their reasoning ("" where there is none), and the rows of those that end inside it."""
    found = [reasoning.strip(text) for text in texts]
    return [text or "" for text in found], {row for row, text in enumerate(found) if text is None}


def fold(text: str) -> str:
    """Case-folded text with straight apostrophes and single spaces, for reading; `normalise` is for comparing."""
    return re.sub(r"\s+", " ", letters(text)).strip()


def letters(text: str) -> str:
    """Case-folded letters of one form: no compatibility forms, Arabic vowel signs or joiners; spaces are kept."""
    plain = unicodedata.normalize("NFKC", text.translate(APOSTROPHES)).casefold().translate(INVISIBLE)
    return re.sub("[\u064b-\u0652\u0640\u200c\u200d\u0307]", "", plain)


def normalise(text: str) -> str:
    """For exact match: see the module. Two texts are the same answer if and only if this gives the same.

    Forgotten are `. , ; : ?` and their like behind a word, `!` unless behind a digit (5! is 120), quotation marks in
    pairs, and spaces in scripts that have none between words.
    """
    same = (unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(SAME_SIGN) else c for c in text)
    plain = unicodedata.normalize("NFC", "".join(same).translate(APOSTROPHES).translate(INVISIBLE)).casefold()
    plain = re.sub("[\u2012\u2013\u2212]", "-", plain)
    plain = re.sub(f"[{STOPS}\u00bf\u00a1]", " ", plain)
    for opening, closing in PAIRS:
        plain = re.sub(f"[{opening}]([^{opening}{closing}]*)[{closing}]", r"\1", plain)
    plain = re.sub(SINGLE, r"\1", plain)
    plain = re.sub(r"(?<!\d)!+(?=\s|$)", " ", plain)
    plain = re.sub(r"[.,;:?\u2026]+(?=[\s!]|$)|(?<!\S)\u2014(?!\S)", " ", plain)
    plain = re.sub(
        f"(?<=[{UNSPACED}])\\s+|\\s+(?=[{UNSPACED}])|(?<=[{UNSPACED}])[.,;:?!]+(?=[{UNSPACED}]|$)", "", plain
    )
    return " ".join(plain.split())


def is_degenerate(text: str) -> bool:
    """Says nothing, or a loop: one word, or one pair of words, makes up most of an answer of six or more words."""
    if not any(unicodedata.category(sign)[0] in "LNS" for sign in text):
        return True
    # Marks that stand alone are no words; in scripts without spaces every sign is one.
    words = re.findall(f"[{UNSPACED}]|[^\\s{UNSPACED}]*[^\\W_][^\\s{UNSPACED}]*", normalise(text))
    if not words:
        return False
    if len(words) < 6:
        return len(words) >= 4 and len(set(words)) == 1
    return _most(words) > 0.6 or _most(list(pairwise(words))) > 0.4


def _most(items: Sequence[object]) -> float:
    return max(items.count(item) for item in set(items)) / len(items)


def own_words(text: str) -> str:
    """What an answer says itself: code, quotations and the lines of a dialogue are somebody else's words.

    An answer that is one quotation is the model's own. What is taken out leaves a mark, so that the sentence around a
    quoted word remains a sentence.
    """
    text = re.sub(r"```.*?(?:```|\Z)|`[^`\n]+`", ELSEWHERE, text, flags=re.S)
    lines = [line.strip() for line in text.splitlines()]
    script = sum(bool(NARRATOR.match(line)) for line in lines) >= 2
    kept = []
    for line in lines:
        elsewhere = line.startswith((">", "\u2014", "\u2013")) or (script and bool(NARRATOR.match(line)))
        kept.append(ELSEWHERE if elsewhere else re.sub(r"[*_#]+", "", line).strip())
    text = "\n".join(kept).strip()
    for opening, closing in PAIRS:
        if re.fullmatch(f"[{opening}][^{opening}{closing}]*[{closing}]?[.!]?", text):
            return text.strip(opening + closing)
    if re.fullmatch(SINGLE + "[.!]?", text) and "\u2019 " not in text and "' " not in text:
        return text.strip("'\u2018\u2019")
    for opening, closing in PAIRS:
        # A quotation that is cut off runs to the end.
        text = re.sub(f"[{opening}][^{opening}{closing}]*(?:[{closing}]|\\Z)", ELSEWHERE, text)
    return re.sub(SINGLE, ELSEWHERE, text)
