"""Marks around what a model thinks before it answers, and where they stand in a prompt."""

from __future__ import annotations

import re

THOUGHTS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""(opening, closing) texts."""
MARKS = re.compile("|".join(re.escape(mark) for pair in THOUGHTS for mark in pair))


def thinking_block(text: str, start: int) -> tuple[int, int | None] | None:
    """The thinking behind a place of a text, from the first block's beginning to the last one's end.

    Returns:
        index of its first character, and after the last of its closing mark, None where it is still open; None without
        a block.
    """
    for opening, closing in THOUGHTS:
        begin, close = text.find(opening, start), text.rfind(closing, start)
        if begin >= 0 or close >= 0:
            still_open = text.rfind(opening, start) > close
            return (start if begin < 0 else begin), None if still_open else close + len(closing)
    return None
