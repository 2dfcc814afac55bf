"""`refusal-plugin reproduce`: papers' tables again."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from ..errors import DataError
from .options import Limit, Options, Prompts, console, emit, judge_of, prompt_set, table, with_options


@with_options
def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(help="PAPER or PAPER:MODEL, or your own .yaml file; without it, all are listed."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything that can be checked offline, plan the run, stop.")
    ] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Run the whole on tiny random models of the same classes; no numbers.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where results go; what is there is continued.")] = Path(
        "reproduction"
    ),
    prompts: Prompts = None,
    judge: Annotated[str | None, typer.Option(help="Another judge than the paper's: FORMAT=MODEL.")] = None,
    limit: Limit = None,
    *,
    options: Options,
) -> None:
    """Make a paper's table again: its model, data, hyperparameters and judge, its figures beside ours.

    [dim]refusal-plugin reproduce sarsteer:qwen2-audio --dry-run[/dim]

    [dim]refusal-plugin reproduce arditi:llama3 --out arditi --dtype bfloat16[/dim]
    """
    from ..reproduction import configuration, configurations, reproduce_tiny
    from ..reproduction import reproduce as run

    paper, _, chosen = (name or "").partition(":")
    files = [paper] if paper else list(configurations())
    known = [(made, model) for made in map(configuration, files) for model in made.models]
    asked = [(made, model) for made, model in known if chosen in ("", model)]
    if not asked:
        do = f"use one of {', '.join(model for _, model in known)}"
        raise DataError(f"reproduce {name!r}", f"no model {chosen!r} in that table", do)
    if dry_run or (name is None and not tiny):
        plans = [(made, model, made.plan(model)) for made, model in asked]
        if options.json:
            emit([{"configuration": made.name, "model": model, **plan} for made, model, plan in plans])
        else:
            show_plans(plans)
            if dry_run and name is not None:
                show_facts(asked[0][0])
        return
    given, judged = prompt_set(prompts), judge_of(judge)
    results: list[Any] = []
    for made, model in asked:
        folder = out / f"{made.name}-{model}"
        if tiny:
            with TemporaryDirectory() as kept:
                results.append(reproduce_tiny(made, model, kept))
        else:
            entry = made.models[model]
            loaded = replace(options, revision=options.revision or entry.revision).load(entry.id)
            how: dict[str, Any] = {"prompts": given, "judge": judged, "limit": limit}
            results.append(run(made, model, out=folder, loaded=loaded, token_budget=options.batch_tokens, **how))
        if not options.quiet and not options.json:
            show_table(results[-1], "nothing is kept of a tiny run" if tiny else str(folder / "reproduction.json"))
    if options.json:
        emit(results)


def show_plans(plans: list[Any]) -> None:
    """What there is, and what a run should take."""
    rows = []
    for made, model, plan in plans:
        figures, entry = len(made.models[model].figures), made.models[model]
        need = f"{plan['memory_gb']:.0f} GB", f"{plan['hours']:.2g}"
        rows.append((f"{made.name}:{model}", entry.id, entry.revision or "newest", figures, *need, made.shows))
    table(("table", "model", "revision", "figures", "memory", "hours", "claim"), rows)
    typer.echo("\nMemory with the judge's weights, and hours, are planned for an H200 (docs/scale.md), not measured.")


def show_facts(made: Any) -> None:
    """What a configuration names: everything of it was found."""
    from ..datasets.loading import named_sets

    judge = made.judge.format if made.judge.model is None else f"{made.judge.format}={made.judge.model}"
    specs = [spec for spec in (made.data.train, made.data.test) if isinstance(spec, str)]
    sets = dict.fromkeys(f"{one.name} ({one.gate})" for spec in specs for one, _, _ in named_sets(spec))
    methods = [f"{name} at {made.strength(name) or 'its own strength'}" for name in made.defences]
    facts = {"paper": f"{made.paper} (arXiv {made.arxiv})", "sets": ", ".join(sets), "judge": judge}
    answers = f"{made.decoding.strategy}, at most {made.decoding.max_new_tokens} tokens"
    table(("", made.name), list({**facts, "answers": answers, "defences": ", ".join(methods)}.items()))
    for note in made.notes:
        typer.echo(f"note: {note}")


def show_table(found: Any, where: str) -> None:
    """Paper and ours in a terminal."""
    rows = found["rows"]

    def cell(value: Any) -> Any:
        if value is None or isinstance(value, bool):
            return {True: "yes", False: "no", None: ""}[value]
        return f"{value:.3f}" if isinstance(value, float) else value

    table(
        tuple("within?" if name == "within" else name for name in rows[0]),
        [tuple(map(cell, row.values())) for row in rows],
    )
    for line in found.caveats():
        console().print(f"[yellow]note[/yellow] {line}", highlight=False)
    typer.echo(f"{found['configuration']}:{found['model']}: {where}")
