"""Values over a prompt: its tokens as tinted words, and the picture, film or sound that soft tokens stand for.

Words and media fit none of the four charts, so these draw for themselves.
"""

from collections.abc import Mapping, Sequence

from ..charts.heat import AWAY, TOWARDS
from ..filling import fill
from ..markup import Markup, tag
from ..media import is_image
from ..numbers_in_words import decimal
from ..svg import box

Values = Sequence[float | None]


def token_line(tokens: Sequence[object], values: Values, limit: float, spans: Sequence[object], label: str) -> Markup:
    """Tokens as text, coloured by a value; positions of a medium are left to its picture.

    Args:
        tokens: one word per position.
        values: one per position, None where it was not measured.
        limit: the value of full colour.
        spans: the part of the prompt of every position; "media" is left out.
        label: what the values are, for screen readers.
    """
    shown: list[dict[str, object]] = []
    for word, value, span in zip(tokens, values, spans, strict=False):
        if span != "media":
            strength = round(100 * min(1.0, abs(value or 0.0) / limit) * 0.62)
            hue = None if value is None else TOWARDS if value >= 0 else AWAY
            said = "not measured" if value is None else decimal(value)
            shown.append({"gap": False, "word": word, "hue": hue, "strength": strength, "said": said})
        elif not shown or not shown[-1]["gap"]:
            shown.append({"gap": True})
    known = zip(tokens, values, spans, strict=False)
    spoken = [f"{word} {decimal(value)}" for word, value, span in known if span != "media"]
    return fill("tokens.html", tokens=shown, label=label, said=spoken)


def media_strip(values: Values, spans: Sequence[object], limit: float) -> Markup | None:
    """The positions of a medium in a row, where there is no picture to lay them over; None without any."""
    inside = [value for value, span in zip(values, spans, strict=False) if span == "media"]
    if not inside:
        return None
    said = "positions of the medium: " + ", ".join(map(decimal, inside))
    strip = tag("div", _sheet([], inside, limit, 1, len(inside), 400.0, 24.0), role="img", aria_label=said)
    return tag("div", strip, class_="strip")


def media_overlay(
    values: Values, limit: float, name: str, *, modality: str, grid: Sequence[int], pictures: Sequence[object]
) -> Markup:
    """A value per soft token, laid over the picture, the film strip or the spectrogram it stands for.

    Args:
        values: one per soft token, frame by frame and row by row.
        limit: the value of full colour.
        name: what the values are, written below.
        modality: of the medium.
        grid: (frames, rows, columns) of the soft tokens.
        pictures: data URIs, one per frame; what is no image is left out.
    """
    frames, rows, columns = grid
    shown = [str(uri) for uri in pictures if is_image(uri)]
    label = f"{name} over the {modality}, {frames} x {rows} x {columns} places: {', '.join(map(decimal, values))}"
    if modality == "audio":
        sheets = [_sheet(shown[:1], values, limit, 1, len(values), 400.0, 120.0)]
    else:
        sheets, size = [], rows * columns
        for frame in range(frames):
            # A soft token may stand for several frames of a clip: show the first of them.
            at = frame * len(shown) // frames
            part = values[frame * size : (frame + 1) * size]
            sheets.append(_sheet(shown[at : at + 1], part, limit, rows, columns, 200.0, 200.0 * rows / columns))
    return fill("overlay.html", sheets=sheets, label=label, name=name)


def _sheet(picture: Sequence[str], values: Values, limit: float, rows: int, columns: int, w: float, h: float) -> Markup:
    marks = [box(0, 0, w, h, rx=None, style="fill:var(--rp-surface)")]
    if picture:
        place = {"x": 0.0, "y": 0.0, "width": w, "height": h, "preserveAspectRatio": "none", "class_": "pixels"}
        marks.append(tag("image", href=picture[0], **place))
    wide, tall = w / columns, h / rows
    for index, value in enumerate(values):
        if value is None:
            continue
        style = f"fill:{TOWARDS if value >= 0 else AWAY};stroke:var(--rp-bg)"
        depth = round(min(1.0, abs(value) / limit) * 0.72, 3)
        more = {"rx": None, "stroke_width": 0.6, "fill_opacity": depth}
        x, y = (index % columns) * wide, (index // columns) * tall
        marks.append(box(x, y, wide, tall, title=decimal(value), style=style, **more))
    return tag("svg", marks, viewBox=f"0 0 {w:.0f} {h:.0f}", aria_hidden="true", class_="sheet")


def values_over_prompt(
    title: str, tokens: Sequence[object], lines: Mapping[str, Values], spans: Sequence[object], limit: float, label: str
) -> Markup:
    """One prompt under its title: for every named line of values the tinted tokens and the strip of its medium."""
    shown = [
        (name, token_line(tokens, values, limit, spans, f"{label} {name}".strip()), media_strip(values, spans, limit))
        for name, values in lines.items()
    ]
    return fill("prompt.html", title=title, lines=shown)
