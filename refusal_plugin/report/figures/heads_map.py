"""Which heads write the direction: layer x head maps of every modality, contrast first."""

from collections.abc import Mapping
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.figure import empty, figure, panel
from refusal_plugin.report.figures.heat import AWAY, RING, TOWARDS, grid, heatmap, largest, whole
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import Rate, decimal, finite, mapping, percent, scalar, sequence

TITLE = "Which heads write the refusal direction?"


def heads_map_figure(found: Mapping[str, Any]) -> Markup:
    """Contrast, and the mean over harmful prompts, of every head and modality, in shares of text's own difference."""
    contrasts, norm = mapping(found.get("contrast")), finite(found.get("norm")) or 1.0
    along = found.get("along", "the stream along the refusal direction")
    distance = found.get("distance", "the distance between harmful and benign text")
    names = [m for m in modality_order(contrasts) if grid(mapping(contrasts[m]).get("value"))]
    if not names:
        return empty("heads-map", TITLE, "No head could be attributed in this run.")
    values = {m: _share(mapping(contrasts[m]).get("value"), norm) for m in names}
    means = {m: _share(mapping(contrasts[m]).get("harmful"), norm) for m in names}
    limit, raw = largest(*values.values()), largest(*means.values())
    panels, quiet = [], {m: _silent(found, m) for m in names}
    for m in names:
        drawn = heatmap(values[m], limit, f"Contrast, {m}", whole, sure=_sure(mapping(contrasts[m])), ring=quiet[m])
        panels.append(panel(drawn, m, "harmful minus benign", hue=colour(m)))
    below = [
        panel(heatmap(means[m], raw, f"Mean over harmful prompts, {m}", whole), m, "harmful prompts", hue=colour(m))
        for m in names
    ]
    more = tag(
        "details",
        tag("summary", "The same maps for harmful prompts alone"),
        tag("p", "A head with a constant bias has a large value here and no contrast above.", class_="note"),
        tag("div", below, class_="panels"),
    )
    outlined = svg.glyph(RING, shape="square", hollow=True, label="strong in text, silent here")
    outline = [outlined] if any(quiet.values()) else []
    made = figure(
        "heads-map",
        TITLE,
        f"What each attention head adds to {along} at the last prompt token: harmful minus benign prompts, in percent "
        f"of {distance}. The contributions are exact and add up to the whole.",
        panels,
        legend=[
            svg.glyph(TOWARDS, shape="square", label="towards refusal"),
            svg.glyph(AWAY, shape="square", label="away from it"),
            *outline,
        ],
        reading="Numbers stand where the 95% interval excludes zero. All maps share one scale, so a head that is "
        "strong in text and pale in another modality does not pass the harm on there. What a head adds directly is "
        "not yet what the model would do without it: that takes removal.",
        tables=[_table(names, contrasts, norm, distance)],
    )
    return Markup(str(made).replace("</figure>", f"{more}</figure>", 1))


def profile_figure(found: Mapping[str, Any]) -> Markup | None:
    """How the difference is built up, layer by layer, by heads and by MLPs."""
    profiles, norm = mapping(found.get("profile")), finite(found.get("norm")) or 1.0
    names = [m for m in modality_order(profiles) if sequence(profiles[m])]
    if not names:
        return None
    panels, rows = [], []
    totals = {m: _steps(profiles[m], norm) for m in names}
    low = min([0.0, *(v for steps in totals.values() for _, _, v in steps)])
    high = max([0.0, *(v for steps in totals.values() for _, _, v in steps)])
    for m in names:
        panels.append(panel(_waterfall(totals[m], low, high, m), m, hue=colour(m)))
        rows += [[f"{m}, {_said(part, layer)}", percent(v, 1)] for part, layer, v in totals[m]]
    return figure(
        "heads-profile",
        "Where is the difference between harmful and benign written?",
        "The distance between harmful and benign prompts along the direction, split over everything that writes to the "
        "stream below the direction's layer: token embedding, all heads of a layer together, its MLP.",
        panels,
        legend=[
            svg.glyph("var(--rp-accent)", shape="square", label="heads of a layer"),
            svg.glyph("var(--rp-near-miss)", shape="square", label="MLP"),
            svg.glyph("var(--rp-control)", shape="square", label="embedding"),
        ],
        reading="Bars of one modality add up to its distance between harmful and benign; 100% is the distance in text. "
        "A medium whose bars are short in a layer does not write its harm there.",
        tables=[html_table(["", "of the distance in text"], rows, caption="Parts of the harmful-benign difference.")],
    )


def _steps(profile: object, norm: float) -> list[tuple[str, int | None, float]]:
    steps = []
    for row in sequence(profile):
        value, layer = finite(mapping(row).get("value")), finite(mapping(row).get("layer"))
        part = str(mapping(row).get("part", ""))
        if value is not None and (part != "remainder" or abs(value / norm) > 1e-3):
            steps.append((part, None if layer is None else int(layer), value / norm))
    return steps


def _said(part: str, layer: int | None) -> str:
    return part if layer is None else f"{part} of layer {layer}"


_HUES = {"heads": "var(--rp-accent)", "mlp": "var(--rp-near-miss)"}


def _waterfall(steps: list[tuple[str, int | None, float]], low: float, high: float, modality: str) -> Markup:
    tall = max(9.0, min(17.0, 260 / max(1, len(steps))))
    plot = svg.Plot(height=12 + tall * len(steps) + 36, left=74, right=46, top=8, bottom=36)
    x = plot.x(*svg.around([low, high], include=[0.0], pad=0.02))
    plot.x_axis(x, svg.ticks(low, high, 4), percent, "share of the distance in text")
    plot.add(svg.rule(x(0), plot.top, x(0), plot.height - plot.bottom, "axis"))
    for place, (part, layer, value) in enumerate(steps):
        y = plot.top + (place + 0.5) * tall
        label = part if layer is None else f"{part} {layer}"
        plot.add(
            svg.text(plot.left - 7, y, "MLP " + str(layer) if part == "mlp" else label, anchor="end", class_="tick")
        )
        left, right = sorted((x(0), x(value)))
        plot.add(
            tag(
                "rect",
                tag("title", f"{_said(part, layer)}: {percent(value, 1)}"),
                x=left,
                y=y - tall * 0.36,
                width=max(0.6, right - left),
                height=tall * 0.72,
                rx=2.0,
                style=f"fill:{_HUES.get(part, 'var(--rp-control)')}",
            )
        )
        if abs(value) >= 0.03:
            plot.add(svg.text(right + 4, y, percent(value), class_="tick"))
    said = "; ".join(f"{_said(part, layer)} {percent(value)}" for part, layer, value in steps)
    return plot.render(f"Parts of the difference in {modality}", said)


def _share(found: object, norm: float) -> list[list[float | None]]:
    return [[None if v is None else v / norm for v in row] for row in grid(found)]


def _silent(found: Mapping[str, Any], modality: str) -> list[tuple[int, int]]:
    """The heads that write in text and fall silent in this modality."""
    rows = [mapping(row) for row in sequence(found.get("silent"))]
    places = [(finite(row.get("layer")), finite(row.get("head"))) for row in rows if row.get("modality") == modality]
    return [(int(layer), int(head)) for layer, head in places if layer is not None and head is not None]


def _sure(found: Mapping[str, Any]) -> list[list[bool]]:
    """Cells whose interval excludes zero."""
    low, high = grid(found.get("low")), grid(found.get("high"))
    return [
        [a is not None and b is not None and (a > 0 or b < 0) for a, b in zip(one, other, strict=False)]
        for one, other in zip(low, high, strict=False)
    ]


def _table(names: list[str], contrasts: Mapping[str, Any], norm: float, distance: object) -> Markup:
    rows: list[list[object]] = []
    for m in names:
        found = mapping(contrasts[m])
        parts = {key: _share(found.get(key), norm) for key in ("value", "low", "high", "harmful", "benign")}
        for layer, row in enumerate(parts["value"]):
            for head, value in enumerate(row):
                at = {key: 100 * v if (v := parts[key][layer][head]) is not None else None for key in parts}
                rate = Rate(None if value is None else 100 * value, at["low"], at["high"])
                sides = [None if at[key] is None else decimal(at[key], 1) for key in ("harmful", "benign")]
                rows.append([f"{m}, layer {layer}, head {head}", scalar(rate, 1), *sides])
    heads = ["", "contrast [95%]", "harmful", "benign"]
    return html_table(heads, rows, caption=f"Direct contributions in percent of {distance}.")
