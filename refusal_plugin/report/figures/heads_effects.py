"""Direct and total effects of the top heads, and removal against random heads."""

from collections.abc import Mapping, Sequence
from typing import Any

from refusal_plugin.report import svg
from refusal_plugin.report.figures.figure import figure, panel
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.palette import colour, modality_order
from refusal_plugin.report.table import html_table
from refusal_plugin.report.words import Rate, decimal, finite, mapping, percent, scalar, sequence, share


def head_name(row: Mapping[str, Any]) -> str:
    """ "L3 H7"."""
    layer, head = finite(row.get("layer")), finite(row.get("head"))
    return f"L{0 if layer is None else layer:.0f} H{0 if head is None else head:.0f}"


def effects_figure(found: Mapping[str, Any]) -> Markup | None:
    """Two columns per head that answer different questions: what it writes, and what its removal costs."""
    norm, rows = finite(found.get("norm")) or 1.0, [mapping(row) for row in sequence(found.get("top"))]
    names = modality_order({str(row.get("modality")): 1 for row in rows})
    if not rows:
        return None
    panels, table = [], []
    for m in names:
        mine = [row for row in rows if row.get("modality") == m]
        panels.append(panel(_pair(mine, norm, m), m, hue=colour(m)))
        table += [_line(row, norm) for row in mine]
    heads = ["", "contrast, % of text's distance", "total, mean ablation (nats)", "total, zeroed (nats)"]
    heads += ["patching (nats)", "contrast from instruction", "from medium", "from template"]
    return figure(
        "heads-effects",
        "Does refusal need these heads?",
        "Left, the direct contribution (contrast) of the strongest heads. Right, the total effect: how far the refusal "
        "score of harmful prompts falls, in nats, when the head's output at the last prompt token is replaced by "
        "its mean over benign prompts. Heads were ranked on validation prompts and measured on test prompts.",
        panels,
        legend=[
            svg.glyph("var(--rp-accent)", label="direct contrast, with 95% interval"),
            svg.glyph("var(--rp-harmful)", shape="diamond", label="total effect of removing it"),
        ],
        reading="The two columns answer different questions and need not agree: a head can write the direction and be "
        "made up for by others, or matter through later layers without writing it. Heads of text are listed for every "
        "modality, so that a head that falls silent can be seen.",
        tables=[html_table(heads, table, caption="Strongest heads per modality, with 95% intervals.")],
    )


def _line(row: Mapping[str, Any], norm: float) -> list[object]:
    value, low, high = (finite(row.get(key)) for key in ("contrast", "low", "high"))
    cells = [None if v is None else 100 * v / norm for v in (value, low, high)]
    source = mapping(row.get("sources"))
    parts = [finite(source.get(key)) for key in ("instruction", "media", "after")]
    return [
        f"{row.get('modality')}, {head_name(row)}",
        scalar(Rate(cells[0], cells[1], cells[2]), 1),
        scalar(Rate.of(row.get("total"))),
        scalar(Rate.of(row.get("total_zero"))),
        decimal(finite(row.get("patching"))),
        *[None if v is None else percent(v / norm, 1) for v in parts],
    ]


def _pair(rows: Sequence[Mapping[str, Any]], norm: float, modality: str) -> Markup:
    tall, plot = 24.0, svg.Plot(height=34 + 24.0 * len(rows) + 38, left=52, right=10, top=34, bottom=38)
    floor = plot.height - plot.bottom
    direct = [_rate(row, norm) for row in rows]
    total = [Rate.of(row.get("total")) for row in rows]
    middle = plot.left + (svg.WIDTH - plot.left - plot.right) / 2
    scales = []
    for rates, start, stop in ((direct, plot.left, middle - 16), (total, middle + 16, svg.WIDTH - plot.right)):
        ends = [v for rate in rates for v in (rate.value, rate.low, rate.high) if v is not None]
        low, high = svg.around(ends, include=[0.0], pad=0.06)
        scales.append(svg.Scale(low, high, start, stop))
        ticks = svg.ticks(low, high, 4)
        for value in ticks:
            plot.add(svg.rule(scales[-1](value), plot.top, scales[-1](value), floor))
            said = percent(value) if rates is direct else decimal(value, 1)
            plot.add(svg.text(scales[-1](value), floor + 11, said, anchor="middle", class_="tick"))
        plot.add(svg.rule(scales[-1](0), plot.top, scales[-1](0), floor, "axis"))
    plot.add(svg.text((plot.left + middle - 16) / 2, 16, "direct contrast", anchor="middle", class_="name"))
    plot.add(svg.text((middle + 16 + svg.WIDTH) / 2, 16, "total effect", anchor="middle", class_="name"))
    plot.add(svg.text((plot.left + middle - 16) / 2, floor + 27, "of text's distance", anchor="middle", class_="name"))
    plot.add(
        svg.text((middle + 16 + svg.WIDTH) / 2, floor + 27, "nats of refusal score", anchor="middle", class_="name")
    )
    for place, row in enumerate(rows):
        y = plot.top + (place + 0.5) * tall
        plot.add(svg.text(plot.left - 8, y, head_name(row), anchor="end", class_="tick strong"))
        marks = ((direct[place], "var(--rp-accent)", "circle"), (total[place], "var(--rp-harmful)", "diamond"))
        for (rate, hue, shape), scale in zip(marks, scales, strict=True):
            if rate.value is None:
                continue
            if rate.low is not None and rate.high is not None:
                plot.add(svg.whisker(scale(rate.low), scale(rate.high), y, hue))
            hollow = rate.low is None or rate.high is None or rate.low <= 0 <= rate.high
            plot.add(svg.mark(scale(rate.value), y, hue, shape=shape, hollow=hollow, title=scalar(rate)))
    said = "; ".join(
        f"{head_name(row)}: direct {percent(one.value, 1)}, total {decimal(two.value)} nats"
        for row, one, two in zip(rows, direct, total, strict=True)
    )
    return plot.render(f"Direct and total effects of heads in {modality}", said)


def _rate(row: Mapping[str, Any], norm: float) -> Rate:
    value, low, high = (finite(row.get(key)) for key in ("contrast", "low", "high"))
    shares = [None if v is None else v / norm for v in (value, low, high)]
    return Rate(shares[0], shares[1], shares[2])


def removal_figure(found: Mapping[str, Any]) -> Markup | None:
    """Generated refusals with the top heads removed together, against random heads of the same layers."""
    rows = [mapping(row) for row in sequence(found.get("removal"))]
    if not rows:
        return None
    arms = (("none", "accent", "as it is"), ("random", "control", "random heads"), ("top", "harmful", "top heads"))
    plot = svg.Plot(height=20 + 66.0 * len(rows) + 38, left=62, right=58, top=12, bottom=38)
    x = plot.x(0.0, 1.0)
    plot.x_axis(x, [0, 0.25, 0.5, 0.75, 1.0], percent, "harmful requests refused")
    table: list[list[object]] = []
    for place, row in enumerate(rows):
        m = str(row.get("modality"))
        refused = mapping(row.get("refused"))
        middle = plot.top + (place + 0.5) * 66
        plot.add(svg.text(plot.left - 9, middle, m, anchor="end", fill=colour(m), class_="strong"))
        for offset, (key, hue, name) in zip((-17, 0, 17), arms, strict=True):
            rate, y = Rate.of(refused.get(key)), middle + offset
            if rate.value is None:
                continue
            bar = tag(
                "line",
                x1=x(0),
                y1=y,
                x2=x(rate.value),
                y2=y,
                style=f"stroke:{colour(hue)}",
                stroke_width=9,
                opacity=0.75,
            )
            plot.add(bar)
            if rate.low is not None and rate.high is not None:
                plot.add(svg.whisker(x(rate.low), x(rate.high), y, "var(--rp-ink)", width=1.4))
            plot.add(svg.mark(x(rate.value), y, colour(hue), size=3.4, title=f"{name}: {share(rate)}"))
            strong = "strong" if key == "top" else "tick"
            plot.add(svg.text(svg.WIDTH - 4, y, percent(rate.value), anchor="end", class_=strong))
        heads = ", ".join(f"L{a} H{b}" for a, b in (sequence(head) for head in sequence(row.get("heads"))))
        random = [finite(mapping(effect).get("value")) for effect in sequence(row.get("score_random"))]
        table.append(
            [
                m,
                heads,
                *[share(Rate.of(refused.get(key))) for key, _, _ in arms],
                scalar(Rate.of(row.get("score"))),
                ", ".join(decimal(v) for v in random),
            ]
        )
    most = max(len(sequence(row.get("heads"))) for row in rows)
    said = "; ".join(f"{row[0]}: as it is {row[2]}, random heads {row[3]}, top heads {row[4]}" for row in table)
    drawn = plot.render("Refusals without the top heads", said)
    columns = [
        "",
        "top heads",
        *[f"refused, {name}" for _, _, name in arms],
        "score lost (nats)",
        "random heads (nats)",
    ]
    return figure(
        "heads-removal",
        "What if the top heads of a modality are taken away together?",
        f"Each modality's {most} strongest heads are replaced by their benign means at the last prompt token, and the "
        "model answers. The control replaces as many random heads in the same layers.",
        [panel(drawn)],
        legend=[svg.glyph(colour(hue), shape="square", label=name) for _, hue, name in arms],
        reading="If the orange bar falls and the random one does not, these heads carry the refusal. If neither "
        "falls, other parts carry it too: the direction is written more than once.",
        tables=[html_table(columns, table, caption="Harmful test prompts refused, first words of the answer.")],
    )
