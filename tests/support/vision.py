"""torchvision beside a torch that has no CUDA, for tests only.

The package index has torchvision for CUDA alone. Everything that processors use of it (resizing, normalising, padding)
runs on a CPU once the two operators of its compiled part that it looks up while being imported exist.
"""

from importlib.util import find_spec

import torch

_KEPT: list[torch.library.Library] = []


def torchvision_ready() -> bool:
    """Whether torchvision can be imported; where it is installed without its compiled part, that is stood in for."""
    if find_spec("torchvision") is None:
        return False
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        import torchvision  # noqa: F401
    return True
