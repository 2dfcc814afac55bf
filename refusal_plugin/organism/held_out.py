"""The media of the validation and test prompts, unpacked from one safetensors file.

Pictures and clips are kept as ink masks of 16 grey levels (two pixels per byte) plus two colours; speech as one mu-law
clip per word and speaker, plus where and how loud each prompt lays them. Ink and clips are deflated in the file. What
is unpacked is exactly what was measured, on every machine.
"""

import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from ..errors import MediaError
from . import CHECKPOINTS, pictures, speech

MEDIA_FILE = CHECKPOINTS / "heldout_media.safetensors"
MU = 255.0


def mu_expand(codes: np.ndarray) -> np.ndarray:
    """8 bit mu-law, the logarithmic scale of telephony -> float32 samples in -1..1."""
    bent = codes.astype(np.float64) / MU * 2 - 1
    return np.asarray(np.sign(bent) * np.expm1(np.abs(bent) * np.log1p(MU)) / MU, dtype=np.float32)


def unpack(packed: np.ndarray) -> np.ndarray:
    """Two pixels of 16 levels per byte (..., columns / 2) -> uint8 (..., columns)."""
    return np.stack([packed >> 4, packed & 15], axis=-1).reshape(*packed.shape[:-1], -1).astype(np.uint8) * 17


def inflate(packed: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Deflated differences of neighbouring bytes (n,) uint8 -> uint8 of that shape."""
    differences = np.frombuffer(zlib.decompress(packed.tobytes()), dtype=np.uint8)
    return np.cumsum(differences, dtype=np.uint8).reshape(shape)


class HeldOut:
    """The unpacked media.

    Raises:
        MediaError: the file is missing or not readable.
    """

    def __init__(self, path: Path = MEDIA_FILE) -> None:
        try:
            with safe_open(str(path), framework="numpy") as file:
                ids: dict[str, list[str]] = json.loads(file.metadata()["ids"])
                self.tensors: dict[str, np.ndarray] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
                for key, shape in json.loads(file.metadata()["shapes"]).items():
                    self.tensors[key] = inflate(self.tensors[key], shape)
        # safetensors and zlib raise their own classes, a missing file OSError, bad metadata KeyError.
        except Exception as problem:
            raise MediaError(
                f"read the held-out media {path.name}",
                f"{type(problem).__name__}",
                "reinstall the package, or run `make organism` in the sources",
            ) from problem
        self._place = {name: (modality, row) for modality, names in ids.items() for row, name in enumerate(names)}

    def __call__(self, prompt_id: str) -> Any:
        """The medium of a prompt.

        Returns:
            an image (32, 64, 3) uint8, four frames (16, 64, 3) uint8, or a waveform (20480,) float32 at 16 kHz.

        Raises:
            MediaError: the file holds no such prompt (a file of another version of the world).
        """
        if prompt_id not in self._place:
            raise MediaError(
                f"find the held-out medium {prompt_id}",
                "the file does not hold it",
                "reinstall the package, or run `make organism` in the sources",
            )
        modality, row = self._place[prompt_id]
        return self._speech(row) if modality == "audio" else self._picture(modality, row)

    def _picture(self, modality: str, row: int) -> Any:
        ink, ground = self.tensors[f"{modality}.colours"][row].tolist()
        mask = unpack(self.tensors[f"{modality}.ink"][row])
        look = pictures.Look(0, ((0, 0),), tuple(ink), tuple(ground))
        if modality == "image":
            return pictures.colour(mask.reshape(-1, pictures.WIDTH), look)
        return [frame for line in mask for frame in [pictures.colour(line, look)] * pictures.HOLD]

    def _speech(self, row: int) -> np.ndarray:
        out = np.zeros(2 * speech.SLOT, dtype=np.float32)
        found = self.tensors
        laid = (found[f"audio.{key}"][row].tolist() for key in ("clip", "start", "gain"))
        for clip, start, gain in zip(*laid, strict=True):
            low, high = found["audio.spans"][clip]
            samples = mu_expand(found["audio.samples"][low:high])
            out[start : start + len(samples)] = samples * gain
        return out


@lru_cache(maxsize=1)
def held_out() -> HeldOut:
    """The shipped media, read once."""
    return HeldOut()
