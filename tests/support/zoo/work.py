"""What a process of the zoo does with one family: build it, try it, see what loads without torchvision."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
WORK = ROOT / "build" / "zoo"
CHECKPOINTS = WORK / "checkpoints"
LIMIT = 180
"""Seconds that one family may take."""


def tried(name: str) -> dict[str, Any]:
    """Build a family and try everything; in a process that has torchvision where there is one."""
    from tests.support import torchvision

    missing = torchvision.enable()
    _calm()
    from .build import build
    from .checks import check, troubles
    from .families import families

    family, started = families()[name], time.monotonic()
    row: dict[str, Any] = {"family": name, "hub": family.hub_id, "media": list(family.placeholders), "left_out": {}}
    try:
        with _limited():
            built = build(family)
            row["class"] = type(built.module).__name__
            folder = CHECKPOINTS / name
            built.save(folder)
            left_out = troubles(built)
            row["left_out"] = {
                medium: missing if medium == "video" and missing else why for medium, why in left_out.items()
            }
            row["checks"] = check(
                built, folder, tuple(medium for medium in family.placeholders if medium not in left_out)
            )
            if not family.placeholders:
                _remove(folder)
    except BaseException as error:  # a family that cannot be built, or takes too long, is a row as well
        if isinstance(error, KeyboardInterrupt):
            raise
        row.setdefault("class", "")
        row["checks"] = {"built": f"fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    row["checks"] = {check: said.replace(f"{CHECKPOINTS}/", "") for check, said in row["checks"].items()}
    return row | {"seconds": round(time.monotonic() - started, 1)}


def plainly(name: str) -> dict[str, Any]:
    """What of a multimodal checkpoint loads without torchvision."""
    _calm()
    from refusal_plugin import anatomy, load

    try:
        facts = anatomy(load(CHECKPOINTS / name))
        found: dict[str, Any] = {
            "without_torchvision": list(facts.modalities),
            "says": "; ".join(facts.missing.values()),
        }
    except Exception as error:
        found = {"without_torchvision": [], "says": " ".join(str(error).replace(f"{CHECKPOINTS}/", "").split())[:300]}
    _remove(CHECKPOINTS / name)
    return {"family": name, **found}


def _calm() -> None:
    import warnings

    warnings.filterwarnings("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


class _limited:
    """Raises TimeoutError in the block after `LIMIT` seconds."""

    def __enter__(self) -> None:
        import signal

        def late(_signal: int, _frame: Any) -> None:
            raise TimeoutError(f"it takes more than {LIMIT} s")

        signal.signal(signal.SIGALRM, late)
        signal.alarm(LIMIT)

    def __exit__(self, *_about: object) -> None:
        import signal

        signal.alarm(0)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
