"""The circuit as a picture: where the prompt's parts enter the top heads, and what those write into the direction.

Ribbons between three columns fit none of the four charts, so this figure draws for itself.
"""

from collections.abc import Mapping
from typing import Any

from ..charts.heat import AWAY, TOWARDS
from ..markup import Markup, number, tag
from ..numbers_in_words import counted, percent
from ..palette import modality_order
from ..records import Rate, finite, records
from ..svg import Plot, box, mark, text
from ..table import html_table
from .figure import Panel, figure
from .heads_effects import head_name

SPANS = (("instruction", "instruction"), ("media", "medium"), ("after", "template"), ("before", "start"))
WIDEST = 26.0
"""User units of the strongest edge."""
LEFT, MIDDLE, RIGHT, END = 92.0, 214.0, 322.0, 392.0
"""Where the parts of the prompt, the heads, the direction and the answer stand."""


def circuit_figure(found: Mapping[str, Any]) -> Markup | None:
    """One graph per modality: part of the prompt -> head -> direction -> answer."""
    norm, panels, table = finite(found, "norm") or 1.0, circuit_panels(found), []
    if not panels:
        return None
    for m, mine in _rows(found).items():
        for row in mine:
            cells = [None if v is None else percent(v / norm, 1) for v in (*_parts(row), finite(row, "contrast"))]
            table.append([f"{m}, {head_name(row)}", *cells])
    heads = ["", *(f"from {name}" for _, name in SPANS), "contrast in all"]
    caption = "In percent of the distance between harmful and benign text."
    return figure("heads-circuit", panels, [html_table(heads, table, caption=caption)])


def circuit_panels(found: Mapping[str, Any]) -> list[Panel]:
    """The drawings, all on one scale."""
    rows, norm = _rows(found), finite(found, "norm") or 1.0
    refused = {str(row.get("modality")): Rate.of(row, "refused", "none") for row in records(found, "removal")}
    every = [v for mine in rows.values() for row in mine for v in (finite(row, "contrast"), *_parts(row))]
    limit = max([1e-12, *(abs(v) / norm for v in every if v is not None)])
    return [Panel.of(m, _graph(mine, norm, limit, m, refused.get(m, Rate(None)))) for m, mine in rows.items()]


def _rows(found: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The heads of every modality whose sources are known."""
    rows = [row for row in records(found, "top") if finite(row, "sources", "instruction") is not None]
    names = modality_order({str(row.get("modality")): 1 for row in rows})
    return {m: [row for row in rows if row.get("modality") == m] for m in names}


def _parts(row: Mapping[str, Any]) -> list[float | None]:
    return [finite(row, "sources", key) for key, _ in SPANS]


def _graph(rows: list[Mapping[str, Any]], norm: float, limit: float, modality: str, refused: Rate) -> Markup:
    spans = [s for s in SPANS if modality != "text" or s[0] != "media"]
    room = max(len(rows) * 40.0, 176.0)
    plot = Plot(34.0 + room, left=6, right=6, top=30, bottom=4)
    span_y = {key: 30 + (i + 0.5) * room / len(spans) for i, (key, _) in enumerate(spans)}
    head_y = [30 + (i + 0.5) * room / max(1, len(rows)) for i in range(len(rows))]
    centre = 30 + room / 2
    plot.add(text(LEFT - 8, 10, "read from", anchor="end", class_="name"))
    for x, name in ((MIDDLE, "head"), (RIGHT, "direction"), (END, "answer")):
        plot.add(text(x, 10, name, anchor="middle", class_="name"))
    said = []
    for y, row in zip(head_y, rows, strict=True):
        name, written = head_name(row), (finite(row, "contrast") or 0.0) / norm
        for key, part in spans:
            value = (finite(row, "sources", key) or 0.0) / norm
            plot.add(*_edge(LEFT, span_y[key], MIDDLE - 21, y, value, limit, f"{part} to {name}"))
        plot.add(*_edge(MIDDLE + 21, y, RIGHT - 12, centre, written, limit, f"{name} to the direction"))
        said.append(f"{name} writes {percent(written, 1)}")
    for key, part in spans:
        plot.add(text(LEFT - 8, span_y[key], part, anchor="end"), mark(LEFT, span_y[key], "var(--rp-muted)", size=3.6))
    for y, row in zip(head_y, rows, strict=True):
        plot.add(box(MIDDLE - 21, y - 12, 42, 24, rx=6, style="fill:var(--rp-surface);stroke:var(--rp-line)"))
        plot.add(text(MIDDLE, y, head_name(row), anchor="middle", class_="strong"))
    plot.add(mark(RIGHT, centre, TOWARDS, size=11))
    plot.add(text(RIGHT, centre, "r", anchor="middle", class_="strong", fill="var(--rp-bg)"))
    if refused.value is not None:
        name, rate = "harmful prompts refused", counted(refused.value, refused.n)
        plot.add(*_edge(RIGHT + 12, centre, END - 30, centre, refused.value * limit, limit, name))
        plot.add(text(END, centre - 8, rate, anchor="middle", class_="strong"))
        plot.add(text(END, centre + 9, "refused", anchor="middle", class_="tick"))
    return plot.render(f"Circuit of refusal in {modality}", "; ".join(said))


def _edge(x1: float, y1: float, x2: float, y2: float, value: float, limit: float, name: str) -> list[Markup]:
    """A ribbon as broad as its value; none where it would not be seen."""
    width = abs(value) / limit * WIDEST
    if width < 0.25:
        return []
    ends = [(x1, y1), ((x1 + x2) / 2, y1), ((x1 + x2) / 2, y2), (x2, y2)]
    start, *rest = (f"{number(x)} {number(y)}" for x, y in ends)
    style, title = f"fill:none;stroke:{TOWARDS if value >= 0 else AWAY}", tag("title", f"{name}: {percent(value, 1)}")
    return [tag("path", title, d=f"M{start}C{' '.join(rest)}", style=style, stroke_width=width, stroke_opacity=0.45)]
