"""One study as one page: `render(results)` gives a self-contained document, `write(results, path)` puts it on disk.

The page asks the network for nothing: style, script and media are inside it, and a content security policy forbids the
rest; a script runs only if its hash is listed. Everything that comes from the results is escaped (see `markup`). Order
and words stand in `templates/study.html`. Sections without data are left out or say why they are empty.
"""

import base64
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import StudyError
from .caveats import caveats, provenance
from .defences import defences_section
from .examples import examples, items
from .figures.auroc import auroc_figure
from .figures.by_strength import by_strength_figure, strength_slider
from .figures.projection import layers_figure, swarm_figure
from .figures.rates import ablation_figure, rates_figure
from .figures.selection import selection_figure
from .filling import fill, script
from .heads import heads_chapter, heads_scripts
from .markup import Markup
from .palette import modality_order
from .records import finite, mapping, sequence
from .sliders import layer_slider
from .summary import cards, question, regime
from .transfer import transfer_chapter

SCHEMA_VERSION = 1
FIGURES = {
    "rates": rates_figure,
    "by_strength": by_strength_figure,
    "ablation": ablation_figure,
    "defences": defences_section,
    "auroc": auroc_figure,
    "swarm": swarm_figure,
    "layers": layers_figure,
    "transfer": transfer_chapter,
    "selection": selection_figure,
    "heads": heads_chapter,
}
"""Name in `templates/study.html` -> what draws it."""
CHAPTERS = (
    ("look", "In one look"),
    ("steering", "Adding the direction"),
    ("seen", "What the model sees"),
    ("part-transfer", "Transfer"),
    ("part-modality_gap", "The modality gap"),
    ("part-safe_space", "The safe space"),
    ("chosen", "The choice of the layer"),
    ("heads", "Heads"),
    ("questions", "One question each"),
    ("answers", "Every answer"),
    ("limits", "What this does not show"),
    ("provenance", "Where numbers come from"),
)
"""Anchor of a heading -> its name in the contents; those that a page lacks are left out."""


def render(results: Mapping[str, Any]) -> str:
    """The page of one study.

    Args:
        results: `results.json`, schema version 1. Null values and missing sections are allowed.

    Returns:
        A complete HTML document.

    Raises:
        StudyError: the results have another schema version.
    """
    found = results.get("schema_version")
    if found != SCHEMA_VERSION:
        wanted = f"use version {SCHEMA_VERSION}, or run the study again"
        raise StudyError("draw the report", f"results of schema version {found!r}", wanted)
    layer, asked = finite(results, "direction", "layer"), question(results)
    figures = {name: draw(results) for name, draw in FIGURES.items()}
    shown, browser = examples(results), items(results)
    parts = {"part-transfer": "transfer", "part-modality_gap": "modality_gap", "part-safe_space": "safe_space"}
    there: dict[str, object] = {"heads": figures["heads"], "questions": shown, "answers": browser}
    there |= {key: mapping(results, name) for key, name in parts.items()}
    return document(
        "study.html",
        f"{asked} {results.get('model', '')}".strip(),
        [theme(), script("explore.js"), *heads_scripts(results)],
        question=asked,
        model=results.get("model", "unnamed model"),
        seed=results.get("seed", "?"),
        made=str(results.get("created") or "").replace("T", " ").replace("Z", " UTC"),
        layer=None if layer is None else int(layer),
        regime=regime(results),
        warnings=sequence(results, "warnings"),
        cards=cards(results),
        figures=figures,
        examples=shown,
        items=browser,
        chapters=[(key, name) for key, name in CHAPTERS if there.get(key, True)],
        modalities=modality_order(mapping(results, "modalities")),
        sliders=[slider for slider in (layer_slider(results), strength_slider(results)) if slider is not None],
        caveats=caveats(results),
        provenance=provenance(results),
    )


def theme() -> Markup:
    """The script of the button that changes the theme."""
    return script("theme.js")


def document(template: str, title: str, scripts: Sequence[Markup] = (), **values: object) -> str:
    """A complete page whose policy allows inline style, data URIs, these scripts and nothing else.

    Args:
        template: one that extends `page.html`.
        title: of the page.
        scripts: each listed in the policy by its hash.
        values: what the template asks for.
    """
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    return str(fill(template, title=title, scripts=scripts, hashes=hashes, **values))


def write(results: Mapping[str, Any], path: str | Path) -> Path:
    """Render and write the page of a study."""
    return save(render(results), path)


def save(page: str, path: str | Path) -> Path:
    """Write a page; a reader of `path` sees the old page or the new one, never half of one."""
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target
