"""The figures of the study: each takes `results.json` as a mapping and returns markup. They draw and never compute."""

from refusal_plugin.report.figures.auroc import auroc_figure
from refusal_plugin.report.figures.figure import figure, panel
from refusal_plugin.report.figures.projection import layers_figure, swarm_figure
from refusal_plugin.report.figures.rates import ablation_figure, rates_figure
from refusal_plugin.report.figures.selection import selection_figure

__all__ = [
    "ablation_figure",
    "auroc_figure",
    "figure",
    "layers_figure",
    "panel",
    "rates_figure",
    "selection_figure",
    "swarm_figure",
]
