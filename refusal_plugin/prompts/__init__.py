"""Prompts: what is asked, in which modality and role; rendering, media and encoding for a model.

`Prompt` and `PromptSet` import neither torch nor NumPy. Every name is loaded when it is first used.
"""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
