"""Requests and answers: one question per modality with its medium and its projection, and every item of the test."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .icons import sparkline, waveform
from .media import SMALL, envelope, is_audio, is_image, png_size
from .records import at, finite, mapping, records, sequence

MEDIA_BUDGET = 1_000_000
"""Characters of media of the examples in one page; what does not fit is named instead."""
ITEMS_BUDGET = 600_000
"""The same of all other items."""
MOST = 2000
"""Items in one page; the results hold all."""
REFUSED = ("refusal", "late_refusal")


def examples(results: Mapping[str, Any]) -> list[dict[str, object]]:
    """What the article of every example shows, in the order of the results."""
    layer, shown = finite(results, "direction", "layer"), []
    for row, article in _articles(records(results, "examples"), MEDIA_BUDGET):
        values = [finite(v) for v in sequence(row, "projection_by_layer", "before")]
        shown.append(article | {"line": sparkline(values, article["modality"], None if layer is None else int(layer))})
    return shown


def items(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The browser of answers: its articles, what there is to choose from, and what is left out; None without items."""
    rows = records(results, "items")
    if not rows:
        return None
    layer = finite(results, "direction", "layer")
    shown = [
        article | {"marks": _marks(article), "along": next(iter(_along(row, layer)), None)}
        for row, article in _articles(rows[:MOST], ITEMS_BUDGET)
    ]
    media = [article["medium"] for article in shown if article["medium"]]
    return {
        "articles": shown,
        "total": len(rows),
        "media": (sum(not medium["left_out"] for medium in media), len(media)),
        "labels": sorted({article[which]["label"] for article in shown for which in ("before", "after")} - {""}),
    }


def _along(row: Mapping[str, Any], layer: float | None) -> list[float | None]:
    """The projection at a layer; empty where it is not known."""
    along = sequence(row, "projection_by_layer", "before")
    return [finite(along[int(layer)])] if layer is not None and 0 <= layer < len(along) else []


def _marks(article: Mapping[str, Any]) -> list[str]:
    """What a reader may look for first."""
    before, after = article["before"]["label"], article["after"]["label"]
    harmful = article["role"] == "harmful"
    found = {
        "changed": before != after,
        "refused": not harmful and after in REFUSED,
        "answered": harmful and after == "compliance",
    }
    return [word for word, true in found.items() if true]


def _articles(rows: Sequence[Mapping[str, Any]], left: int) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Every row with what its article shows; media are left out once `left` characters are spent."""
    for row in rows:
        size = sum(len(str(uri)) for uri in sequence(row, "media", "data"))
        fits = size <= left
        left -= size if fits else 0
        yield (
            row,
            {
                "modality": str(row.get("modality", "text")),
                "role": str(row.get("role", "")),
                "id": row.get("id"),
                "text": row.get("text", ""),
                "says": row.get("says"),
                "medium": _medium(mapping(row, "media"), fits),
                "before": _answer(row, "before"),
                "after": _answer(row, "after"),
            },
        )


def _answer(row: Mapping[str, Any], which: str) -> dict[str, object]:
    return {"label": str(at(row, which, "label") or ""), "said": at(row, which, "answer")}


def _medium(media: Mapping[str, Any], fits: bool) -> dict[str, Any] | None:
    """Pictures and sounds as data URIs that the page may show; None without a medium."""
    if not media:
        return None
    kind, data = str(media.get("kind", "")), media.get("data")
    uris = [data] if isinstance(data, str) else sequence(data)
    images = [_image(uri) for uri in uris if is_image(uri)]
    sounds = [_sound(uri) for uri in uris if is_audio(uri)]
    return {"kind": kind, "left_out": not fits or not uris, "images": images, "sounds": sounds}


def _image(uri: str) -> dict[str, object]:
    size = png_size(uri)
    return {"uri": uri, "size": size, "small": size is not None and max(size) < SMALL}


def _sound(uri: str) -> dict[str, object]:
    outline = envelope(uri)
    return {"uri": uri, "drawing": None if outline is None else waveform(*outline)}
