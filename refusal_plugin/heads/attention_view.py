"""The interactive view of attention patterns, by CircuitsVis: in a notebook, or as a file."""

import html
from pathlib import Path

from ..errors import DataError, OptionalDependencyError
from .sources import SourceAttribution


def view_of(found: SourceAttribution, prompt: int) -> tuple[str, tuple[str, ...], list[list[list[float]]], list[str]]:
    """What a view of one prompt shows: its title, tokens, patterns (head, query, source), and names of the heads."""
    patterns = [[[round(x, 3) for x in row] for row in head] for head in found.attention[prompt].tolist()]
    names = [f"L{layer} H{head}" for layer, head in found.heads]
    return f"Attention of {len(names)} heads on {found.labels.ids[prompt]}", found.tokens[prompt], patterns, names


class AttentionView:
    """CircuitsVis' view of the attention of some heads on one prompt, in a page that holds everything it needs.

    The page's policy forbids all requests; a notebook shows it in a frame of its own.

    Args:
        found: from `attribute_sources(..., keep_attention=True)`.
        prompt: its row.

    Raises:
        DataError: the patterns were not kept, or there is no such prompt.
        OptionalDependencyError: circuitsvis is not installed.
    """

    def __init__(self, found: SourceAttribution, prompt: int = 0) -> None:
        from ..report.circuitsvis import attention_view, library, starter
        from ..report.page import document

        if not 0 <= prompt < len(found.labels):
            raise DataError(f"show attention of prompt {prompt}", f"there are {len(found.labels)}", "give its row")
        if not found.attention[prompt].numel():
            raise DataError("show attention", "the patterns were not kept", "pass keep_attention=True")
        script = library()
        if script is None:
            raise OptionalDependencyError("show attention", "circuitsvis is not installed", "pip install circuitsvis")
        title, tokens, patterns, names = view_of(found, prompt)
        view = attention_view("attention", tokens, patterns, names, summary=title, opened=True)
        self.page = document("attention_page.html", title, [script, starter()], view=view)

    def save(self, path: str | Path) -> Path:
        """Write a page that opens from a file and asks the network for nothing."""
        target = Path(path)
        target.write_text(self.page, encoding="utf-8")
        return target

    def _repr_html_(self) -> str:
        inside, look = html.escape(self.page, quote=True), "width:100%;height:820px;border:0"
        return f'<iframe title="attention" sandbox="allow-scripts" style="{look}" srcdoc="{inside}"></iframe>'
