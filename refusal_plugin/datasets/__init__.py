"""Public data sets as `PromptSet`: a registry of facts (`registry.toml`), and one loader that reads it.

    load("figstep", split="tiny", limit=20)          one set, from where it is published or from a local copy (`path=`)
    load_sets("jbb+xstest")                          several as one, prompts of one text in one pair

Nothing of any set is shipped here. Names are loaded when they are first used.
"""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
