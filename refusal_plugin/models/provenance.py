"""Where an artefact came from, and whether it belongs to the model at hand."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DirectionError
from ..prompts import PromptSet
from ..storage import Saved
from . import anatomy

PACKAGES = ("refusal-plugin", "torch", "transformers", "nnsight")
COMPARED = ("model", "n_layers", "d_model", "config_hash", "weight_hash", "revision", "template_hash")


def versions() -> dict[str, str]:
    """Versions of the packages that shape results."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def provenance(model: Any, prompts: PromptSet) -> dict[str, Any]:
    """Model, weights, template, data and package versions behind an artefact.

    Returns:
        JSON-able; weights as SHA-256 (the hub revision for a remote model), data as the hash and the ids of the
        prompts.
    """
    facts = anatomy(model)
    return {
        "model": facts.name,
        "architecture": facts.architecture,
        "revision": facts.revision,
        "weight_hash": None if facts.remote else facts.weight_hash(),
        "config_hash": facts.config_hash,
        "template_hash": facts.template_hash,
        "d_model": facts.d_model,
        "n_layers": facts.n_layers,
        "data_hash": prompts.hash,
        "data_ids": [prompt.id for prompt in prompts],
        "splits": sorted({str(prompt.split) for prompt in prompts}),
        "versions": versions(),
    }


def check_provenance(record: Mapping[str, Any], model: Any, asked: str) -> None:
    """Raise DirectionError if an artefact was made on another model, other weights or another chat template."""
    facts = anatomy(model)
    missing = [name for name in COMPARED if name not in record]
    if missing:
        raise DirectionError(
            f"{asked} on '{facts.name}'", f"it does not say its {missing[0]}", "fit it on this model, with fit()"
        )
    if record["d_model"] != facts.d_model or record["n_layers"] != facts.n_layers:
        raise DirectionError(
            f"{asked} on '{facts.name}'",
            f"it was made on '{record['model']}' with {record['n_layers']} layers of width {record['d_model']}, "
            f"this model has {facts.n_layers} of width {facts.d_model}",
            "fit it on this model",
        )
    if record["config_hash"] != facts.config_hash:
        raise DirectionError(
            f"{asked} on '{facts.name}'",
            f"it was made on '{record['model']}', whose config differs",
            "fit it on this model",
        )
    if facts.remote or record["weight_hash"] is None:
        same = record["revision"] is None or facts.revision is None or record["revision"] == facts.revision
        if not same:
            raise DirectionError(
                f"{asked} on '{facts.name}'",
                f"it was made on revision {record['revision']}, this is {facts.revision}",
                "fit it on this revision",
            )
    elif record["weight_hash"] != facts.weight_hash():
        raise DirectionError(
            f"{asked} on '{facts.name}'",
            f"it was made on '{record['model']}' with other weights (same architecture)",
            "fit it on these weights",
        )
    if record["template_hash"] != facts.template_hash:
        raise DirectionError(
            f"{asked} on '{facts.name}'", "it was made with another chat template", "fit it with this template"
        )


Made = TypeVar("Made", bound="Artefact")


class Artefact(Saved):
    """A saved result that remembers the model it was made on, in its field `provenance`."""

    provenance: Mapping[str, Any]

    @classmethod
    def load(cls: type[Made], path: str | Path, model: Any | None = None) -> Made:
        """Read what `save` wrote.

        Args:
            path: the file.
            model: the loaded model it will be used on; its weights and chat template are compared with the stored ones.

        Raises:
            DataError: no such file, another kind of file, or one whose content cannot be right.
            DirectionError: it was made on another model, revision or chat template.
        """
        found = super().load(path)
        if model is not None:
            check_provenance(found.provenance, model, f"use {cls.__name__} {path}")
        return found
