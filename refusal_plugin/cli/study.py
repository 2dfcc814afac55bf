"""`refusal-plugin study`."""

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

ROLES = ("harmful", "near_miss", "benign")


@with_options
def study(
    model: Model = "organism",
    out: Folder = Path("study"),
    seed: Annotated[int, typer.Option(help="Of bootstrap, random control and --limit.")] = 0,
    limit: Limit = None,
    prompts: Prompts = None,
    data: Data = None,
    judge: Judges = None,
    guard: Judges = None,
    open_: Open = False,
    *,
    options: Options,
) -> None:
    """Find the refusal direction in text, see how far it reaches into image, video and speech, and steer with it.

    Writes OUT/index.html (the report), OUT/results.json and OUT/direction.safetensors.

    [dim]refusal-plugin study --model organism-control --out study-control[/dim]
    """
    given = prompt_set(prompts, data)
    judges = {"judge": judge_of(judge), "guard": judge_of(guard)}
    loaded = options.load(model)
    from ..recipe_files import recipe

    asked = {**judges, "max_new_tokens": options.answer(24), "token_budget": options.batch_tokens}
    results = recipe("study").run(loaded, given, out=out, seed=seed, limit=limit, **asked)
    if options.json:
        emit(results)
    elif not options.quiet:
        show(results, out)
    if open_:
        typer.launch(str((out / "index.html").resolve()))


def show(results: Any, out: Path) -> None:
    """The study in a terminal: the regime in words, one line per modality, warnings, files."""
    from rich.table import Table

    page = console()
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("test split", "read", "AUROC", "harmful refused", "(random)", "near miss", "benign"):
        table.add_column(column, justify="left" if column == "test split" else "right", no_wrap=True)
    layer = results["direction"]["layer"]
    for name, record in results["modalities"].items():
        arms = record["defences"]
        auroc = next((row["value"] for row in record["auroc_by_layer"] if row["layer"] == layer), None)
        share = {role: [arms[arm][f"{role}_refusal"]["value"] for arm in ("none", "addition")] for role in ROLES}
        table.add_row(
            name,
            percent(record["read_back"]["value"]),
            "-" if auroc is None else f"{auroc:.2f}",
            change(*share["harmful"]),
            f"({percent(arms['random']['harmful_refusal']['value'])})",
            change(*share["near_miss"]),
            change(*share["benign"]),
        )
    page.print(f"\n{results.finding()}\nBefore -> after adding it:", markup=False)
    page.print(table)
    for warning in results["warnings"]:
        page.print("[yellow]note[/yellow]", end=" ")
        page.print(warning, markup=False)
    page.print("\n" + results["cost"]["words"])
    page.print(f"\nReport: {out / 'index.html'}   figures with intervals: {out / 'results.json'}")


def change(before: float | None, after: float | None) -> str:
    """A share before and after steering."""
    return "-" if before is None or after is None else f"{100 * before:.0f} -> {100 * after:.0f} %"
