"""Which heads write the direction: layer x head maps of every modality, and the parts of the stream by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import Cell, Lane, Row, heat_map, row_chart
from ..charts.heat import AWAY, TOWARDS
from ..markup import Markup
from ..numbers_in_words import decimal, percent, scalar, signed
from ..palette import colour, modality_order
from ..records import Rate, finite, mapping, records, sequence
from ..svg import WIDTH, Axis
from ..table import html_table
from .figure import Panel, figure

Grid = list[list[float | None]]
Places = list[tuple[int, int]]
ROOM = 30.0
"""User units of a cell below which no number is written."""


def heads_map_figure(found: Mapping[str, Any]) -> Markup:
    """Contrast, and the mean over harmful prompts, of every head and modality, in shares of text's own difference."""
    contrasts, norm = mapping(found, "contrast"), finite(found, "norm") or 1.0
    distance = found.get("distance", "the distance between harmful and benign text")
    names = [m for m in modality_order(contrasts) if sequence(contrasts[m], "value")]
    parts = {
        m: {key: _grid(contrasts[m], key, norm) for key in ("value", "low", "high", "harmful", "benign")} for m in names
    }
    silent = {m: _silent(found, m) for m in names}
    limit, most = (_largest([parts[m][key] for m in names]) for key in ("value", "harmful"))
    panels, means, rows = [], [], []
    for m, cells in parts.items():
        sure = [
            [_sure(*ends) for ends in zip(*rows, strict=False)]
            for rows in zip(cells["low"], cells["high"], strict=False)
        ]
        drawn = _map(f"Contrast, {m}", cells["value"], limit, sure, silent[m])
        panels.append(Panel.of(m, drawn, "harmful minus benign"))
        means.append(Panel.of(m, _map(f"Mean over harmful prompts, {m}", cells["harmful"], most)))
        for layer, row in enumerate(cells["value"]):
            for head in range(len(row)):
                value, low, high, *sides = (_percents(cells[key][layer][head]) for key in cells)
                said = [scalar(Rate(value, low, high), 1), *(None if v is None else decimal(v, 1) for v in sides)]
                rows.append([f"{m}, layer {layer}, head {head}", *said])
    heads = ["", "contrast [95%]", "harmful", "benign"]
    table = html_table(heads, rows, caption=f"Direct contributions in percent of {distance}.")
    along = found.get("along", "the stream along the refusal direction")
    words = {"along": along, "distance": distance, "silent": any(silent.values())}
    return figure("heads-map", panels, [table], means=means, **words)


def _percents(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _grid(found: object, key: str, norm: float) -> Grid:
    """Rows of numbers in shares of `norm`; anything that is no finite number becomes None."""
    rows = [[finite(value) for value in sequence(row)] for row in sequence(found, key)]
    return [[None if v is None else v / norm for v in row] for row in rows]


def _largest(grids: Sequence[Grid]) -> float:
    """Largest absolute value, at least a tiny one, so that it can be divided by."""
    return max([1e-12, *(abs(v) for rows in grids for row in rows for v in row if v is not None)])


def _sure(low: float | None, high: float | None) -> bool:
    """Whether an interval excludes zero."""
    return low is not None and high is not None and (low > 0 or high < 0)


def _silent(found: Mapping[str, Any], modality: str) -> Places:
    """The heads that write in text and fall silent in this modality."""
    rows = [row for row in records(found, "silent") if row.get("modality") == modality]
    places = [(finite(row, "layer"), finite(row, "head")) for row in rows]
    return [(int(layer), int(head)) for layer, head in places if layer is not None and head is not None]


def _whole(value: float) -> str:
    """A share as a whole number of percent, without the sign of percent, to fit a cell."""
    return signed(f"{100 * value:.0f}")


def _map(
    title: str, rows: Grid, limit: float, sure: list[list[bool]] | None = None, ring: Places | None = None
) -> Markup:
    """Layers from the bottom up, heads from left to right; full colour is `limit`, the same for maps to compare."""
    depth, heads, ring = len(rows), max((len(row) for row in rows), default=0), ring or []
    wide = (WIDTH - 40.0) / max(1, heads)
    cells, said = {}, []
    for layer, row in enumerate(rows):
        for head, value in enumerate(row):
            if value is None:
                continue
            known = sure is None or sure[layer][head]
            strength = min(1.0, (abs(value) / limit) ** 0.75) * 0.92  # the root lifts small values
            name = f"layer {layer}, head {head}: {_whole(value)}" + ("" if known else ", interval includes 0")
            lines = [_whole(value)] if wide >= ROOM and known and abs(value) >= 0.02 * limit else []
            hue = TOWARDS if value >= 0 else AWAY
            cells[depth - 1 - layer, head] = Cell(hue, strength, name, lines, ring=(layer, head) in ring)
            said.append((-abs(value), f"layer {layer} head {head} {_whole(value)}"))
    words = "Largest: " + ", ".join(name for _, name in sorted(said, key=lambda pair: pair[0])[:5])
    if ring:
        words += "; outlined: " + ", ".join(f"layer {layer} head {head}" for layer, head in sorted(ring))
    step = 1 if heads <= 16 else 4 if heads <= 48 else 8
    columns = [str(head) if head % step == 0 else "" for head in range(heads)]
    layers = [str(layer) if depth <= 24 or layer % 5 == 0 else "" for layer in reversed(range(depth))]
    size = {"wide": wide, "tall": min(34.0, max(14.0, wide)), "left": 34.0}
    return heat_map(title, layers, columns, cells, said=words, names=("layer", "head"), **size)


HUES = {"heads": "accent", "mlp": "near_miss"}


def profile_figure(found: Mapping[str, Any]) -> Markup | None:
    """How the difference is built up, layer by layer, by heads and by MLPs."""
    profiles, norm = mapping(found, "profile"), finite(found, "norm") or 1.0
    steps = {m: _steps(records(profiles, m), norm) for m in modality_order(profiles) if sequence(profiles, m)}
    if not steps:
        return None
    ends = [value for parts in steps.values() for _, _, _, value in parts]
    axis = Axis.around(ends, percent, "share of the distance in text", include=(0.0,), pad=0.02, count=4)
    panels, table = [], []
    for m, parts in steps.items():
        tall, rows = max(9.0, min(17.0, 260 / max(1, len(parts)))), []
        for kind, short, said, value in parts:
            beside = percent(value) if abs(value) >= 0.03 else ""
            look: dict[str, Any] = {"shape": "bar", "size": tall * 0.72, "beside": beside}
            rows.append(
                Row(
                    short,
                    [Lane(Rate(value), colour(HUES.get(kind, "control")), f"{said}: {percent(value, 1)}", **look)],
                )
            )
            table.append([f"{m}, {said}", percent(value, 1)])
        drawn = row_chart(
            f"Parts of the difference in {m}", rows, axis, lane=tall, pad=0, left=74, right=46, top=8, zero=True
        )
        panels.append(Panel.of(m, drawn))
    caption = "Parts of the harmful-benign difference."
    return figure("heads-profile", panels, [html_table(["", "of the distance in text"], table, caption=caption)])


def _steps(profile: list[Mapping[str, Any]], norm: float) -> list[tuple[str, str, str, float]]:
    """(kind, short name, whole name, share) of every part; a remainder is named where it is one."""
    steps = []
    for row in profile:
        value, layer, part = finite(row, "value"), finite(row, "layer"), str(row.get("part", ""))
        if value is None or (part == "remainder" and abs(value / norm) <= 1e-3):
            continue
        at = "" if layer is None else f"{layer:.0f}"
        short = ("MLP" if part == "mlp" else part) + (f" {at}" if at else "")
        steps.append((part, short, f"{part} of layer {at}" if at else part, value / norm))
    return steps
