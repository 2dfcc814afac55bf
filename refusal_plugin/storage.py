"""Tensors with JSON beside them in one safetensors file, written atomically. No pickle anywhere."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import DirectionError, OptionalDependencyError

KEY = "refusal_plugin"


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
    """Write tensors and a JSON record; a file is either the old one or the new one, never half of one.

    Raises:
        DirectionError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    try:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            partial,
            metadata={KEY: json.dumps(record)},
        )
        os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        raise DirectionError(
            f"write {target}", str(error).splitlines()[0], "choose a folder that can be written"
        ) from None
    return target


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        DirectionError: no such file, not a safetensors file, or one without our record.
    """
    source = Path(path)
    if not source.is_file():
        raise DirectionError(f"read {source}", "no such file", "give a file written by save()")
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: tensors in the file's own memory may lie off a 64-byte boundary, where kernels round differently,
            # so that a loaded defence would compute other bits than the fitted one (seen with AVX-512).
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        record = json.loads(metadata[KEY])
        if not isinstance(record, dict):
            raise ValueError("its record is no JSON object")
    except (SafetensorError, OSError, ValueError) as error:
        found = (str(error).splitlines() or ["unreadable"])[0]
        raise DirectionError(f"read {source}", f"not a readable safetensors file ({found})", "write it again") from None
    except KeyError:
        raise DirectionError(f"read {source}", "it has no record of ours", "give a file written by save()") from None
    return tensors, record


def frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Rows of a result as a pandas DataFrame.

    Raises:
        OptionalDependencyError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise OptionalDependencyError("make a table", "pandas is not installed", "pip install pandas") from None
    return pandas.DataFrame([dict(row) for row in rows])
