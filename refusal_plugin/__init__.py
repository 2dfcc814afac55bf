"""refusal-plugin: where a multimodal model decides to refuse, and whether that decision survives image, video and
voice.

The public surface stands in `__init__.pyi`, one explicit list. Importing the package is cheap: every name is loaded
when it is first used.
"""

from .lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)
