"""Pixels to patches: what `Qwen2VLImageProcessorPil` does, for images and for the frames of a video."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import MediaError

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


@dataclass(frozen=True)
class ImageSettings:
    """Sizes of the vision tower's input; pixel limits hold per image or frame."""

    patch_size: int = 8
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 1024
    max_pixels: int = 8192

    def as_dict(self) -> dict[str, Any]:
        """The keys of Hugging Face's image processors."""
        return {
            "patch_size": self.patch_size,
            "merge_size": self.merge_size,
            "temporal_patch_size": self.temporal_patch_size,
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "ImageSettings":
        return cls(
            config["patch_size"],
            config["merge_size"],
            config["temporal_patch_size"],
            config["size"]["shortest_edge"],
            config["size"]["longest_edge"],
        )


def target_size(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """Height and width, multiples of patch_size * merge_size, within the pixel limits and close to the aspect ratio.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    factor = settings.patch_size * settings.merge_size
    if max(height, width) / min(height, width) > 200:
        raise MediaError(f"read an image of {width}x{height} pixels", "a side ratio above 200", "crop it")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


def prepare(image: Image.Image, settings: ImageSettings) -> np.ndarray:
    """Resize (bicubic), scale to 0..1 and normalise: (3, rows, columns) float32."""
    rows, columns = target_size(image.height, image.width, settings)
    if (image.height, image.width) != (rows, columns):
        image = image.resize((columns, rows), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8).astype(np.float64) * (1 / 255)
    return ((pixels.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1)


def patchify(frames: Sequence[np.ndarray], settings: ImageSettings) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Cut frames of one size into flat patches in the order the vision tower merges them.

    Args:
        frames: (3, rows, columns) each. One image is one frame. The last frame is repeated to fill a temporal patch.

    Returns:
        (patches, 3 * temporal_patch_size * patch_size**2) float32, and the grid (time, rows, columns) in patches.
    """
    patch, merge, span = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    block = np.stack([*frames, *[frames[-1]] * (-len(frames) % span)])
    time, channels, rows, columns = block.shape
    grid = (time // span, rows // patch, columns // patch)
    block = block.reshape(
        grid[0], span, channels, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
    ).transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return np.ascontiguousarray(block.reshape(math.prod(grid), -1), dtype=np.float32), grid
