"""A gated edit with its gate held open: what it would do if every row were steered.

The edit on rows that deserve it and the gate that has to find them fail for different reasons. With the true label as
its gate a method is open on harm and shut on everything else, so the open edit on harmful rows alone measures it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..inference.edits import Edit, SiteEdit
from ..traced import gate


def opened(edit: Edit) -> Edit:
    """The edit with every gate open: what is remembered of a prompt is 1, and MARS steps everywhere in its region.

    Args:
        edit: it comes back as it is where nothing in it decides.
    """
    return replace(edit, parts=tuple(_opened(part) for part in edit.parts))


def is_gated(edit: Edit) -> bool:
    """Whether something in an edit decides which rows are steered."""
    return any(_opened(part) is not part for part in edit.parts)


def _opened(part: SiteEdit) -> SiteEdit:
    tensors = _open(part.function, part.tensors)
    return part if tensors is part.tensors else replace(part, tensors=tensors)


def _open(function: Any, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    if function is gate.remember and tensors["gate"] is not gate.always:
        return {**tensors, "gate": gate.always, "condition": {}}
    if function is gate.mars and tensors["gate"] != "none":
        return {**tensors, "gate": "none"}
    if "function" in tensors:
        inner = _open(tensors["function"], tensors["tensors"])
        return tensors if inner is tensors["tensors"] else {**tensors, "tensors": inner}
    return tensors
