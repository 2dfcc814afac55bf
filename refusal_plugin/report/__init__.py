"""The room that draws and never computes: `results.json` in, one self-contained page out.

Four kinds of chart (`charts`) over one layer of SVG; a figure (`figures`) says which data goes into which chart; the
words, the layout and the scripts stand as HTML, CSS and JavaScript in `templates`. A result draws itself with `shown`.
"""

from ..lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
