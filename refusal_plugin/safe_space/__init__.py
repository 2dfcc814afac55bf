"""The safe space: fit it, split a direction at it, see what that does, compare modalities."""

from .analysis import SafeSpaceReport, analyse_safe_space, load_safe_space_report
from .angles import Overlaps, overlaps, random_angles
from .space import SafeSpace, load_safe_space, overlap
from .sweep import sweep

__all__ = [
    "Overlaps",
    "SafeSpace",
    "SafeSpaceReport",
    "load_safe_space",
    "load_safe_space_report",
    "overlap",
    "overlaps",
    "random_angles",
    "analyse_safe_space",
    "sweep",
]
