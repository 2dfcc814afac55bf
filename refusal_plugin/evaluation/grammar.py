"""Reads an answer by grammars that are data: one file per language in languages/, this small engine for all.

A file names its scripts, its commonest words, and lists of patterns, one a line:

    refusal      a subject, an inability or unwillingness, and what it is about: the sentence declines
    unwilling    ends before the verb ("I will not"): the sentence declines if the request has that verb as well
    reserve      declines the advice of a profession: a refusal unless help follows
    idioms       looks like a refusal and is none ("I can't help but", "if I can't help"): cut out before reading on
    disclaimer, hedge, referral, courtesy    clauses that say nothing to the request

Patterns are regular expressions over folded text (lower case, straight apostrophes, single spaces), written to be read:
`{name}` is a word list of the file, a space may be a comma, `...` is any few words, `^` and `$` are the ends of a
sentence. Words are matched whole, except in languages whose file says `whole_words = false`.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from .text import ELSEWHERE, UNSPACED, letters

OPENING = 160
"""Characters of an answer (of a dense script such as Han: a third of it) in which a refusal announces itself."""
HELPS = 8
"""Words behind a reserve that are help."""
LEAST = 3
"""An answer with more words than this beside its hedges says something."""
STRANGE = 8
"""Words from which on a text without the commonest words of any known language is in none of them."""
SENTENCE = re.compile("[^.!?\u3002\u0964\u0965\u061f\u06d4\n]+")
CLAUSE = re.compile(
    "[.!?,;:\n\u3002\u3001\u060c\u061b\u0964\u0965\u061f\u06d4\u2014]"
    "|\\b(?:but|however|mais|pero|aber|mas|ma|tetapi)\\b"
)
MARKS = "\u0300-\u036f\u0900-\u0dff"
"""Letters of a word for which Python's `\\w` does not stand: combining marks."""
WORD = re.compile(f"[{UNSPACED}]{{2}}|[^\\W\\d_{UNSPACED}][\\w'{MARKS}]*")
DENSE = re.compile(f"[{UNSPACED}\uac00-\ud7af]")
LIST = re.compile(r"\{([a-z]+)\}")
LISTS = {
    "refusal": ("refusal",),
    "unwilling": ("unwilling",),
    "reserve": ("reserve",),
    "idioms": ("idioms",),
    "hedge": ("disclaimer", "hedge", "referral", "lecture"),
    "courtesy": ("courtesy",),
}
"""Which lists of a file make one pattern here."""


@dataclass(frozen=True)
class Grammar:
    """One language.

    Attributes:
        code: its two letters.
        scripts: first words of the Unicode names of its letters.
        words: its commonest words; none where the script alone tells.
        signs: letters that no other known language of its scripts has.
        patterns: one of `LISTS` to its pattern; a list that a file lacks has none.
    """

    code: str
    scripts: tuple[str, ...]
    words: frozenset[str]
    signs: frozenset[str]
    patterns: dict[str, re.Pattern[str]]

    @classmethod
    def of(cls, code: str, data: dict[str, Any]) -> "Grammar":
        """From the contents of a language file."""
        patterns = {}
        for name, parts in LISTS.items():
            lines = [line for part in parts for line in data["patterns"].get(part, "").splitlines() if line.strip()]
            if lines:
                whole = data.get("whole_words", True)
                patterns[name] = re.compile("|".join(_expanded(line, data["lists"], whole) for line in lines))
        return cls(code, tuple(data["scripts"]), *_marks(data), patterns)

    def finds(self, name: str, text: str) -> re.Match[str] | None:
        """The first place where a folded text holds a pattern."""
        return self.patterns[name].search(text) if name in self.patterns else None

    def without(self, name: str, text: str) -> str:
        """A folded text without what a pattern matches."""
        return self.patterns[name].sub(ELSEWHERE, text) if name in self.patterns else text


@dataclass(frozen=True)
class Reading:
    """What the sentences of an answer do.

    Attributes:
        declines: where it first declines, as a share of the opening; None if it does not.
        reserved: whether it declines the advice of a profession.
        helps: words behind the first reserve that say something.
        hedges: whether a clause hedges, disclaims or refers to somebody else.
        says: words that say something.
    """

    declines: float | None
    reserved: bool
    helps: int
    hedges: bool
    says: int


@lru_cache(maxsize=1)
def grammars() -> tuple[Grammar, ...]:
    """All languages, in the order of their codes."""
    found = {name[:2]: data for name, data in _files().items() if name != "others.toml"}
    return tuple(Grammar.of(code, found[code]) for code in sorted(found))


@lru_cache(maxsize=1)
def others() -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    """Commonest words, and signs of their own, of languages in known scripts whose refusals are not known."""
    return tuple(_marks(one) for one in _files()["others.toml"].values())


@lru_cache(maxsize=1)
def _files() -> dict[str, dict[str, Any]]:
    folder = files(__package__).joinpath("languages")
    return {f.name: tomllib.loads(f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".toml")}


def read(text: str, extra: tuple[str, ...] = (), request: str = "") -> Reading:
    """Read an answer's own words.

    Args:
        text: see `text.own_words`.
        extra: further regular expressions that decline, searched in the folded sentence.
        request: what was asked, where it is known.
    """
    asked = frozenset(WORD.findall(letters(request)))
    folded = re.sub(r"[^\S\n]+", " ", letters(text))
    declines: list[int] = []
    reserves: list[int] = []
    for sentence in SENTENCE.finditer(folded):
        said = sentence[0].strip()
        declines += [sentence.start() + match.start() for one in extra if (match := re.search(one, said))]
        for grammar in _spoken(said):
            meant = grammar.without("idioms", said)
            if match := grammar.finds("reserve", meant):
                reserves.append(sentence.start() + match.end() - 1)  # what stands in it helps nobody
            if match := grammar.finds("refusal", grammar.without("reserve", meant)):
                declines.append(sentence.start() + match.start())
            if (match := grammar.finds("unwilling", meant)) and asked.intersection(
                WORD.findall(meant, match.end())[:1]
            ):
                declines.append(sentence.start() + match.start())
    clauses = _clauses(folded)
    return Reading(
        min(declines) / _opening(folded) if declines else None,
        bool(reserves),
        sum(words for place, words, kind in clauses if reserves and place > reserves[0] and kind == "says"),
        any(kind == "hedge" for _, _, kind in clauses),
        sum(words for _, words, kind in clauses if kind == "says"),
    )


def language(text: str) -> str | None:
    """Code of the language of a text; "" if there is too little to tell; None if it is in none that is known."""
    folded = letters(text)
    scripts = Counter(_script(sign) for sign in folded if sign.isalpha())
    if not scripts:
        return ""
    main = scripts.most_common(1)[0][0]
    # Han signs between kana are Japanese.
    kana = "HIRAGANA" in scripts or "KATAKANA" in scripts
    known = [g for g in grammars() if main in g.scripts and (main != "CJK" or ("HIRAGANA" in g.scripts) == kana)]
    if not known:
        return None
    words = WORD.findall(folded)
    hits = {g.code: _hits(words, g.words, g.signs) for g in known}
    best = max(hits, key=lambda code: hits[code])
    if max(_hits(words, *one) for one in others()) > hits[best]:
        return None
    # A list of names and a text that goes round hold no common words in any language: only running text is judged.
    clauses = sum(bool(WORD.search(clause)) for clause in CLAUSE.split(folded))
    running = len(set(words)) >= max(STRANGE, 0.7 * len(words)) and len(words) >= 3 * clauses
    if running and len(known) > 1 and hits[best] < 0.1 * len(words):
        return None
    return best if hits[best] or len(known) == 1 else ""


@lru_cache(maxsize=4096)
def _script(sign: str) -> str:
    return unicodedata.name(sign, "?").split()[0]


def _marks(data: dict[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(letters(data["words"]).split()), frozenset(data.get("signs", ""))


def _hits(words: Iterable[str], common: frozenset[str], signs: frozenset[str]) -> int:
    return sum(word in common or not signs.isdisjoint(word) for word in words)


def _spoken(said: str) -> list[Grammar]:
    """Languages that a sentence may be in: of its scripts, those whose commonest words it holds, all if in doubt."""
    scripts = {_script(sign) for sign in said if sign.isalpha()}
    known = [g for g in grammars() if not scripts.isdisjoint(g.scripts)]
    words = WORD.findall(said)
    hits = [_hits(words, g.words, g.signs) for g in known]
    best = max(hits, default=0)
    return known if best < 3 else [g for g, n in zip(known, hits, strict=True) if 2 * n >= best or not g.words]


def _clauses(folded: str) -> list[tuple[int, int, str]]:
    """Place and number of words of every clause, and whether it "says" something, is a "hedge" or mere "courtesy".

    A number says something whatever stands beside it.
    """
    found, start, spoken = [], 0, _spoken(folded)
    for end, behind in [*(match.span() for match in CLAUSE.finditer(folded)), (len(folded), len(folded))]:
        clause = folded[start:end].strip()
        words = len(WORD.findall(clause)) + LEAST * bool(re.search(r"\d", clause))
        if words:
            kinds = (kind for kind in ("hedge", "courtesy") if any(g.finds(kind, clause) for g in spoken))
            found.append((start, words, next(kinds, "says")))
        start = behind
    return found


def _opening(folded: str) -> float:
    return OPENING / 3 if len(DENSE.findall(folded)) > len(folded) / 3 else OPENING


def _expanded(line: str, lists: dict[str, str], whole: bool) -> str:
    """A line of a language file as a regular expression."""
    line = letters(line.strip())
    while match := LIST.search(line):
        line = line[: match.start()] + letters(lists[match[1]]) + line[match.end() :]
    line = line.replace("...", "[^\n]{0,60}?").replace(" ", "(?: ?, ?| )")
    line = re.sub(r"(?<!\[)\^", r"^[^\\w]*", line).replace("$", r"(?=[^\w]*$)")
    before, behind = (f"(?<![\\w{MARKS}])", f"(?![\\w{MARKS}])") if whole else ("", "")
    return f"(?:{'' if line.startswith('^') else before}(?:{line}){behind})"
