"""The report's chapter on heads: maps, effects, circuits, and single prompts token by token."""

from collections.abc import Mapping, Sequence
from typing import Any

from .circuitsvis import attention_view, library, starter
from .figures.heads_agreement import agreement_figure
from .figures.heads_circuit import circuit_figure
from .figures.heads_effects import effects_figure, head_name, removal_figure
from .figures.heads_map import heads_map_figure, profile_figure
from .figures.tokens import media_overlay, token_line
from .filling import fill
from .markup import Markup
from .numbers_in_words import decimal
from .records import finite, mapping, records, sequence
from .sliders import layer_slider
from .table import html_table, scroll

LONGEST = 60
"""Positions up to which attention is drawn: beyond, a cell is smaller than a pixel."""
FIGURES = (profile_figure, effects_figure, removal_figure, agreement_figure, circuit_figure)


def heads_chapter(results: Mapping[str, Any]) -> Markup | None:
    """Everything about heads under its own heading; None where the study has no such section."""
    found = mapping(results, "heads")
    if not found:
        return None
    if "missing" in found:
        return fill("heads.html", missing=found["missing"])
    media = {str(row.get("id")): sequence(row, "media", "data") for row in records(results, "examples")}
    interactive = bool(heads_scripts(results))
    traces = [
        _trace(row, media.get(str(row.get("id")), []), f"attention-{place}", interactive, opened=not place)
        for place, row in enumerate(records(found, "examples"))
        if sequence(row, "tokens")
    ]
    return fill(
        "heads.html",
        missing=None,
        error=finite(found, "conservation_error"),
        silent=len({(row.get("layer"), row.get("head")) for row in records(found, "silent")}),
        figures=[heads_map_figure(found, layer_slider(results)), *(draw(found) for draw in FIGURES)],
        traces=traces,
    )


def heads_scripts(results: Mapping[str, Any]) -> list[Markup]:
    """CircuitsVis and its starter, where there is attention to draw and the package is installed."""
    rows = records(results, "heads", "examples")
    drawn = any(row.get("attention") and len(sequence(row, "tokens")) <= LONGEST for row in rows)
    source = library() if drawn else None
    return [] if source is None else [source, starter()]


def _trace(
    row: Mapping[str, Any], media: Sequence[object], key: str, interactive: bool, *, opened: bool
) -> dict[str, object]:
    """What the article of one prompt shows."""
    modality, tokens, spans = str(row.get("modality", "text")), sequence(row, "tokens"), sequence(row, "spans")
    along, heads = [finite(v) for v in sequence(row, "above")], records(row, "heads")
    names, taken = [head_name(head) for head in heads], _taken(heads, len(tokens))
    limit = max([0.5, *(abs(v) for v in along if v is not None)])
    most = max([1e-9, *map(abs, taken)])
    overlays = []
    if "media" in spans:
        inside = [i for i, span in enumerate(spans) if span == "media" and i < len(along)]
        frames, rows, columns = (max(1, int(finite(v) or 1)) for v in [*sequence(row, "grid"), 1, 1, 1][:3])
        place: dict[str, Any] = {
            "modality": modality,
            "grid": (frames, rows, columns),
            "pictures": [*sequence(row, "picture"), *media],
        }
        overlays.append(media_overlay([along[i] for i in inside], limit, "refusal projection", **place))
        if taken:
            # A scale of its own, and what that is worth beside the tokens': a medium takes less than a single word.
            part = [taken[i] for i in inside]
            largest = max([1e-9, *map(abs, part)])
            said = f"read by the heads; full colour is {100 * largest / most:.0f}% of the strongest token above"
            overlays.append(media_overlay(part, largest, said, **place))
    words, steps = sequence(row, "answer", "words"), [finite(v) for v in sequence(row, "answer", "above")]
    attention, view = sequence(row, "attention"), None
    if interactive and attention and len(tokens) <= LONGEST:
        said = f"Attention of {len(attention)} heads on this {modality} request (CircuitsVis)"
        view = attention_view(key, [str(t) for t in tokens], attention, names, summary=said, opened=opened)
    spoken = ["said"] * len(words)
    return {
        "modality": modality,
        "role": str(row.get("role", "")),
        "heads": names,
        "along": token_line(tokens, along, limit, spans, "Refusal projection by token"),
        "taken": token_line(tokens, taken, most, spans, "Contribution by source") if taken else None,
        "overlays": overlays,
        "answer": token_line(words, steps, limit, spoken, "Refusal projection along the answer") if words else None,
        "attention": view,
        "table": scroll(_table(row, names), f"Numbers of {modality}"),
    }


def _taken(heads: Sequence[Mapping[str, Any]], n: int) -> list[float]:
    """Contributions by source, summed over the heads that are drawn; empty without heads."""
    values = [[finite(v) or 0.0 for v in sequence(head, "values")[:n]] for head in heads]
    return [sum(row[i] for row in values if i < len(row)) for i in range(n)] if heads else []


def _table(row: Mapping[str, Any], names: Sequence[str]) -> Markup:
    heads, seen = records(row, "heads"), [sequence(sequence(p)[-1]) for p in sequence(row, "attention") if sequence(p)]
    columns = [
        sequence(row, "projection"),
        sequence(row, "above"),
        *(sequence(head, "values") for head in heads),
        *seen,
    ]
    rows = [
        [f"{i}: {word}", span, *(decimal(finite(column[i]) if i < len(column) else None) for column in columns)]
        for i, (word, span) in enumerate(zip(sequence(row, "tokens"), sequence(row, "spans"), strict=False))
    ]
    attended = [f"attention {name}" for name in names[: len(seen)]]
    caption = "Projection (0 = benign text, 1 = harmful text), contributions in units of the stream, and what the last "
    caption += "token attends to."
    return html_table(["token", "part", "projection", "above benign", *names, *attended], rows, caption=caption)
