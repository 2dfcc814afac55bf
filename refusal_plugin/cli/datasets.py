"""`refusal-plugin datasets`: which public data sets can be loaded by name, and what to know of each."""

from typing import Annotated

import typer

from ..datasets.registry import Dataset, dataset, registered
from .options import table


def list_datasets(
    name: Annotated[str | None, typer.Argument(help="One set; all of them by default.")] = None,
) -> None:
    """List the public data sets that --data takes, or explain one: source, licence, roles, warning, what is unverified.

    Nothing is fetched.

    [dim]refusal-plugin datasets figstep[/dim]
    """
    if name is None:
        rows = [
            (one.name, ", ".join(one.modality), one.gate, one.licence, "yes" if one.views else "no", one.title)
            for one in registered().values()
        ]
        table(("set", "modality", "access", "licence", "loads", "what it is"), rows)
        typer.echo("\nrefusal-plugin datasets NAME explains one; study and compare take --data NAME+NAME.")
        return
    one = dataset(name)
    parts = [f"{part.name}{'' if part.usual else ' (only when named)'}" for part in one.parts]
    facts = {
        "what it is": one.title,
        "source": one.source,
        "revision": one.revision or "not pinned: its newest state is loaded",
        "modality": ", ".join(one.modality),
        "size": one.size,
        "licence": one.licence,
        "access": one.gate,
        "columns": ", ".join(one.columns) or "not known",
        "parts": ", ".join(parts) or "none: it cannot be loaded by name",
        "roles": ", ".join(roles(one)),
        "pairs": one.pair or "every row is its own",
        "warning": one.warning,
        "not verified": ", ".join(one.unverified),
        "citation": one.citation,
    }
    table(("", one.name), [(key, value) for key, value in facts.items() if value])


def roles(one: Dataset) -> list[str]:
    """The roles that prompts of a set get, and from what."""
    found = [f"{view.column} {value} -> {role}" for view in one.views for value, role in view.roles.items()]
    found += [f"{view.name or 'row'} -> {view.role}" for view in one.views if view.role]
    found += [f"part {part.name} -> {part.role}" for part in one.parts if part.role]
    return list(dict.fromkeys(found))
