"""The report's chapter on heads: maps, effects, circuits, pictures of single prompts, and its own script and style."""

from collections.abc import Mapping
from typing import Any

from refusal_plugin.report.circuitsvis import STARTER, library
from refusal_plugin.report.figures.heads_agreement import agreement_figure
from refusal_plugin.report.figures.heads_circuit import circuit_figure
from refusal_plugin.report.figures.heads_effects import effects_figure, removal_figure
from refusal_plugin.report.figures.heads_examples import LONGEST, example_views
from refusal_plugin.report.figures.heads_map import heads_map_figure, profile_figure
from refusal_plugin.report.markup import Markup, tag
from refusal_plugin.report.words import finite, mapping, sequence

STYLE = Markup("""
.rp svg .cell{font-size:11.5px;font-variant-numeric:tabular-nums}
.rp .tokens{line-height:2.05;margin:0 0 14px;max-width:76ch;overflow-wrap:anywhere}
.rp .figure{margin:44px 0 0}
.rp .tok{display:inline-block;line-height:1.45}
.rp .strip{max-width:400px;margin:-6px 0 14px}
.rp .tok{padding:2px 5px;margin:0 2px 0 0;border-radius:4px;border-bottom:1px solid var(--rp-grid);white-space:pre-wrap;
unicode-bidi:isolate}
.rp .tok.gap{color:var(--rp-muted);border:1px dashed var(--rp-line);font-size:.85em}
.rp .trace{padding:22px 0;border-top:1px solid var(--rp-grid)}
.rp .trace h3{display:flex;align-items:baseline;gap:8px;color:var(--hue,inherit)}
.rp .trace h3 small{font-size:14px;font-weight:400;color:var(--rp-muted)}
.rp .trace .what{font-size:13px;color:var(--rp-muted);margin:0 0 2px}
.rp .overlays{display:grid;gap:14px 28px;grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr));
margin:0 0 16px;max-width:760px}
.rp .overlay .note{margin:4px 0 0}
.rp .sheets{display:grid;gap:5px;grid-template-columns:repeat(auto-fit,minmax(min(100%,88px),1fr));max-width:380px}
.rp svg.sheet{border:1px solid var(--rp-line);border-radius:5px}
.rp svg.sheet .pixels{image-rendering:pixelated}
.rp .cv{background:#fff;color:#111;border:1px solid var(--rp-line);border-radius:8px;padding:10px 4px;margin:8px 0;
max-width:640px;min-height:40px;overflow-x:auto;font-size:13px}
.rp .cv h3{font-size:14px;margin:2px 0 8px;color:#111;display:block}
.rp .cv h4{font-size:11px;line-height:1.3;color:#fff;text-shadow:0 0 2px #000}
.rp .cv [role=button]{cursor:pointer}
.rp .cv [role=button]:focus-visible{outline:3px solid #0b5cad;outline-offset:2px}
.rp h3.later{margin-top:48px}
@media print{details.attention{display:none}}
""")


def heads_chapter(results: Mapping[str, Any]) -> Markup | None:
    """Everything about heads under its own heading; None where the study has no such section."""
    found = mapping(results.get("heads"))
    if not found:
        return None
    if "missing" in found:
        why = tag("p", f"Heads were not attributed: {found['missing']}", class_="prose")
        return tag("section", tag("h2", "Which heads write refusal"), why)
    error, silent = finite(found.get("conservation_error")), sequence(found.get("silent"))
    check = "" if error is None else f" All parts add up to the measured projection within {error:.0e} of their size."
    lost = {(mapping(row).get("layer"), mapping(row).get("head")) for row in silent}
    count = "One head that writes" if len(lost) == 1 else f"{len(lost)} heads that write"
    falls = "falls" if len(lost) == 1 else "fall"
    words = f" {count} harm into the direction in text {falls} silent in at least one other modality." if lost else ""
    lead = (
        "The direction is written by attention heads and MLPs, one addition at a time. Here each head's share is "
        "read off exactly, checked by taking heads away, and traced back to the words, patches and sounds it comes "
        "from."
    )
    traces = example_views(results, found, interactive=bool(heads_scripts(results)))
    rule = "The harmful request of each modality that is shown further down, token by token."
    return tag(
        "section",
        tag("h2", "Which heads write refusal"),
        tag("p", lead, check, words, class_="prose"),
        heads_map_figure(found),
        profile_figure(found),
        effects_figure(found),
        removal_figure(found),
        agreement_figure(found),
        circuit_figure(found),
        [tag("h3", "One request at a time", class_="later"), tag("p", rule, class_="prose"), traces]
        if traces
        else None,
    )


def heads_scripts(results: Mapping[str, Any]) -> list[Markup]:
    """CircuitsVis and its starter, where there is attention to draw and the package is installed."""
    rows = [mapping(row) for row in sequence(mapping(results.get("heads")).get("examples"))]
    drawn = any(row.get("attention") and len(sequence(row.get("tokens"))) <= LONGEST for row in rows)
    source = library() if drawn else None
    return [] if source is None else [source, STARTER]
