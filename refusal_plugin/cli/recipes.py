"""`refusal-plugin ls`, `cp` and `run`: recipes, one runnable file per research question."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from .options import Model, Options, Prompts, emit, plain, prompt_set, table, with_options


def list_recipes() -> None:
    """List the recipes: one runnable file per research question.

    [dim]refusal-plugin ls[/dim]
    """
    from ..recipe_files import recipes, summary

    table(("recipe", "question"), [(name, summary(path)) for name, path in recipes().items()])
    typer.echo("\nrefusal-plugin run NAME runs one, refusal-plugin cp NAME . copies it for you to change.")


def copy(
    name: Annotated[str, typer.Argument(help="A recipe; see `ls`.")],
    to: Annotated[Path, typer.Argument(help="Folder or .py file.")] = Path(),
) -> None:
    """Copy a recipe, to read and change it.

    [dim]refusal-plugin cp direction_extraction mine.py[/dim]
    """
    from ..recipe_files import copy_recipe

    target = copy_recipe(name, to)
    typer.echo(f"{target}  (run it with: refusal-plugin run {target})")


@with_options
def run(
    name: Annotated[str, typer.Argument(help="A recipe (see `ls`), or your own .py file with a function run().")],
    model: Model = "organism",
    prompts: Prompts = None,
    remote: Annotated[bool, typer.Option(help="Run on NDIF instead of this machine.")] = False,
    detach: Annotated[bool, typer.Option(help="With --remote: leave once it is sent; see `jobs`.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Keep the result: a .json or .safetensors file; a folder for the study."),
    ] = None,
    *,
    options: Options,
) -> None:
    """Run a recipe, print what it found, and keep it with --out.

    [dim]refusal-plugin run direction_extraction --model organism --out found.json[/dim]
    """
    from ..recipe_files import recipe

    module, given = recipe(name), prompt_set(prompts)
    loaded = options.load(model, remote=remote)
    if given is None:
        from ..models.own_prompts import own_prompts

        given = own_prompts(loaded)
    takes = inspect.signature(module.run).parameters
    more: dict[str, Any] = {"out": out} if out is not None and "out" in takes else {}
    if options.max_new_tokens is not None and "max_new_tokens" in takes:
        more["max_new_tokens"] = options.max_new_tokens
    if remote:
        how = {"recipe": name, "model": model, "prompts": None if prompts is None else str(prompts)}
        result = run_recipe(module, {**how, "out": None if out is None else str(out)}, loaded, given, detach, **more)
    else:
        result = module.run(loaded, given, **more)
    if out is not None and "out" not in takes:
        keep(result, out)
    if options.json:
        emit(result)
    elif not options.quiet:
        show = getattr(module, "show", None)
        if callable(show):
            show(result)
        elif name == "study":
            from .study import show as show_study

            show_study(result, Path("study") if out is None else out)
        else:
            typer.echo(result)


def keep(result: Any, out: Path) -> None:
    """Write a recipe's result: an artefact into a .safetensors file, else as JSON.

    Raises:
        DataError: it is neither an artefact nor JSON, or the file cannot be written.
    """
    from ..storage import Saved, write_json

    if out.suffix == ".safetensors":
        if not isinstance(result, Saved):  # nnsight gives everything a method of that name
            found = f"a {type(result).__name__} is no artefact of this package"
            raise DataError(f"keep the result in {out}", found, "give a .json file")
        result.save(out)
    else:
        write_json(out, plain(result))


def run_recipe(module: Any, how: dict[str, Any], model: Any, prompts: Any, detach: bool, **more: Any) -> Any:
    """Run a recipe remotely under a name, so that it continues where it stopped.

    Args:
        module: the recipe.
        how: arguments of the command ("recipe", "model", "prompts").
        model, prompts: loaded.
        detach: leave after sending.
        more: further arguments of the recipe.

    Raises:
        typer.Exit: after sending, if `detach`.
    """
    from ..inference.cost import estimate
    from ..recipe_files import run_remotely
    from ..remote.errors import Detached
    from ..remote.options import settings

    typer.echo(f"all prompts, read once: {estimate(model, prompts)}", err=True)
    try:
        with settings(detach=detach):
            return run_remotely(module, model, prompts, how=how, **more)
    except Detached as left:
        typer.echo(str(left))
        raise typer.Exit from None
