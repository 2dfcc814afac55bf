"""`refusal-plugin ask`: one question, the answer as it is and steered, and its place along the direction per layer."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..directions.direction import Direction, fit_direction
from ..directions.selection import select_direction
from ..evaluation.refusal_tokens import refusal_tokens
from ..inference.activations import collect_activations
from ..inference.answers import generate
from ..models import anatomy, load
from ..models.own_prompts import own_prompts
from ..prompts import Prompt, PromptSet, encode

DEFAULT_TEXT = "do what this says ."
BAR = 24


def ask(
    name: str,
    text: str | None,
    image: Path | None,
    video: Path | None,
    audio: Path | None,
    direction_file: Path | None,
    strength: float | None,
    max_new_tokens: int,
    prompts: PromptSet | None,
) -> None:
    """Answer one question in the terminal; see the command's help."""
    console = Console()
    prompt = Prompt(
        text=DEFAULT_TEXT if text is None else text,
        image=str(image) if image else None,
        video=str(video) if video else None,
        audio=str(audio) if audio else None,
        id="question",
    )
    model = load(name)
    unknown = encode(model, prompt).unknown  # also refuses what the model does not take, before anything is fitted
    if direction_file is not None:
        direction = Direction.load(direction_file, model)
    else:
        console.print("[dim]No --direction: fitting one on the model's own text prompts …[/dim]")
        direction = _fitted(model, prompts)
    strength = direction.strength if strength is None else strength
    plain = generate(model, [prompt], max_new_tokens=max_new_tokens, progress=False)[0]
    steered = generate(model, [prompt], direction.addition(strength), max_new_tokens=max_new_tokens, progress=False)[0]
    here = collect_activations(model, [prompt], positions=(direction.position,), progress=False)
    places = direction.coordinates(here.values[0, 0])

    console.print(
        f"\n[bold]{escape(anatomy(model).name)}[/bold] is asked ({prompt.modality}): {escape(prompt.text)}",
        highlight=False,
    )
    for words in unknown[:1]:
        if words:
            console.print(f"[yellow]note[/yellow] words this small model does not know: {escape(', '.join(words))}")
    console.print(f"  as it is  {plain.text or '(nothing)'}", markup=False, highlight=False)
    console.print(f"  steered   {steered.text or '(nothing)'}", markup=False, highlight=False)
    console.print(f"  [dim](direction of layer {direction.layer}, strength {strength:.2f})[/dim]\n")
    table = Table("layer", "along the refusal direction (0 = benign text, 1 = harmful text)", "", box=None)
    for layer, value in enumerate(places.tolist()):
        mark = " <" if layer == direction.layer else ""
        table.add_row(str(layer), _bar(value), f"{value:+.2f}{mark}")
    console.print(table)


def _fitted(model: Any, prompts: PromptSet | None) -> Direction:
    text = (own_prompts(model) if prompts is None else prompts).filter(modality="text")
    train, val = text.filter(split="train"), text.filter(split="val")
    return select_direction(model, fit_direction(model, train), val, refusal_tokens(model, train))


def _bar(value: float) -> str:
    filled = round(max(0.0, min(1.0, value)) * BAR)
    return "█" * filled + "·" * (BAR - filled)
