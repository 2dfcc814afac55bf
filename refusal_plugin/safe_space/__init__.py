"""The safe space: fit it, split a direction at it, see what that does, compare modalities."""

from .analysis import SafeSpaceReport, analyse_safe_space
from .angles import Overlaps, overlaps, random_angles
from .space import SafeSpace, overlap
from .sweep import sweep

__all__ = [
    "Overlaps",
    "SafeSpace",
    "SafeSpaceReport",
    "overlap",
    "overlaps",
    "random_angles",
    "analyse_safe_space",
    "sweep",
]
