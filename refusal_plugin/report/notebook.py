"""Matplotlib figures in notebooks: no background, mid-tone inks, so that they can be read in dark and light themes."""

from typing import Any

INK = "#7f8b96"
ROLE_COLOURS = {"harmful": "#e0561b", "near_miss": "#b89b00", "benign": "#5f8ea8"}
MODALITY_COLOURS = {"text": "#2f8fd0", "image": "#cf7f16", "video": "#17a078", "audio": "#c4619f"}
ROLE_MARKERS = {"harmful": "^", "near_miss": "D", "benign": "o"}


def style() -> Any:
    """Set the style for all figures of a notebook and return `matplotlib.pyplot`."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "figure.dpi": 110,
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "axes.titlecolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": INK,
            "grid.alpha": 0.18,
            "legend.frameon": False,
        }
    )
    return plt
