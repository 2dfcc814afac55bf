"""One question per modality: the medium itself, the answer before and after, and its projection by layer."""

from collections.abc import Mapping
from typing import Any

from .icons import sparkline, waveform
from .media import SMALL, envelope, is_audio, is_image, png_size
from .records import at, finite, mapping, records, sequence

MEDIA_BUDGET = 1_000_000
"""Characters of embedded media in one page; what does not fit is named instead."""


def examples(results: Mapping[str, Any]) -> list[dict[str, object]]:
    """What the article of every example shows, in the order of the results."""
    layer, left, shown = finite(results, "direction", "layer"), MEDIA_BUDGET, []
    for row in records(results, "examples"):
        size = sum(len(str(uri)) for uri in sequence(row, "media", "data"))
        fits = size <= left
        left -= size if fits else 0
        modality = str(row.get("modality", "text"))
        values = [finite(v) for v in sequence(row, "projection_by_layer", "before")]
        shown.append(
            {
                "modality": modality,
                "role": str(row.get("role", "")),
                "id": row.get("id"),
                "text": row.get("text", ""),
                "says": row.get("says"),
                "medium": _medium(mapping(row, "media"), fits),
                "before": _answer(row, "before"),
                "after": _answer(row, "after"),
                "line": sparkline(values, modality, None if layer is None else int(layer)),
            }
        )
    return shown


def _answer(row: Mapping[str, Any], which: str) -> dict[str, object]:
    return {"label": str(at(row, which, "label") or ""), "said": at(row, which, "answer")}


def _medium(media: Mapping[str, Any], fits: bool) -> dict[str, object] | None:
    """Pictures and sounds as data URIs that the page may show; None without a medium."""
    if not media:
        return None
    kind, data = str(media.get("kind", "")), media.get("data")
    uris = [data] if isinstance(data, str) else sequence(data)
    images = [_image(uri) for uri in uris if is_image(uri)] if kind in ("image", "video") else []
    sounds = [_sound(uri) for uri in uris if is_audio(uri)] if kind == "audio" else []
    return {"kind": kind, "left_out": not fits, "images": images, "sounds": sounds}


def _image(uri: str) -> dict[str, object]:
    size = png_size(uri)
    return {"uri": uri, "size": size, "small": size is not None and max(size) < SMALL}


def _sound(uri: str) -> dict[str, object]:
    outline = envelope(uri)
    return {"uri": uri, "drawing": None if outline is None else waveform(*outline)}
