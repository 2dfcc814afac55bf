"""How the results about heads show themselves in a notebook: our own pictures, no script, nothing fetched.

`AttentionView` is the exception: CircuitsVis' interactive view, in a frame of its own that holds everything it needs
and whose policy forbids all requests.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refusal_plugin.errors import DataError, OptionalDependencyError
from refusal_plugin.report.circuitsvis import STARTER, attention_view, library
from refusal_plugin.report.figures.heads_agreement import agreement_figure
from refusal_plugin.report.figures.heads_examples import media_strip, token_line
from refusal_plugin.report.figures.heads_map import heads_map_figure
from refusal_plugin.report.heads import STYLE
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.page import document
from refusal_plugin.report.style import PAGE_STYLE
from refusal_plugin.report.table import frame, html_table

if TYPE_CHECKING:
    from refusal_plugin.heads.circuits import CircuitComparison
    from refusal_plugin.heads.projection import TokenProjection
    from refusal_plugin.heads.result import HeadAttribution
    from refusal_plugin.heads.sources import SourceAttribution

SHOWN = 6
"""Prompts that a view shows; the rest is counted."""


def _framed(title: object, *parts: object, note: object = "") -> Markup:
    return frame(title, tag("style", STYLE), *parts, note=note)


def attribution_view(found: HeadAttribution) -> Markup:
    """Maps of every modality that has harmful and benign prompts, and the strongest heads."""
    kinds = [m for m in found.labels.kinds() if _has_both(found, m)]
    title, note = (
        repr(found),
        "" if len(found.names) == 1 else f"Along {found.names[0]}; also {', '.join(found.names[1:])}.",
    )
    if not kinds:
        return _framed(title, note="No modality has harmful and benign prompts, so there is no contrast to draw.")
    contrasts: dict[str, Any] = {}
    rows: list[list[object]] = []
    for m in kinds:
        cells = found.contrast(m)
        depth = found.layers[0] + 1
        named = {"value": cells.value, "low": cells.low, "high": cells.high}
        named |= {role: found.mean(role, m) for role in ("harmful", "benign")}
        contrasts[m] = {name: value[:depth].tolist() for name, value in named.items()}
        rows += [[m, f"L{r.layer} H{r.head}", r.contrast, r.low, r.high, r.harmful, r.benign] for r in found.top(5, m)]
    record: dict[str, Any] = {"contrast": contrasts, "norm": found.whole(kinds[0])}
    unit = "units of the stream"
    if found.unit == "logit":
        unit, record["along"] = "nats of logit", found.names[0]
        record["distance"] = f"the distance between harmful and benign {kinds[0]} in that logit difference"
    drawn = heads_map_figure(record)
    heads = ["modality", "head", "contrast", "low", "high", "harmful", "benign"]
    return _framed(title, drawn, html_table(heads, rows, caption=f"Strongest heads, {unit}."), note=note)


def _has_both(found: HeadAttribution, modality: str) -> bool:
    pairs = zip(found.labels.roles, found.labels.modalities, strict=True)
    return {"harmful", "benign"} <= {role for role, kind in pairs if kind == modality}


def comparison_view(found: CircuitComparison) -> Markup:
    """Rank correlations and silent heads."""
    record = {
        "overlap": [vars(row) for row in found.agreements],
        "silent": [vars(row) for row in found.silent],
        "norm": max(1e-12, *(float(x.value.clamp_min(0).sum()) for x in found.contrasts.values())),
    }
    title = f"CircuitComparison of {', '.join(found.contrasts)}"
    return _framed(
        title, agreement_figure(record), note="Shares are of all that the heads of the strongest modality add."
    )


def sources_view(found: SourceAttribution) -> Markup:
    """Tokens coloured by what each head takes from them, for the first prompts."""
    parts: list[Markup] = []
    for row in range(min(SHOWN, len(found.labels))):
        values = found.values[row]
        limit = max(1e-9, float(values.abs().max()))
        label = f"{found.labels.ids[row]} ({found.labels.roles[row] or 'no role'}, {found.labels.modalities[row]})"
        parts.append(tag("p", label, class_="panel-title"))
        for place, (layer, head) in enumerate(found.heads):
            name = f"L{layer} H{head}: {float(values[place].sum()):+.2f} in all"
            parts.append(tag("p", name, class_="note"))
            words = [word or " " for word in found.tokens[row]]
            line = token_line(words, values[place].tolist(), limit, found.spans[row], f"Sources of L{layer} H{head}")
            parts.append(tag("div", line, media_strip(values[place].tolist(), found.spans[row], limit)))
    return _framed(f"SourceAttribution of {len(found.heads)} heads", *parts, note=_rest(len(found.labels)))


def tokens_view(found: TokenProjection) -> Markup:
    """Tokens coloured by their refusal coordinate, for the first prompts."""
    limit = max(1.0, *(float(v.abs().max()) for v in found.values))
    parts: list[Markup] = []
    for row in range(min(SHOWN, len(found.labels))):
        label = f"{found.labels.ids[row]} ({found.labels.roles[row] or 'no role'}, {found.labels.modalities[row]})"
        line = token_line(found.tokens[row], found.values[row].tolist(), limit, found.spans[row], "Refusal projection")
        strip = media_strip(found.values[row].tolist(), found.spans[row], limit)
        parts += [tag("p", label, class_="panel-title"), tag("div", line, strip)]
    note = f"Layer {found.layer}; 0 = benign text, 1 = harmful text at the reading position. {_rest(len(found.labels))}"
    return _framed("TokenProjection", *parts, note=note)


def _rest(n: int) -> str:
    return f"{n - SHOWN} more prompts are not shown." if n > SHOWN else ""


class AttentionView:
    """CircuitsVis' view of the attention of some heads on one prompt: in a notebook, or as a file.

    Args:
        found: from `attribute_sources(..., keep_attention=True)`.
        prompt: its row.

    Raises:
        DataError: the patterns were not kept, or there is no such prompt.
        OptionalDependencyError: circuitsvis is not installed.
    """

    def __init__(self, found: SourceAttribution, prompt: int = 0) -> None:
        if not 0 <= prompt < len(found.labels):
            raise DataError(f"show attention of prompt {prompt}", f"there are {len(found.labels)}", "give its row")
        if not found.attention[prompt].numel():
            raise DataError("show attention", "the patterns were not kept", "pass keep_attention=True")
        script = library()
        if script is None:
            raise OptionalDependencyError("show attention", "circuitsvis is not installed", "pip install circuitsvis")
        patterns = [[[round(x, 3) for x in row] for row in head] for head in found.attention[prompt].tolist()]
        names = [f"L{layer} H{head}" for layer, head in found.heads]
        summary = f"Attention of {len(names)} heads on {found.labels.ids[prompt]}"
        view = attention_view("attention", found.tokens[prompt], patterns, names, summary=summary, opened=True)
        style = Markup(PAGE_STYLE + STYLE)
        self.page = document(summary, tag("main", tag("h1", summary), view), scripts=[script, STARTER], style=style)

    def save(self, path: str | Path) -> Path:
        """Write a page that opens from a file and asks the network for nothing."""
        target = Path(path)
        target.write_text(self.page, encoding="utf-8")
        return target

    def _repr_html_(self) -> str:
        inside = html.escape(self.page, quote=True)
        frame_style = "width:100%;height:820px;border:0"
        return f'<iframe title="attention" sandbox="allow-scripts" style="{frame_style}" srcdoc="{inside}"></iframe>'
