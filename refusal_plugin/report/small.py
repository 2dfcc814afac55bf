"""Small drawings beside words: modality icons, the bar on a card, a waveform, a sparkline over layers."""

from collections.abc import Sequence

from refusal_plugin.report import svg
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import colour
from refusal_plugin.report.words import Rate, decimal, share

_ICONS = {
    "text": ["M4 5.5h12", "M4 10h12", "M4 14.5h7.5"],
    "image": ["M3.5 4h13v12h-13z", "M3.5 13.5l4-4 3.5 3.5 2.5-2.5 3 3", "M12.6 7.3h.01"],
    "video": ["M3 5h14v10H3z", "M8.4 7.8l4 2.2-4 2.2z"],
    "audio": ["M3 8.5v3", "M6.5 6v8", "M10 3.5v13", "M13.5 6v8", "M17 8.5v3"],
}


def icon(modality: str) -> Markup:
    """A line icon in the colour of the text around it; decoration, hidden from screen readers."""
    lines = [tag("path", d=d) for d in _ICONS.get(modality, ["M10 4v12", "M4 10h12"])]
    return tag(
        "svg",
        lines,
        viewBox="0 0 20 20",
        class_="icon",
        aria_hidden="true",
        fill="none",
        stroke="currentColor",
        stroke_width="1.8",
        stroke_linecap="round",
        stroke_linejoin="round",
    )


def change_bar(before: Rate, after: Rate, modality: str) -> Markup:
    """Before and after on a track from 0 to 100%."""
    hue = colour(modality)
    plot = svg.Plot(height=20, left=8, right=8, top=0, bottom=0, width=200)
    x = plot.x(0.0, 1.0)
    plot.add(
        tag(
            "line",
            x1=x(0),
            y1=10.0,
            x2=x(1),
            y2=10.0,
            style="stroke:var(--rp-line)",
            stroke_width=5,
            stroke_linecap="round",
        )
    )
    if before.value is not None and after.value is not None:
        plot.add(
            tag(
                "line",
                x1=x(before.value),
                y1=10.0,
                x2=x(after.value),
                y2=10.0,
                style=f"stroke:{hue}",
                stroke_width=5,
                opacity=0.45,
            )
        )
    for rate, hollow, name in ((after, False, "with the direction added"), (before, True, "as it is")):
        if rate.value is not None:
            plot.add(svg.mark(x(rate.value), 10.0, hue, size=5.6, hollow=hollow, title=f"{name}: {share(rate)}"))
    said = f"As it is {share(before)}; with the text direction added {share(after)}"
    return plot.render(f"Harmful {modality} requests refused", said, class_="bar")


def waveform(peaks: Sequence[float], seconds: float) -> Markup:
    """The outline of a sound, mirrored around its middle."""
    plot = svg.Plot(height=64, left=2, right=2, top=4, bottom=4, width=300)
    x = svg.Bands(len(peaks), plot.left, plot.width - plot.right)
    for index, peak in enumerate(peaks):
        half = max(0.6, 28 * peak)
        plot.add(
            tag(
                "line",
                x1=x(index),
                y1=32 - half,
                x2=x(index),
                y2=32 + half,
                style=f"stroke:{colour('audio')}",
                stroke_width=1.3,
            )
        )
    return plot.render("Waveform", f"{decimal(seconds, 1)} seconds of sound", class_="waveform")


def sparkline(values: Sequence[float | None], modality: str, layer: int | None) -> Markup | None:
    """Projection of one request by layer; dotted lines are the mean benign and the mean harmful text."""
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    if len(known) < 2:
        return None
    plot = svg.Plot(height=104, left=64, right=44, top=16, bottom=24, width=340)
    domain = svg.around([v for _, v in known], include=(0.0, 1.0), pad=0.08)
    x, y = plot.x(0, len(values) - 1), plot.y(*domain)
    for value, name in ((0.0, "benign"), (1.0, "harmful")):
        plot.add(svg.rule(plot.left, y(value), plot.width - plot.right, y(value), "reference"))
        plot.add(svg.text(plot.left - 8, y(value), name, anchor="end", class_="tick"))
    plot.add(svg.polyline([(x(i), y(v)) for i, v in known], colour(modality)))
    for i, v in known:
        here = i == layer
        plot.add(svg.mark(x(i), y(v), colour(modality), size=4.6 if here else 2.2, title=f"layer {i}: {decimal(v)}"))
        if here:
            plot.add(svg.text(x(i), y(v) - 12, decimal(v), anchor="middle", class_="strong halo"))
    plot.add(svg.text(x(0), plot.height - 8, "layer 0", anchor="middle", class_="tick"))
    plot.add(svg.text(x(len(values) - 1), plot.height - 8, str(len(values) - 1), anchor="middle", class_="tick"))
    said = "0 is the mean benign text, 1 the mean harmful text. " + ", ".join(
        f"layer {i}: {decimal(v)}" for i, v in known
    )
    return plot.render("Projection of this request on the text direction, by layer", said, class_="spark")
