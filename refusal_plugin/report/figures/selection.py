"""Why this layer: every candidate of the selection, kept or rejected, with the reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import Curve, Point, line_chart
from ..markup import Markup
from ..numbers_in_words import decimal, significant
from ..records import Rate, finite, mapping, records
from ..svg import Axis
from ..table import html_table
from .figure import Panel, figure

# columns of the table, title, small print, key of the score without an edit
PANELS = (
    (("bypass",), "Refusal score of harmful text, direction removed", "lower: more causal", "bypass"),
    (("induce",), "Refusal score of benign text, direction added", "higher: refusal is induced", "induce"),
    (("kl_ablate", "kl_add"), "KL on benign text", "lower: answers stay the same", ""),
    (("gain",), "Gain on half-hidden harm at equal cost", "higher: the better defence", ""),
)
COLUMNS = {
    "bypass": "bypass", "induce": "induce", "kl_ablate": "KL, removed", "kl_add": "KL, added",
    "strength": "strength", "gain": "gain", "auroc": "AUROC", "cosmic": "COSMIC",
}  # fmt: skip
COSMIC_COLUMNS = {"score": "COSMIC score", "kl_ablate": "KL, removed"}
ACCENT = "var(--rp-accent)"


def selection_figure(results: Mapping[str, Any]) -> Markup:
    """Bypass, induce, KL and COSMIC over layers; the selected candidate is larger, rejected ones are hollow."""
    chosen, cosmic = mapping(results, "direction"), mapping(results, "direction", "cosmic")
    rows, scores, base = records(chosen, "table"), records(cosmic, "table"), mapping(chosen, "baseline")
    drawn = [
        (_plot(rows, keys, title, chosen, finite(base, score)), title, small) for keys, title, small, score in PANELS
    ]
    drawn.append((_plot(scores, ("score",), "COSMIC score", cosmic, None), *COSMIC))
    tables = []
    if rows:
        caption = "Candidates on validation text."
        if base:
            said = ", ".join(f"{key} {decimal(finite(base, key))}" for key in ("bypass", "induce"))
            caption += f" Without an edit: {said}"
        tables.append(_table(rows, COLUMNS, chosen, caption))
    if scores:
        tables.append(_table(scores, COSMIC_COLUMNS, cosmic, "COSMIC on validation text."))
    panels = [Panel(drawing, title, small) for drawing, title, small in drawn if drawing is not None]
    target, tokens = (finite(chosen, "calibration", key) for key in ("target_kl", "tokens"))
    given: dict[str, Any] = {"target_kl": target, "tokens": tokens or 1, "strength": finite(chosen, "strength")}
    return figure("selection", panels, tables, **given)


COSMIC = ("COSMIC score", "token-free cross-check; higher is better")


def _is_chosen(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    same = all(row.get(key) == chosen.get(key) for key in ("layer", "position"))
    return same and finite(row, "layer") is not None


def _plot(
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    title: str,
    chosen: Mapping[str, Any],
    reference: float | None,
) -> Markup | None:
    """One panel; candidates are joined by a line where every layer has one alone."""
    alone = len({str(row.get("position")) for row in rows}) == 1
    curves = [_curve(rows, key, chosen, "var(--rp-line)" if alone else "") for key in keys]
    values = [v for curve in curves for v in curve.ends]
    if not values:
        return None
    extra = [0.0] if "kl_ablate" in keys else [] if reference is None else [reference]
    picked = next((finite(row, "layer") for row in rows if _is_chosen(row, chosen)), None)
    return line_chart(
        title,
        curves,
        Axis.counts([p.x for curve in curves for p in curve.points], "layer"),
        Axis.around(values, significant, include=extra, pad=0.09, count=4),
        height=214,
        left=48,
        right=54,
        chosen=None if picked is None else (picked, "selected"),
        references=[] if reference is None else [(reference, "no edit")],
    )


def _curve(rows: Sequence[Mapping[str, Any]], key: str, chosen: Mapping[str, Any], line: str) -> Curve:
    points = []
    for row in rows:
        layer, rate, picked = finite(row, "layer"), Rate(finite(row, key)), _is_chosen(row, chosen)
        if layer is None or rate.value is None:
            continue
        said, name = significant(rate.value), key.replace("_", " ")
        title = f"layer {layer:.0f}, {row.get('position', '')}, {name} {said}" + ("" if row.get("kept") else _why(row))
        size, label = (6.5, said) if picked else (4.6, "")
        points.append(Point(layer, rate, title, hollow=not row.get("kept"), size=size, label=label))
    points.sort(key=lambda point: point.x)
    shape = "diamond" if key == "kl_add" else "circle"
    return Curve(key.replace("_", " "), ACCENT, points, shape, line=line, label=False)


def _why(row: Mapping[str, Any]) -> str:
    return f"; rejected: {row.get('reason') or 'no reason given'}"


def _table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], chosen: Mapping[str, Any], caption: str
) -> Markup:
    cells: list[list[object]] = []
    for row in rows:
        name = f"layer {significant(finite(row, 'layer'))}, {row.get('position', '')}"
        verdict = "selected" if _is_chosen(row, chosen) else "kept" if row.get("kept") else _why(row).removeprefix("; ")
        cells.append([name, *(finite(row, key) for key in columns), verdict])
    marked = [i for i, row in enumerate(rows) if _is_chosen(row, chosen)]
    return html_table(["", *columns.values(), "verdict"], cells, caption=caption, marked=marked)
