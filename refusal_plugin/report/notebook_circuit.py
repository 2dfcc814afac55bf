"""Notebook pictures of the circuit, of media with values over them, of an answer and of the depth; nothing fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refusal_plugin.report.figures.heads_circuit import circuit_figure
from refusal_plugin.report.figures.heads_examples import media_overlay, token_line
from refusal_plugin.report.figures.projection import layers_figure
from refusal_plugin.report.heads import STYLE
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.table import frame, html_table

if TYPE_CHECKING:
    from refusal_plugin.heads.depth import LayerProjection
    from refusal_plugin.heads.graph import Circuit
    from refusal_plugin.heads.pictures import Overlay
    from refusal_plugin.heads.projection import AnswerProjection


def _framed(title: object, *parts: object, note: object = "") -> Markup:
    return frame(title, tag("style", STYLE), *parts, note=note)


def circuit_view(found: Circuit) -> Markup:
    """The graph of every modality."""
    record: dict[str, Any] = {
        "norm": found.norm,
        "top": [{**vars(edge), "sources": dict(edge.sources)} for edge in found.edges],
        "removal": [{"modality": m, "refused": {"none": rate.to_json()}} for m, rate in found.refused.items()],
    }
    return _framed(repr(found), circuit_figure(record))


def overlay_view(found: Overlay) -> Markup:
    """The medium with its values over it, and the values as a table."""
    values = found.values.tolist()
    limit = max([1e-9, *(abs(v) for v in values)])
    row = {"modality": found.modality, "grid": list(found.grid), "picture": list(found.pictures)}
    drawn = media_overlay(row, {}, values, limit, found.name)
    _, rows, columns = found.grid
    places = [
        [f"frame {n // (rows * columns)}, row {n // columns % rows}, column {n % columns}", v]
        for n, v in enumerate(values)
    ]
    table = tag("details", tag("summary", "Numbers behind this picture"), html_table(["place", found.name], places))
    note = "Orange towards refusal, blue away from it; full colour is the largest value."
    return _framed(repr(found), tag("div", drawn, class_="overlays"), table, note=note)


def answer_view(found: AnswerProjection) -> Markup:
    """The words of an answer, coloured by the coordinate from which each is said."""
    steps = found.values.tolist()
    limit = max([1.0, *(abs(v) for v in steps)])
    line = token_line(found.words, steps, limit, ["said"] * len(steps), "Refusal projection along the answer")
    rows = [[f"{n}: {word}", step] for n, (word, step) in enumerate(zip(found.words, steps, strict=True))]
    table = tag("details", tag("summary", "Numbers behind this picture"), html_table(["word", "projection"], rows))
    return _framed("Along the answer", line, table, note="0 = benign text, 1 = harmful text at the reading position.")


def layers_view(found: LayerProjection) -> Markup:
    """Mean projection of every role by layer, one panel per modality."""
    sections = {
        m: {"projection_by_layer": {r: _line(found, r, m) for r in found.roles(m)}} for m in found.labels.kinds()
    }
    return _framed(repr(found), layers_figure({"modalities": sections, "direction": {"layer": found.layer}}))


def _line(found: LayerProjection, role: str, modality: str) -> list[dict[str, Any]]:
    cells = found.mean(role, modality)
    ends = zip(cells.value.tolist(), cells.low.tolist(), cells.high.tolist(), strict=True)
    return [
        {"layer": n, "value": v, "low": a if a == a else None, "high": b if b == b else None, "n": cells.n}
        for n, (v, a, b) in enumerate(ends)
    ]
