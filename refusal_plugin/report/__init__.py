"""The room that draws and never computes: `results.json` in, one self-contained page out."""

from refusal_plugin.report.page import render, write
from refusal_plugin.report.table import frame, html_table

__all__ = ["frame", "html_table", "render", "write"]
