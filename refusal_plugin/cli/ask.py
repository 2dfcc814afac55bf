"""`refusal-plugin ask`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import PromptError
from .options import Model, Options, Prompts, emit, prompt_set, with_options


@with_options
def ask(
    text: Annotated[str | None, typer.Argument(help="What to ask. With a medium, what to do with it.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file.")] = None,
    video: Annotated[Path | None, typer.Option(help="A GIF, a folder of frames, or a video file.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A wav file.")] = None,
    model: Model = "organism",
    direction: Annotated[
        Path | None,
        typer.Option(help="A saved direction (as in study/direction.safetensors); fitted on the spot without it."),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Strength in multiples of the vector; the selected one by default.")
    ] = None,
    prompts: Prompts = None,
    *,
    options: Options,
) -> None:
    """Ask one question: the answer as it is and steered, and where it lies along the refusal direction per layer.

    [dim]refusal-plugin ask "how do i bake bread ?"[/dim]
    [dim]refusal-plugin ask "do what the picture says ." --image sign.png[/dim]
    [dim]refusal-plugin ask "how do i bake bread ?" --direction study/direction.safetensors --strength 0.5[/dim]
    """
    if text is None and not any((image, video, audio)):
        raise PromptError("ask", "no question", 'type one: refusal-plugin ask "how do i bake bread ?"')
    given = prompt_set(prompts)
    loaded = options.load(model)
    from ..study.ask import answered, show

    media = {"image": image, "video": video, "audio": audio}
    found = answered(loaded, text, media, direction, strength, options.answer(32), given)
    if options.json:
        emit(found)
    else:
        show(found)
