"""Small drawings beside words: modality icons, the bar on a card, a waveform, a sparkline over layers."""

from collections.abc import Sequence

from .markup import Markup, tag
from .numbers_in_words import decimal, share
from .palette import colour
from .records import Rate
from .svg import Plot, Scale, line, mark, polyline, text

_ICONS = {
    "text": ["M4 5.5h12", "M4 10h12", "M4 14.5h7.5"],
    "image": ["M3.5 4h13v12h-13z", "M3.5 13.5l4-4 3.5 3.5 2.5-2.5 3 3", "M12.6 7.3h.01"],
    "video": ["M3 5h14v10H3z", "M8.4 7.8l4 2.2-4 2.2z"],
    "audio": ["M3 8.5v3", "M6.5 6v8", "M10 3.5v13", "M13.5 6v8", "M17 8.5v3"],
}
_STROKE = {"fill": "none", "stroke": "currentColor", "stroke_width": "1.8", "stroke_linecap": "round"}


def icon(modality: str) -> Markup:
    """A line icon in the colour of the text around it; decoration, hidden from screen readers."""
    lines = [tag("path", d=d) for d in _ICONS.get(modality, ["M10 4v12", "M4 10h12"])]
    look = {"viewBox": "0 0 20 20", "class_": "icon", "aria_hidden": "true", "stroke_linejoin": "round"}
    return tag("svg", lines, **look, **_STROKE)


def change_bar(before: Rate, after: Rate, modality: str) -> Markup:
    """Before and after on a track from 0 to 100%."""
    hue, plot = colour(modality), Plot(20, width=200)
    x = Scale(0.0, 1.0, 8.0, 192.0)
    plot.add(line(x(0), 10, x(1), 10, "track", style="stroke:var(--rp-line)", stroke_width=5, stroke_linecap="round"))
    if before.value is not None and after.value is not None:
        plot.add(
            line(x(before.value), 10, x(after.value), 10, "link", style=f"stroke:{hue}", stroke_width=5, opacity=0.45)
        )
    for rate, hollow, name in ((after, False, "with the direction added"), (before, True, "as it is")):
        if rate.value is not None:
            plot.add(mark(x(rate.value), 10, hue, size=5.6, hollow=hollow, title=f"{name}: {share(rate)}"))
    said = f"As it is {share(before)}; with the text direction added {share(after)}"
    return plot.render(f"Harmful {modality} requests refused", said, class_="bar")


def waveform(peaks: Sequence[float], seconds: float) -> Markup:
    """The outline of a sound, mirrored around its middle."""
    plot, wide, style = Plot(64, width=300), 296 / max(1, len(peaks)), f"stroke:{colour('audio')}"
    for index, peak in enumerate(peaks):
        x, half = 2 + (index + 0.5) * wide, max(0.6, 28 * peak)
        plot.add(line(x, 32 - half, x, 32 + half, "peak", style=style, stroke_width=1.3))
    return plot.render("Waveform", f"{decimal(seconds, 1)} seconds of sound", class_="waveform")


def sparkline(values: Sequence[float | None], modality: str, layer: int | None) -> Markup | None:
    """Projection of one request by layer; dotted lines are the mean benign and the mean harmful text."""
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    if len(known) < 2:
        return None
    plot = Plot(104, left=64, right=44, top=16, bottom=24, width=340)
    low, high = min(0.0, *(v for _, v in known)), max(1.0, *(v for _, v in known))
    air, last = 0.08 * (high - low), len(values) - 1
    x, y = Scale(0, last, plot.left, plot.edge), Scale(low - air, high + air, plot.floor, plot.top)
    for value, name in ((0.0, "benign"), (1.0, "harmful")):
        plot.add(line(plot.left, y(value), plot.edge, y(value), "reference"))
        plot.add(text(plot.left - 8, y(value), name, anchor="end", class_="tick"))
    plot.add(polyline([(x(i), y(v)) for i, v in known], colour(modality)))
    for i, v in known:
        here = i == layer
        plot.add(mark(x(i), y(v), colour(modality), size=4.6 if here else 2.2, title=f"layer {i}: {decimal(v)}"))
        if here:
            plot.add(text(x(i), y(v) - 12, decimal(v), anchor="middle", class_="strong halo"))
    for at, name in ((0, "layer 0"), (last, str(last))):
        plot.add(text(x(at), plot.height - 8, name, anchor="middle", class_="tick"))
    said = "0 is the mean benign text, 1 the mean harmful text. " + ", ".join(
        f"layer {i}: {decimal(v)}" for i, v in known
    )
    return plot.render("Projection of this request on the text direction, by layer", said, class_="spark")
