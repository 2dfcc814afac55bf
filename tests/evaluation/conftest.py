"""Judges that see pictures need torchvision; where it is only among the extras of the zoo, it is made importable."""

from tests.support import torchvision

torchvision.enable()  # before transformers is imported, which looks for it once
