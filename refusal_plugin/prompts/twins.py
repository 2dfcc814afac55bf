"""Matched twins: one-line harmful requests, each beside a safe one of the same length and wording (`twins.txt`).

Sets of harmful and harmless prompts come from different sources, and a direction can tell the sources by their style.
Twins differ in little but the harm, so what separates them is nearer to harm itself. The file holds requests only,
written for this project, under a warning and a licence.
"""

from pathlib import Path

from .prompt import Prompt, Role
from .prompt_set import PromptSet

ROLES: tuple[Role, Role] = ("harmful", "near_miss")


def twins() -> PromptSet:
    """All twins as text prompts of the test split: "harmful" and "near_miss", one pair each."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return PromptSet(
        Prompt(text, role=role, pair=f"twin-{n}", split="test", id=f"twin-{n}-{role}")
        for n, pair in enumerate(pairs, 1)
        for text, role in zip(pair, ROLES, strict=True)
    )
