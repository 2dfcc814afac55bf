"""All that knows an architecture: loading, the verified anatomy, what a model takes and what identifies it."""

from .anatomy import Anatomy, anatomy, embed, final_norm, hf_layers, hf_module, layers, unembed
from .check import Checked, check_model
from .conservation import Conservation
from .inputs import module_inputs
from .load import load
from .structure import LayerParts

__all__ = [
    "Anatomy",
    "Checked",
    "Conservation",
    "LayerParts",
    "anatomy",
    "check_model",
    "embed",
    "final_norm",
    "hf_layers",
    "hf_module",
    "layers",
    "load",
    "module_inputs",
    "unembed",
]
