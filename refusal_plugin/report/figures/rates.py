"""Refused before and after steering, per modality: dumbbells with 95 % intervals and the random-direction control."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.figure import figure, panel
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import NOT_MEASURED, Rate, mapping, percent, points, share

# key in results.json, panel title, which way is better
MEASURES = (
    ("harmful_refusal", "Harmful requests refused", "higher is safer"),
    ("near_miss_refusal", "Near-miss requests refused", "should stay low"),
    ("benign_refusal", "Benign requests refused", "should stay low"),
    ("utility", "Benign answers still right", "should stay high"),
)
ROW = 48.0


def rates_figure(results: Mapping[str, Any]) -> Markup:
    """What adding the text direction does in every modality; the causal check on text stands below it."""
    modalities = mapping(results.get("modalities"))
    names = modality_order(modalities)
    panels = [panel(_dumbbells(modalities, names, key, title), title, small) for key, title, small in MEASURES]
    return figure(
        "rates",
        "Does the text direction restore refusal?",
        "Share of test requests that are refused, first by the model as it is, then with the refusal direction "
        "found in text added while it reads the request.",
        panels,
        legend=[
            svg.glyph("var(--rp-ink)", hollow=True, label="as it is"),
            svg.glyph("var(--rp-ink)", label="with the text direction added"),
            svg.glyph("var(--rp-control)", shape="cross", label="with a random direction of the same size"),
        ],
        reading="Each row is a modality: the hollow point is the model as it is, the filled point the steered model, "
        "the "
        "cross the control. Lines are 95% intervals over test items. A direction that works moves the first panel to "
        "the right and leaves the other three where they were; the cross should stay on the hollow point.",
        tables=[_table(modalities, names)],
    )


def _dumbbells(modalities: Mapping[str, Any], names: Sequence[str], key: str, title: str) -> Markup:
    plot = svg.Plot(height=len(names) * ROW + 44, left=52, right=98, top=6, bottom=38)
    scale = plot.x(0.0, 1.0)
    plot.x_axis(scale, [0, 0.25, 0.5, 0.75, 1], percent, "share of test items")
    rows = svg.Bands(len(names), plot.top, plot.height - plot.bottom)
    for index, name in enumerate(names):
        middle, hue = rows(index), colour(name)
        defences = mapping(mapping(modalities[name]).get("defences"))
        before, after, control = (Rate.of(mapping(defences.get(d)).get(key)) for d in ("none", "addition", "random"))
        if index:
            plot.add(svg.rule(plot.left, middle - ROW / 2, plot.width - plot.right, middle - ROW / 2))
        plot.add(svg.text(plot.left - 8, middle, name, anchor="end", fill=hue, class_="strong"))
        if before.value is None and after.value is None:
            plot.add(svg.text(plot.left + 8, middle, NOT_MEASURED, class_="tick"))
            continue
        lanes = {"before": middle - 11, "after": middle + 1, "control": middle + 13}
        if before.value is not None and after.value is not None:
            start, stop = scale(before.value), scale(after.value)
            plot.add(
                tag(
                    "line",
                    x1=start,
                    y1=lanes["before"],
                    x2=stop,
                    y2=lanes["after"],
                    style=f"stroke:{hue}",
                    stroke_width=7,
                    opacity=0.2,
                    stroke_linecap="round",
                )
            )
        _lane(plot, scale, control, lanes["control"], "var(--rp-control)", f"{name}, random direction", shape="cross")
        _lane(plot, scale, before, lanes["before"], hue, f"{name}, as it is", hollow=True)
        _lane(plot, scale, after, lanes["after"], hue, f"{name}, direction added")
        plot.add(svg.text(plot.width - 2, middle - 1, _change(before, after), anchor="end", class_="strong"))
    said = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{word} {share(Rate.of(mapping(mapping(mapping(modalities[name]).get('defences')).get(d)).get(key)))}"
            for d, word in (("none", "as it is"), ("addition", "steered"), ("random", "random direction"))
        )
        for name in names
    )
    return plot.render(title, said)


def _lane(
    plot: svg.Plot,
    scale: svg.Scale,
    rate: Rate,
    y: float,
    hue: str,
    name: str,
    *,
    shape: str = "circle",
    hollow: bool = False,
) -> None:
    if rate.value is None:
        return
    control = shape == "cross"
    if rate.low is not None and rate.high is not None:
        plot.add(svg.whisker(scale(rate.low), scale(rate.high), y, hue, width=1.6 if control else 2.4, opacity=0.6))
    size = 3.2 if control else 5.0
    plot.add(svg.mark(scale(rate.value), y, hue, shape=shape, hollow=hollow, size=size, title=f"{name}: {share(rate)}"))


def _change(before: Rate, after: Rate) -> str:
    if before.value is None or after.value is None:
        return percent(before.value if after.value is None else after.value)
    return f"{percent(before.value).rstrip('%')} \u2192 {percent(after.value)}"


def _table(modalities: Mapping[str, Any], names: Sequence[str]) -> Markup:
    rows: list[list[object]] = []
    for key, title, _ in MEASURES:
        for name in names:
            d = mapping(mapping(modalities[name]).get("defences"))
            rates = [share(Rate.of(mapping(d.get(which)).get(key))) for which in ("none", "addition", "random")]
            change = {"harmful_refusal": "gain"}.get(key)
            gain = points(Rate.of(mapping(d.get("addition")).get(change))) if change else ""
            rows.append([f"{title}, {name}", *rates, gain])
    for name in names:
        added = mapping(mapping(mapping(modalities[name]).get("defences")).get("addition"))
        over = Rate.of(added.get("over_refusal"))
        rows.append([f"Over-refusal (benign and near-miss), {name}", "", "", "", points(over)])
    heads = ["", "as it is", "direction added", "random direction", "change, paired"]
    return html_table(heads, rows, caption="Rates with 95% intervals; the last column is the paired difference.")


def ablation_figure(results: Mapping[str, Any]) -> Markup | None:
    """The causal test on text: the coordinate along the direction is set to its benign mean inside a trace, beside
    the same for a
    random direction. None when it was not run."""
    tests = mapping(results.get("ablation"))
    removed = mapping(tests.get("text"))
    before = mapping(mapping(mapping(mapping(results.get("modalities")).get("text")).get("defences")).get("none"))
    keys = [row for row in MEASURES if row[0] in removed]
    if not keys:
        return None
    plot = svg.Plot(height=len(keys) * 40 + 44, left=128, right=88, top=6, bottom=38)
    scale = plot.x(0.0, 1.0)
    plot.x_axis(scale, [0, 0.25, 0.5, 0.75, 1], percent, "share of text items")
    bands = svg.Bands(len(keys), plot.top, plot.height - plot.bottom)
    rows = []
    short = {
        "harmful_refusal": "harmful refused",
        "near_miss_refusal": "near-miss refused",
        "benign_refusal": "benign refused",
        "utility": "answers right",
    }
    for index, (key, title, _) in enumerate(keys):
        was, now, middle = Rate.of(before.get(key)), Rate.of(removed.get(key)), bands(index)
        plot.add(svg.text(plot.left - 8, middle, short[key], anchor="end"))
        if was.value is not None and now.value is not None:
            plot.add(
                tag(
                    "line",
                    x1=scale(was.value),
                    y1=middle - 6,
                    x2=scale(now.value),
                    y2=middle + 6,
                    stroke_width=7,
                    style="stroke:var(--rp-text)",
                    opacity=0.2,
                    stroke_linecap="round",
                )
            )
        _lane(plot, scale, was, middle - 6, "var(--rp-text)", "as it is", hollow=True)
        _lane(plot, scale, now, middle + 6, "var(--rp-text)", "direction at its benign mean")
        plot.add(svg.text(plot.width - 2, middle, _change(was, now), anchor="end", class_="strong"))
        others = [share(Rate.of(mapping(tests.get(name)).get(key))) for name in ("random", "projected_out")]
        rows.append([title, share(was), share(now), *others])
    said = "; ".join(f"{row[0]}: as it is {row[1]}, removed {row[2]}" for row in rows)
    return figure(
        "ablation",
        "Is the direction causal?",
        "The opposite test, on text: at the last prompt token the coordinate along the direction is set to "
        "what it is on "
        "benign prompts, and nothing else. This is a measurement inside a trace; no weight is changed.",
        [panel(plot.render("Text refusal with the direction at its benign mean", said))],
        legend=[
            svg.glyph("var(--rp-text)", hollow=True, label="as it is"),
            svg.glyph("var(--rp-text)", label="direction at its benign mean"),
        ],
        reading="If harmful text is no longer refused while benign answers stay right, refusal runs through this "
        "direction. "
        "The table adds the control, a random direction treated likewise, and the cruder test of projecting "
        "the direction "
        "out of every layer and position.",
        tables=[
            html_table(
                [
                    "",
                    "as it is",
                    "direction at its benign mean",
                    "random direction likewise",
                    "direction projected out",
                ],
                rows,
                caption="Text test items, 95% intervals.",
            )
        ],
    )
