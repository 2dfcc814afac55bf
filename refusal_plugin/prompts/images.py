"""Pictures: a file, a Pillow image or an array as one RGB Pillow image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import MediaError
from .prompt import ImageLike
from .reading import existing, readable

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def load_image(medium: ImageLike, *, name: str = "image") -> Image.Image:
    """The picture as an RGB Pillow image.

    Transparent pixels become white and the EXIF orientation is applied.

    Args:
        medium: a file, a Pillow image, or a uint8 array (height, width) or (height, width, 3 or 4).
        name: what to call the medium in an error.

    Raises:
        MediaError: no such file, not an image, several pictures in one (animated, or with pages), an array of another
            shape or type.
    """
    if isinstance(medium, Image.Image):
        return _single(medium, name)
    if isinstance(medium, np.ndarray):
        check_pixels(medium, name)
        return to_rgb(Image.fromarray(medium), name)
    path = existing(medium, name)
    reading = readable(f"{name} {path}", "it is no readable image", "give a PNG, JPEG or WebP file")
    with reading, Image.open(path) as opened:
        opened.load()
        return _single(opened, f"{name} {path}")


def _single(image: Image.Image, name: str) -> Image.Image:
    """The image in RGB; MediaError if it is one of several.

    A photo whose file also holds previews or a gain map (the format MPO) is one picture.
    """
    n = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if n > 1:
        raise MediaError(name, f"it holds {n} pictures", "give it as video=, or one of its pictures")
    return to_rgb(image, name)


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """One picture in RGB, upright and on white."""
    with readable(name, "the image cannot be decoded", "open and save it again"):
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(paper, image)
        elif image.mode.startswith("I;16") or image.mode in ("I", "F"):
            raise MediaError(name, f"its pixels are {image.mode!r}, not 8 bit", "save it with 8 bits per channel")
        return image.convert("RGB")


def check_pixels(array: npt.NDArray[Any], name: str) -> None:
    """Raises MediaError unless `array` is uint8 (height, width) or (height, width, 3 or 4)."""
    want = "give a uint8 array (height, width, 3)"
    if array.dtype != np.uint8:
        detail = " with NaN" if array.dtype.kind == "f" and bool(np.isnan(array).any()) else ""
        raise MediaError(name, f"its pixels are {array.dtype}{detail}", want)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise MediaError(name, f"its shape is {array.shape}", want)
