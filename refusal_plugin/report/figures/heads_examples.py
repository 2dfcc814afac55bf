"""One prompt at a time: tokens, patches, frames and sound coloured by the direction, and the heads' attention."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report.circuitsvis import attention_view
from refusal_plugin.report.figures.heat import AWAY, TOWARDS
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.media import is_image
from refusal_plugin.report.palette import ROLE_NAMES, colour
from refusal_plugin.report.small import icon
from refusal_plugin.report.table import html_table, scroll
from refusal_plugin.report.words import decimal, finite, mapping, sequence

LONGEST = 60  # positions up to which attention is drawn: beyond, a cell is smaller than a pixel


def example_views(results: Mapping[str, Any], found: Mapping[str, Any], *, interactive: bool) -> Markup | None:
    """The articles of all examples; None without any."""
    media = {
        str(mapping(row).get("id")): mapping(mapping(row).get("media")) for row in sequence(results.get("examples"))
    }
    rows = [mapping(row) for row in sequence(found.get("examples"))]
    drawn = [
        _example(row, media.get(str(row.get("id")), {}), place, interactive)
        for place, row in enumerate(rows)
        if sequence(row.get("tokens"))
    ]
    return tag("div", drawn, class_="traces") if drawn else None


def token_line(
    tokens: Sequence[object], values: Sequence[float | None], limit: float, spans: Sequence[object], label: str
) -> Markup:
    """Tokens as text, coloured by a value; positions of a medium are left to its picture."""
    parts = []
    for word, value, span in zip(tokens, values, spans, strict=False):
        if span != "media":
            said = "not measured" if value is None else decimal(value)
            parts.append(tag("span", word, class_="tok", style=_tint(value, limit), title=said))
        elif not parts or parts[-1] is not _GAP:
            parts.append(_GAP)
    return tag("p", parts, class_="tokens", role="img", aria_label=f"{label}: " + _spoken(tokens, values, spans))


def media_strip(values: Sequence[float | None], spans: Sequence[object], limit: float) -> Markup | None:
    """The positions of a medium in a row, where there is no picture to lay them over; None without any."""
    inside = [value for value, span in zip(values, spans, strict=False) if span == "media"]
    if not inside:
        return None
    said = "positions of the medium: " + ", ".join(decimal(value) for value in inside)
    strip = tag("div", _sheet([], inside, limit, 1, len(inside), 400.0, 24.0), role="img", aria_label=said)
    return tag("div", strip, class_="strip")


_GAP = tag("span", "medium", class_="tok gap")


def _spoken(tokens: Sequence[object], values: Sequence[float | None], spans: Sequence[object]) -> str:
    said = [f"{w} {decimal(v)}" for w, v, s in zip(tokens, values, spans, strict=False) if s != "media"]
    return ", ".join(said)


def _tint(value: float | None, limit: float) -> str:
    if value is None:
        return ""
    hue = TOWARDS if value >= 0 else AWAY
    strength = round(100 * min(1.0, abs(value) / limit) * 0.62)
    return f"background:color-mix(in srgb,{hue} {strength}%,transparent)"


def _example(row: Mapping[str, Any], media: Mapping[str, Any], place: int, interactive: bool) -> Markup:
    modality, role = str(row.get("modality", "text")), str(row.get("role", ""))
    tokens, spans = sequence(row.get("tokens")), sequence(row.get("spans"))
    along = [finite(v) for v in sequence(row.get("above"))]
    raw = sequence(row.get("projection"))
    heads = [mapping(head) for head in sequence(row.get("heads"))]
    taken = _taken(heads, len(tokens))
    limit = max([0.5, *(abs(v) for v in along if v is not None)])
    most = max([1e-9, *(abs(v) for v in taken)])
    parts: list[Markup | None] = [
        tag("h3", icon(modality), modality, tag("small", f"{ROLE_NAMES.get(role, role)} request")),
        tag("p", "Refusal projection of every token, against benign prompts (orange: towards refusal)", class_="what"),
        token_line(tokens, along, limit, spans, "Refusal projection by token"),
    ]
    if taken:
        names = ", ".join(_name(head) for head in heads)
        parts += [
            tag("p", f"What the heads {names} write along the direction, by where they read it", class_="what"),
            token_line(tokens, list(taken), most, spans, "Contribution by source"),
        ]
    if "media" in spans:
        inside = [index for index, span in enumerate(spans) if span == "media" and index < len(along)]
        parts.append(
            tag(
                "div",
                media_overlay(row, media, [along[i] for i in inside], limit, "refusal projection"),
                media_overlay(row, media, *_own_scale([taken[i] for i in inside], most)) if taken else None,
                class_="overlays",
            )
        )
    answer = mapping(row.get("answer"))
    words, steps = sequence(answer.get("words")), [finite(v) for v in sequence(answer.get("above"))]
    if words:
        parts += [
            tag(
                "p",
                "Along its answer: the projection at each word as it is said, against benign answers",
                class_="what",
            ),
            token_line(words, steps, limit, ["said"] * len(words), "Refusal projection along the answer"),
        ]
    attention = sequence(row.get("attention"))
    if interactive and attention and len(tokens) <= LONGEST:
        said = f"Attention of {len(attention)} heads on this {modality} request (CircuitsVis)"
        names_list = [_name(head) for head in heads]
        parts.append(
            attention_view(
                f"attention-{place}", [str(t) for t in tokens], attention, names_list, summary=said, opened=not place
            )
        )
    seen = [sequence(sequence(pattern)[-1]) for pattern in attention if sequence(pattern)]
    rows = [
        [
            f"{index}: {word}",
            span,
            _cell(raw, index),
            _cell(along, index),
            *(_cell(sequence(head.get("values")), index) for head in heads),
            *(_cell(row, index) for row in seen),
        ]
        for index, (word, span) in enumerate(zip(tokens, spans, strict=False))
    ]
    table = html_table(
        [
            "token",
            "part",
            "projection",
            "above benign",
            *(_name(head) for head in heads),
            *(f"attention {_name(head)}" for head in heads[: len(seen)]),
        ],
        rows,
        caption="Projection (0 = benign text, 1 = harmful text), contributions in units of the stream, and what the "
        "last token attends to.",
    )
    parts.append(tag("details", tag("summary", "Numbers behind this request"), scroll(table, f"Numbers of {modality}")))
    return tag("article", parts, class_="trace", style=f"--hue:{colour(modality)}")


def _own_scale(values: list[float], most: float) -> tuple[list[float], float, str]:
    """Values of a medium on a scale of their own, and what that scale is worth beside the tokens' one."""
    largest = max([1e-9, *(abs(v) for v in values)])
    return (
        values,
        largest,
        f"read by the heads; full colour is {100 * largest / most:.0f}% of the strongest token above",
    )


def _cell(values: Sequence[Any], index: int) -> str:
    return decimal(finite(values[index]) if index < len(values) else None)


def _name(head: Mapping[str, Any]) -> str:
    return f"L{finite(head.get('layer')) or 0:.0f} H{finite(head.get('head')) or 0:.0f}"


def _taken(heads: Sequence[Mapping[str, Any]], n: int) -> list[float]:
    """Contributions by source, summed over the heads that are drawn; empty without heads."""
    if not heads:
        return []
    total = [0.0] * n
    for head in heads:
        for index, value in enumerate(sequence(head.get("values"))[:n]):
            total[index] += finite(value) or 0.0
    return total


def media_overlay(
    row: Mapping[str, Any], media: Mapping[str, Any], values: Sequence[float | None], limit: float, name: str
) -> Markup:
    """A value per soft token, laid over the picture, the film strip or the spectrogram it stands for."""
    frames, rows, columns = (max(1, int(finite(v) or 1)) for v in [*sequence(row.get("grid")), 1, 1, 1][:3])
    pictures = [uri for uri in [*sequence(row.get("picture")), *sequence(media.get("data"))] if is_image(uri)]
    modality = str(row.get("modality"))
    said = ", ".join(decimal(v) for v in values)
    label = f"{name} over the {modality}, {frames} x {rows} x {columns} places: {said}"
    drawn = []
    if modality == "audio":
        drawn.append(_sheet(pictures[:1], values, limit, 1, len(values), 400.0, 120.0))
    else:
        size = rows * columns
        for frame in range(frames):
            # A soft token may stand for several frames of a clip: show the first of them.
            at = frame * len(pictures) // frames if pictures else 0
            part = values[frame * size : (frame + 1) * size]
            tall = 200.0 * rows / columns
            drawn.append(_sheet(pictures[at : at + 1], part, limit, rows, columns, 200.0, tall))
    sheets = tag("div", drawn, class_="sheets", role="img", aria_label=label)
    return tag("div", sheets, tag("p", name, class_="note"), class_="overlay")


def _sheet(
    picture: Sequence[str], values: Sequence[float | None], limit: float, rows: int, columns: int, w: float, h: float
) -> Markup:
    marks: list[Markup] = [tag("rect", x=0.0, y=0.0, width=w, height=h, style="fill:var(--rp-surface)")]
    if picture:
        marks.append(
            tag("image", href=picture[0], x=0.0, y=0.0, width=w, height=h, preserveAspectRatio="none", class_="pixels")
        )
    wide, tall = w / columns, h / rows
    for index, value in enumerate(values):
        if value is None:
            continue
        hue = TOWARDS if value >= 0 else AWAY
        marks.append(
            tag(
                "rect",
                tag("title", decimal(value)),
                x=(index % columns) * wide,
                y=(index // columns) * tall,
                width=wide,
                height=tall,
                style=f"fill:{hue};stroke:var(--rp-bg)",
                stroke_width=0.6,
                fill_opacity=round(min(1.0, abs(value) / limit) * 0.72, 3),
            )
        )
    return tag("svg", marks, viewBox=f"0 0 {w:.0f} {h:.0f}", aria_hidden="true", class_="sheet")
