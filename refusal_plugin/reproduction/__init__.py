"""Papers' tables again: a configuration each in `recipes/configs`, one run that fits, defends, judges and compares.

    reproduce(configuration("sarsteer"), "qwen2-audio", out="sarsteer")

writes reproduction.json, the paper's figures beside ours; an interrupted run continues where it stopped.
"""

from .configs import Configuration, check, configuration, configurations
from .run import Reproduction, reproduce
from .tiny import reproduce_tiny

__all__ = [
    "Configuration",
    "Reproduction",
    "check",
    "configuration",
    "configurations",
    "reproduce",
    "reproduce_tiny",
]
