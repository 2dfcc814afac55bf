"""A layer x head heatmap: two hues away from zero, depth of colour by size, numbers where there is room."""

from collections.abc import Callable, Sequence

from refusal_plugin.report import svg
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.words import finite, sequence, signed

TOWARDS, AWAY, RING = "var(--rp-harmful)", "var(--rp-text)", "var(--rp-ink)"
ROOM = 30.0  # user units of a cell below which no number is written


def grid(found: object) -> list[list[float | None]]:
    """Rows of numbers from JSON; anything that is no finite number becomes None."""
    return [[finite(value) for value in sequence(row)] for row in sequence(found)]


def largest(*grids: Sequence[Sequence[float | None]]) -> float:
    """Largest absolute value, at least a tiny one, so that it can be divided by."""
    values = [abs(v) for rows in grids for row in rows for v in row if v is not None]
    return max([*values, 1e-12])


def fill(value: float, limit: float) -> tuple[str, float]:
    """Colour and opacity of a value: orange towards refusal, blue away from it; the root lifts small values."""
    return (TOWARDS if value >= 0 else AWAY), min(1.0, (abs(value) / limit) ** 0.75) * 0.92


def heatmap(
    rows: Sequence[Sequence[float | None]],
    limit: float,
    title: str,
    say: Callable[[float], str],
    *,
    sure: Sequence[Sequence[bool]] | None = None,
    ring: Sequence[tuple[int, int]] = (),
) -> Markup:
    """Layers from the bottom up, heads from left to right.

    Args:
        rows: (layer, head).
        limit: the value of full colour, the same for maps that are compared.
        title: said to screen readers, with the largest cells.
        say: writes a value.
        sure: cells whose interval excludes zero; the others are hatched by a dot pattern of lower strength.
        ring: cells to outline, said to screen readers too.
    """
    n_layers, n_heads = len(rows), max((len(row) for row in rows), default=0)
    width = svg.WIDTH - 34 - 6
    cell = width / max(1, n_heads)
    tall = min(34.0, max(14.0, cell))
    plot = svg.Plot(height=10 + tall * n_layers + 34, left=34, right=6, top=10, bottom=34)
    bands = svg.Bands(n_heads, plot.left, svg.WIDTH - plot.right)
    for layer, row in enumerate(rows):
        y = plot.top + (n_layers - 1 - layer) * tall
        if n_layers <= 24 or layer % 5 == 0:
            plot.add(svg.text(plot.left - 8, y + tall / 2, layer, anchor="end", class_="tick"))
        for head, value in enumerate(row):
            if value is None:
                continue
            hue, opacity = fill(value, limit)
            known = sure is None or sure[layer][head]
            name = f"layer {layer}, head {head}: {say(value)}" + ("" if known else ", interval includes 0")
            x = bands(head) - cell / 2
            plot.add(
                tag(
                    "rect",
                    tag("title", name),
                    x=x + 1,
                    y=y + 1,
                    width=cell - 2,
                    height=tall - 2,
                    rx=3.0,
                    style=f"fill:{hue};stroke:var(--rp-grid)",
                    fill_opacity=round(opacity, 3),
                )
            )
            if (layer, head) in ring:
                plot.add(
                    tag(
                        "rect",
                        x=x + 1.5,
                        y=y + 1.5,
                        width=cell - 3,
                        height=tall - 3,
                        rx=3.0,
                        style=f"fill:none;stroke:{RING}",
                        stroke_width=1.6,
                    )
                )
            if cell >= ROOM and known and abs(value) >= 0.02 * limit:
                strong = opacity > 0.55
                colour = "var(--rp-bg)" if strong else "var(--rp-ink)"
                plot.add(svg.text(bands(head), y + tall / 2, say(value), anchor="middle", class_="cell", fill=colour))
    step = 1 if n_heads <= 16 else 4 if n_heads <= 48 else 8
    for head in range(0, n_heads, step):
        plot.add(svg.text(bands(head), plot.height - 24, head, anchor="middle", class_="tick"))
    plot.add(svg.text((plot.left + svg.WIDTH) / 2, plot.height - 7, "head", anchor="middle", class_="name"))
    plot.add(svg.text(3, 6, "layer", class_="name"))
    order = sorted(
        ((value, layer, head) for layer, row in enumerate(rows) for head, value in enumerate(row) if value is not None),
        key=lambda cell: -abs(cell[0]),
    )
    said = "Largest: " + ", ".join(f"layer {layer} head {head} {say(v)}" for v, layer, head in order[:5])
    if ring:
        said += "; outlined: " + ", ".join(f"layer {layer} head {head}" for layer, head in sorted(ring))
    return plot.render(title, said)


def whole(value: float) -> str:
    """A share as a whole number of percent, without its sign of percent, to fit a cell."""
    return signed(f"{100 * value:.0f}")
