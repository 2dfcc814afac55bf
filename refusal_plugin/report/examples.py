"""One question per modality: the medium itself, the answer before and after, and its projection by layer."""

from collections.abc import Mapping
from typing import Any

from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.media import SMALL, envelope, is_audio, is_image, png_size
from refusal_plugin.report.palette import ROLE_NAMES, colour
from refusal_plugin.report.small import icon, sparkline, waveform
from refusal_plugin.report.words import finite, mapping, sequence

MEDIA_BUDGET = 1_000_000  # characters of embedded media in one page; what does not fit is named instead
LABELS = {
    "refusal": "refused",
    "late_refusal": "refused late",
    "compliance": "answered",
    "hedge": "hedged",
    "off_task": "off task",
    "degenerate": "degenerate",
    "unknown": "not judged",
}
_TONE = {"refusal": "accent", "late_refusal": "accent"} | dict.fromkeys(
    ("hedge", "off_task", "degenerate", "unknown"), "control"
)


def examples(results: Mapping[str, Any]) -> Markup | None:
    """The section's articles, in the order of the results; None without examples."""
    found = [mapping(row) for row in sequence(results.get("examples"))]
    if not found:
        return None
    layer = finite(mapping(results.get("direction")).get("layer"))
    left, drawn = MEDIA_BUDGET, []
    for row in found:
        size = sum(len(str(uri)) for uri in sequence(mapping(row.get("media")).get("data")))
        fits = size <= left
        left -= size if fits else 0
        drawn.append(_example(row, None if layer is None else int(layer), fits))
    return tag("div", drawn)


def _example(row: Mapping[str, Any], layer: int | None, fits: bool) -> Markup:
    modality, role = str(row.get("modality", "text")), str(row.get("role", ""))
    values = [finite(v) for v in sequence(mapping(row.get("projection_by_layer")).get("before"))]
    line = sparkline(values, modality, layer)
    says = row.get("says")
    identity = f"{ROLE_NAMES.get(role, role)} request" + (f", item {row['id']}" if row.get("id") else "")
    media = mapping(row.get("media"))
    shown = (
        _medium(media, says, fits)
        if media
        else tag("p", "Text only: the question is the whole request.", class_="caption")
    )
    return tag(
        "article",
        tag("h3", icon(modality), modality, tag("small", identity)),
        tag("div", shown, class_="medium"),
        tag(
            "div",
            tag("p", "The user asks", class_="what"),
            tag("p", row.get("text", ""), class_="said"),
            tag(
                "div",
                _answer("Answer as it is", mapping(row.get("before")), "before"),
                _answer("With the text direction added", mapping(row.get("after")), "after"),
                class_="answers",
            ),
            [tag("p", "Projection of this request on the text direction, before", class_="what"), line]
            if line
            else None,
        ),
        class_="example",
        style=f"--hue:{colour(modality)}",
    )


def _answer(title: str, answer: Mapping[str, Any], which: str) -> Markup:
    label = str(answer.get("label", ""))
    tone = f"color:{colour(_TONE.get(label, 'muted'))}"
    chip = tag("span", LABELS.get(label, label), class_="chip", style=tone) if label else None
    said = answer.get("answer")
    return tag(
        "div",
        tag("p", title, chip, class_="what"),
        tag("p", "(no answer)" if said in (None, "") else said, class_="said"),
        class_=f"answer {which}",
    )


def _medium(media: Mapping[str, Any], says: object, fits: bool) -> list[Markup]:
    kind, data = str(media.get("kind", "")), sequence(media.get("data"))
    if isinstance(media.get("data"), str):
        data = [media["data"]]
    caption = tag("p", f"The {kind} says: ", tag("span", f"\u201c{says}\u201d"), class_="caption") if says else None
    parts: list[Markup | None] = []
    if not fits:
        parts = [tag("p", f"The {kind} is left out: the page would grow beyond its size limit.", class_="caption")]
    elif kind in ("image", "video"):
        frames = [uri for uri in data if is_image(uri)]
        shown = [
            _image(
                uri,
                f"{kind}{f', frame {i + 1} of {len(frames)}' if len(frames) > 1 else ''}: {says or 'no description'}",
            )
            for i, uri in enumerate(frames)
        ]
        parts = [tag("div", shown, class_="film") if len(shown) > 1 else None if not shown else shown[0]]
    elif kind == "audio":
        for uri in (uri for uri in data if is_audio(uri)):
            outline = envelope(uri)
            parts += [
                None if outline is None else waveform(*outline),
                tag(
                    "audio", controls=True, preload="metadata", src=uri, aria_label=f"audio: {says or 'no description'}"
                ),
            ]
    if not any(parts):
        parts = [tag("p", f"The {kind or 'medium'} cannot be shown here.", class_="caption")]
    return [part for part in [*parts, caption] if part is not None]


def _image(uri: str, alt: str) -> Markup:
    size = png_size(uri)
    width, height = size if size else (None, None)
    small = "small" if size and max(size) < SMALL else None
    return tag("img", src=uri, alt=alt, width=width, height=height, class_=small)
