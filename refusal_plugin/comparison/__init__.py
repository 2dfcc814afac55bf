"""Defences side by side: the same items, the same judge, the same price.

    compare(model, prompts, ("sarsteer", "mars", "random"), out="compare")

writes compare.json (rows, matched, claims) and index.html; an interrupted run continues where it stopped.
"""

from .claims import Claim, claims
from .run import compare_defences

__all__ = ["Claim", "claims", "compare_defences"]
