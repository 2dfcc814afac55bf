"""An ordinary torchvision beside a torch without CUDA, for tests of preprocessors that import it.

Its wheel registers two operators from a library that needs CUDA; once they are defined by name, all that preprocessors
use (resize, normalise, pad) works. Users have a torchvision of their own and need none of this.
"""

from __future__ import annotations

import importlib.util
import os
import sys

EXTRAS = "ZOO_EXTRAS"
"""Environment variable: a folder with torchvision and other packages that preprocessors ask for."""

_DEFINED = []


def enable(folder: str | None = None) -> str:
    """Make torchvision importable, if it is there.

    Args:
        folder: where it lies; default the folder that `ZOO_EXTRAS` names.

    Returns:
        "" if it can be imported now, else the reason.
    """
    folder = folder or os.environ.get(EXTRAS)
    if folder and folder not in sys.path:
        sys.path.append(folder)
    if importlib.util.find_spec("torchvision") is None:
        return f"torchvision is not installed (and {EXTRAS} names no folder that has it)"
    if not _DEFINED:
        import torch

        try:
            import torchvision
        except RuntimeError:
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _DEFINED.append(library)
            import torchvision  # noqa: F401
    return ""
