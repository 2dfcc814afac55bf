"""The room that draws and never computes: `results.json` in, one self-contained page out.

Four kinds of chart (`charts`) over one layer of SVG; a figure (`figures`) says which data goes into which chart; the
words, the layout and the scripts stand as HTML, CSS and JavaScript in `templates`.
"""

from .page import render, write
from .table import frame, html_table

__all__ = ["frame", "html_table", "render", "write"]
