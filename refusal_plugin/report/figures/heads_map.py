"""Which heads write the direction: layer x head maps of every modality, and the parts of the stream by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import Cell, Lane, Row, heat_map, row_chart
from ..charts.heat import AWAY, TOWARDS
from ..markup import Markup
from ..numbers_in_words import decimal, percent, scalar, signed
from ..palette import colour, modality_order
from ..records import Rate, finite, mapping, records, sequence
from ..sliders import Slider
from ..svg import WIDTH, Axis
from ..table import html_table
from .figure import Panel, figure

Place = tuple[int, int]
Cells = dict[Place, Rate]
"""(layer, head) -> what a head adds, in shares of text's own difference."""
ROOM = 30.0
"""User units of a cell below which no number is written."""


def heads_map_figure(found: Mapping[str, Any], slider: Slider | None = None) -> Markup:
    """Contrast, and the mean over harmful prompts, of every head and modality, in shares of text's own difference.

    The slider over layers, where there is one, outlines a row and names its strongest head.
    """
    contrasts, norm = mapping(found, "contrast"), finite(found, "norm") or 1.0
    distance = found.get("distance", "the distance between harmful and benign text")
    names = [m for m in modality_order(contrasts) if sequence(contrasts[m], "value")]
    values = {m: _cells(contrasts[m], norm, "value", "low", "high") for m in names}
    means = {role: {m: _cells(contrasts[m], norm, role) for m in names} for role in ("harmful", "benign")}
    silent = {m: _silent(found, m) for m in names}
    panels, below, rows = [], [], []
    limit, most = _largest(values), _largest(means["harmful"])
    for m in names:
        drawn = _map(f"Contrast, {m}", values[m], limit, ring=silent[m], sure=True, slider=slider)
        said = None if slider is None else slider.says([_strongest(values[m], layer) for layer in slider.stops])
        panels.append(Panel.of(m, drawn, "harmful minus benign", said))
        below.append(Panel.of(m, _map(f"Mean over harmful prompts, {m}", means["harmful"][m], most)))
        for place, rate in values[m].items():
            sides = [means[role][m].get(place, Rate(None)).over(0.01).value for role in means]
            numbers = [scalar(rate.over(0.01), 1), *(None if v is None else decimal(v, 1) for v in sides)]
            rows.append([f"{m}, layer {place[0]}, head {place[1]}", *numbers])
    heads = ["", "contrast [95%]", "harmful", "benign"]
    table = html_table(heads, rows, caption=f"Direct contributions in percent of {distance}.")
    along = found.get("along", "the stream along the refusal direction")
    words = {"along": along, "distance": distance, "silent": any(silent.values())}
    return figure("heads-map", panels, [table], slider=slider, means=below, **words)


def _strongest(cells: Cells, layer: float) -> str:
    """The head that adds most in a layer, in words."""
    known = [(abs(rate.value), at[1], rate) for at, rate in cells.items() if at[0] == layer and rate.value is not None]
    if not known:
        return f"layer {layer:.0f} lies behind the direction"
    _, head, rate = max(known, key=lambda row: row[0])
    return f"layer {layer:.0f}: head {head} adds {percent(rate.value)}"


def _cells(found: object, norm: float, *keys: str) -> Cells:
    """Rates from grids (layer, head) of values and, where they are given too, of both ends."""
    grids = [{(i, j): v for i, row in enumerate(sequence(found, k)) for j, v in enumerate(sequence(row))} for k in keys]
    ends = ("value", "low", "high")
    records = {place: dict(zip(ends, (grid.get(place) for grid in grids), strict=False)) for place in grids[0]}
    return {place: Rate.of(record).over(norm) for place, record in records.items()}


def _largest(maps: Mapping[str, Cells]) -> float:
    """Largest absolute value, at least a tiny one, so that it can be divided by."""
    return max([1e-12, *(abs(rate.value or 0.0) for cells in maps.values() for rate in cells.values())])


def _silent(found: Mapping[str, Any], modality: str) -> list[Place]:
    """The heads that write in text and fall silent in this modality."""
    rows = [row for row in records(found, "silent") if row.get("modality") == modality]
    places = [(finite(row, "layer"), finite(row, "head")) for row in rows]
    return [(int(layer), int(head)) for layer, head in places if layer is not None and head is not None]


def _whole(value: float) -> str:
    """A share as a whole number of percent, without the sign of percent, to fit a cell."""
    return signed(f"{100 * value:.0f}")


def _map(
    title: str,
    rates: Cells,
    limit: float,
    *,
    ring: Sequence[Place] = (),
    sure: bool = False,
    slider: Slider | None = None,
) -> Markup:
    """Layers from the bottom up, heads from left to right; full colour is `limit`, the same for maps to compare.

    With `sure` a number stands only where the interval excludes zero.
    """
    depth, heads = (max((place[axis] for place in rates), default=-1) + 1 for axis in (0, 1))
    wide, cells, said = (WIDTH - 40.0) / max(1, heads), {}, []
    for (layer, head), rate in rates.items():
        if rate.value is None:
            continue
        known = not sure or (rate.interval is not None and (rate.interval[0] > 0 or rate.interval[1] < 0))
        strength = min(1.0, (abs(rate.value) / limit) ** 0.75) * 0.92  # the root lifts small values
        name = f"layer {layer}, head {head}: {_whole(rate.value)}" + ("" if known else ", interval includes 0")
        lines = [_whole(rate.value)] if wide >= ROOM and known and abs(rate.value) >= 0.02 * limit else []
        hue = TOWARDS if rate.value >= 0 else AWAY
        cells[depth - 1 - layer, head] = Cell(hue, strength, name, lines, ring=(layer, head) in ring)
        said.append((-abs(rate.value), f"layer {layer} head {head} {_whole(rate.value)}"))
    words = "Largest: " + ", ".join(name for _, name in sorted(said, key=lambda pair: pair[0])[:5])
    if ring:
        words += "; outlined: " + ", ".join(f"layer {layer} head {head}" for layer, head in sorted(ring))
    step = 1 if heads <= 16 else 4 if heads <= 48 else 8
    columns = [str(head) if head % step == 0 else "" for head in range(heads)]
    layers = [str(layer) if depth <= 24 or layer % 5 == 0 else "" for layer in reversed(range(depth))]
    size = {"wide": wide, "tall": min(34.0, max(14.0, wide)), "left": 34.0}
    return heat_map(title, layers, columns, cells, said=words, names=("layer", "head"), slider=slider, **size)


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
