"""`refusal-plugin compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    Data,
    Folder,
    Judges,
    Limit,
    Model,
    Open,
    Options,
    Prompts,
    console,
    emit,
    judge_of,
    percent,
    prompt_set,
    with_options,
)
from .study import ROLES


@with_options
def compare(
    defences: Annotated[
        list[str] | None,
        typer.Argument(help="Methods and variants; all of them by default. `refusal-plugin compare list` names them."),
    ] = None,
    model: Model = "organism",
    out: Folder = Path("compare"),
    modality: Annotated[
        list[str] | None, typer.Option(help="text, image, video or audio; repeat for several. All by default.")
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="Multiples of the matched strength for the Pareto lines; repeat for several."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Fits per method, each on another draw of training pairs."),
    ] = 5,
    target_kl: Annotated[
        float, typer.Option(help="The price at which methods are matched: nats per harmless validation answer.")
    ] = 0.1,
    price_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of each answer that are priced, at most; 1 prices the first token alone.")
    ] = 32,
    limit: Limit = None,
    prompts: Prompts = None,
    data: Data = None,
    judge: Judges = None,
    guard: Judges = None,
    control: Annotated[
        str | None,
        typer.Option(help="A model on which nothing should transfer; 'none' to leave it out. [organism-control]"),
    ] = None,
    open_: Open = False,
    *,
    options: Options,
) -> None:
    """Compare defences at the same price: how much more harm each refuses, and what it costs harmless requests.

    Strength is set where each method costs the same on harmless validation prompts, never on harm and never on the test
    split. Writes OUT/compare.json (rows, matched, claims) and OUT/index.html; the same command continues a run.

    [dim]refusal-plugin compare --out compare[/dim]

    [dim]refusal-plugin compare sarsteer mars random --modality image --seeds 1[/dim]
    """
    from ..comparison.run import DEFAULT, STRENGTHS, check, compare_defences
    from ..defences import REGISTRY

    if defences == ["list"]:
        show_methods(REGISTRY, DEFAULT)
        return
    names, strengths = tuple(defences or DEFAULT), tuple(strength or STRENGTHS)
    check(names, range(seeds), strengths, target_kl)
    given = prompt_set(prompts, data)
    judges = {"judge": judge_of(judge), "guard": judge_of(guard)}
    asked = None if control == "none" else control
    if control is None and model == "organism" and given is None:
        asked = "organism-control"
    results = compare_defences(
        options.load(model),
        given,
        names,
        strengths=strengths,
        seeds=tuple(range(seeds)),
        target_kl=target_kl,
        price_tokens=price_tokens,
        modalities=tuple(modality) if modality else None,  # type: ignore[arg-type]  # checked there
        control=None if asked is None else options.load(asked),
        **judges,
        out=out,
        limit=limit,
        max_new_tokens=options.answer(128),
        token_budget=options.batch_tokens,
    )
    if options.json:
        emit(results)
    elif not options.quiet:
        show_comparison(results, out)
    if open_:
        typer.launch(str((out / "index.html").resolve()))


def show_methods(registry: Any, default: tuple[str, ...]) -> None:
    """The methods by name, with what they look at."""
    from rich.table import Table

    table = Table("method", "fitted on", "what it does", "switches", box=None, header_style="bold", padding=(0, 1))
    for name, entry in sorted(registry.items()):
        switches = ", ".join(f"{key}={value!r}" for key, value in entry.switches.items())
        table.add_row(name + ("" if name in default else " *"), entry.sees, entry.summary, switches)
    console().print(table)
    typer.echo("\n* not in the default comparison; name it to include it.")


def show_comparison(results: dict[str, Any], out: Path) -> None:
    """The comparison in a terminal: one table per modality, verdicts, warnings, files."""
    from rich.table import Table

    page = console()
    for name, plain in results["undefended"].items():
        table = Table(box=None, header_style="bold", padding=(0, 1))
        for column in (name, "KL", "harmful refused", "near miss", "benign", "utility", "perplexity", "balanced"):
            table.add_column(column, justify="left" if column == name else "right", no_wrap=True)
        for row in ({"defence": "no defence", **plain}, *(r for r in results["matched"] if r["modality"] == name)):
            table.add_row(
                row["defence"] + (" *" if row.get("at_bound") else ""),
                "" if "kl" not in row else f"{row['kl']:.3f}",
                *(percent(row[f"{role}_refusal"]["value"]) for role in ROLES),
                percent(row["utility"]["value"]),
                f"{row['perplexity']['value'] or float('nan'):.2f}",
                percent(row["brr"]["value"]),
            )
        page.print(table)
        page.print()
    for line in results["verdicts"]:
        said = "; ".join(
            f"[{colour}]{verdict}[/{colour}] {', '.join(line[verdict])}"
            for verdict, colour in (("held", "green"), ("failed", "red"), ("underpowered", "yellow"))
            if line[verdict]
        )
        page.print(f"{line['words']}: {said}", highlight=False)
    for warning in results["warnings"]:
        page.print("[yellow]note[/yellow]", end=" ")
        page.print(warning, markup=False, highlight=False)
    page.print("* at the end of the allowed strengths, or a method without a strength: not at the price.")
    page.print(f"\nPage: {out / 'index.html'}   figures with intervals: {out / 'compare.json'}")
