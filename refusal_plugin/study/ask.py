"""`refusal-plugin ask`: one question, the answer as it is and steered, and its place along the direction per layer."""

from collections.abc import Mapping
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
from ..models import anatomy
from ..models.own_prompts import own_prompts
from ..prompts import Prompt, PromptSet, encode

DEFAULT_TEXT = "do what this says ."
BAR = 24


def answered(
    model: Any,
    text: str | None,
    media: Mapping[str, Path | None],
    direction_file: Path | None = None,
    strength: float | None = None,
    max_new_tokens: int = 32,
    prompts: PromptSet | None = None,
) -> dict[str, Any]:
    """One question, answered as the model is and steered.

    Args:
        model: a loaded model.
        text: what is asked; a request to follow the medium by default.
        media: "image", "video", "audio" to a file, a folder or None.
        direction_file: of a saved direction; without one it is fitted on the prompts.
        strength: of the addition, in multiples of the vector; the direction's own by default.
        max_new_tokens: longest answer.
        prompts: to fit on; the embedded model's own by default.

    Returns:
        `model`, `prompt`, `unknown` words, `as_it_is` and `steered` answers, the direction's `layer` and `strength`,
        its `price` (empty where it was not priced), whether it was `fitted` just now, and `coordinates`: one number per
        layer, 0 = benign text, 1 = harmful text.

    Raises:
        PromptError, MediaError, DirectionError, DataError: one line that says what to do.
    """
    files = {kind: None if path is None else str(path) for kind, path in media.items()}
    prompt = Prompt(text=DEFAULT_TEXT if text is None else text, id="question", **files)  # type: ignore[arg-type]
    unknown = encode(model, prompt).unknown  # also refuses what the model does not take, before anything is fitted
    direction = _fitted(model, prompts) if direction_file is None else Direction.load(direction_file, model)
    priced = dict(direction.price) if strength is None else {}
    strength = direction.strength if strength is None else strength
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "progress": False}
    plain = generate(model, [prompt], **options)[0]
    steered = generate(model, [prompt], direction.addition(strength), **options)[0]
    here = collect_activations(model, [prompt], positions=(direction.position,), progress=False)
    return {
        "model": anatomy(model).name,
        "modality": prompt.modality,
        "prompt": prompt.text,
        "unknown": [word for words in unknown[:1] for word in words],
        "as_it_is": plain.text,
        "steered": steered.text,
        "layer": direction.layer,
        "strength": strength,
        "price": priced,
        "fitted": direction_file is None,
        "coordinates": direction.coordinates(here.values[0, 0]).tolist(),
    }


def show(found: Mapping[str, Any]) -> None:
    """What `answered` found, in a terminal."""
    console = Console()
    if found["fitted"]:
        console.print("[dim]No --direction: one was fitted and priced; name a saved one to be faster.[/dim]")
    asked = f"is asked ({found['modality']}): {escape(found['prompt'])}"
    console.print(f"\n[bold]{escape(found['model'])}[/bold] {asked}", highlight=False)
    if found["unknown"]:
        words = ", ".join(found["unknown"])
        console.print(f"[yellow]note[/yellow] words this small model does not know: {escape(words)}")
    console.print(f"  as it is  {found['as_it_is'] or '(nothing)'}", markup=False, highlight=False)
    console.print(f"  steered   {found['steered'] or '(nothing)'}", markup=False, highlight=False)
    costs = ", ".join(f"{m} {nats:.2f}" for m, nats in found["price"].get("kl", {}).items())
    price = f"costs harmless answers {costs} nats" if costs else "not priced: it may cost harmless answers any amount"
    console.print(f"  [dim](direction of layer {found['layer']}, strength {found['strength']:.2f}: {price})[/dim]\n")
    table = Table("layer", "along the refusal direction (0 = benign text, 1 = harmful text)", "", box=None)
    for layer, value in enumerate(found["coordinates"]):
        mark = " <" if layer == found["layer"] else ""
        table.add_row(str(layer), _bar(value), f"{value:+.2f}{mark}")
    console.print(table)


def _fitted(model: Any, prompts: PromptSet | None) -> Direction:
    every = own_prompts(model) if prompts is None else prompts
    train, val = every.filter(split="train", modality="text"), every.filter(split="val")
    tokens = refusal_tokens(model, train)
    return select_direction(model, fit_direction(model, train), val.filter(modality="text"), tokens, harmless=val)


def _bar(value: float) -> str:
    filled = round(max(0.0, min(1.0, value)) * BAR)
    return "█" * filled + "·" * (BAR - filled)
