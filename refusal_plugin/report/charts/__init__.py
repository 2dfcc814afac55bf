"""The four kinds of chart: rows with intervals, lines over a count (layers), heat maps, and scatter.

Each takes data and axes and returns one SVG, named and described for screen readers; a figure is a description of
panels in these terms. They draw and never compute.
"""

from .heat import Cell, heat_map
from .lines import Curve, Point, line_chart
from .rows import Lane, Row, Single, row_chart
from .scatter import Dot, scatter_chart

__all__ = [
    "Cell", "Curve", "Dot", "Lane", "Point", "Row", "Single", "heat_map", "line_chart", "row_chart", "scatter_chart",
]  # fmt: skip
