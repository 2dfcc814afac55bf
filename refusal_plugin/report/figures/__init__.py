"""The figures: each takes a part of `results.json` as a mapping and returns markup. They draw and never compute."""

from .auroc import auroc_figure
from .figure import Panel, figure
from .gap import gap_figure
from .heads_agreement import agreement_figure
from .heads_circuit import circuit_figure
from .heads_effects import effects_figure, removal_figure
from .heads_map import heads_map_figure, profile_figure
from .pareto import matched_table, pareto_figure
from .projection import layers_figure, swarm_figure
from .rates import ablation_figure, rates_figure
from .safe_space import angles_figure, space_figure
from .selection import selection_figure
from .tokens import media_overlay, token_line, values_over_prompt
from .transfer import transfer_curves, transfer_matrix

__all__ = [
    "Panel",
    "ablation_figure",
    "agreement_figure",
    "angles_figure",
    "auroc_figure",
    "circuit_figure",
    "effects_figure",
    "figure",
    "gap_figure",
    "heads_map_figure",
    "layers_figure",
    "matched_table",
    "media_overlay",
    "pareto_figure",
    "profile_figure",
    "rates_figure",
    "removal_figure",
    "selection_figure",
    "space_figure",
    "swarm_figure",
    "token_line",
    "transfer_curves",
    "transfer_matrix",
    "values_over_prompt",
]
