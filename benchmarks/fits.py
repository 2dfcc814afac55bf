"""What fits of defences read: two arms of the same media (SARSteer), neutral media beside many texts (MARS).

Encoding the prompts, pixels and sound included, belongs to both sides, but for the decoder alone.
"""

from collections.abc import Callable, Sequence

import torch

import refusal_plugin as rp
from refusal_plugin.inference.prefix import collect_variants
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import Prompt
from refusal_plugin.prompts.neutral import neutral_prompts

from .clock import Row, summary, take_turns
from .shapes import Shape

REFUSAL = "I cannot assist with that."
MEDIA = ("image", "video", "audio")


def rows(shape: Shape, *, repeats: int, items: int = 32, media: int = 8, texts: int = 8) -> list[Row]:
    """Both arms against one set of passes; the grid against its decoder passes and against the naive grid."""
    found = []
    for modality in MEDIA:
        prompts = list(organism_prompts(split="train", modality=modality, role="harmful", renderings=1, limit=items))
        seconds = take_turns(
            (
                lambda p=prompts: collect_variants(shape.model, p, (None, REFUSAL), progress=False),  # type: ignore[misc]
                lambda p=prompts: forward(shape, p),  # type: ignore[misc]
            ),
            repeats,
        )
        ratios = [a / b for a, b in zip(*seconds, strict=True)]
        name = f"SARSteer arms t and t + p, {len(prompts)} {modality} prompts, against one set of bare passes"
        found.append(summary(name, shape.name, ratios, "<= 1.60"))
    halves = (organism_prompts(split="train", modality="text", role=r, limit=texts // 2) for r in ("harmful", "benign"))
    text = [prompt for half in halves for prompt in half]
    for modality in MEDIA:
        like = organism_prompts(split="train", modality=modality, role="benign", renderings=1, limit=4)
        grid = list(neutral_prompts(text, modality, media, like=like))  # type: ignore[arg-type]
        decoder = decoder_alone(shape, grid)
        seconds = take_turns(
            (
                lambda g=grid: collect_variants(shape.model, g, max_rows=64, progress=False),  # type: ignore[misc]
                decoder,
                lambda g=grid: forward(shape, g),  # type: ignore[misc]
            ),
            repeats,
        )
        quick, passes, naive = seconds
        name = f"MARS grid, {media} neutral {modality}s x {len(text)} texts"
        alone = [a / b for a, b in zip(quick, passes, strict=True)]
        found.append(summary(f"{name}, all told, against the decoder's passes alone", shape.name, alone, "<= 1.30"))
        ratios = [a / b for a, b in zip(quick, naive, strict=True)]
        found.append(summary(f"{name}, against the full grid of bare passes", shape.name, ratios))
    return found


def forward(shape: Shape, prompts: Sequence[Prompt]) -> None:
    """Bare passes."""
    with torch.no_grad():
        for _, batch in rp.batches(shape.model, prompts, token_budget=8192, max_rows=64):
            shape.bare(**batch.inputs)


def decoder_alone(shape: Shape, prompts: Sequence[Prompt]) -> Callable[[], None]:
    """The language model over rows of the same lengths, embeddings ready: no media, no tokenization."""
    path = rp.anatomy(shape.model).layers_path.rpartition(".")[0]
    decoder = shape.bare.get_submodule(path)
    ready = []
    for _, batch in rp.batches(shape.model, prompts, token_budget=8192, max_rows=64):
        ready.append((torch.randn(batch.size, batch.length, shape.d_model), batch.inputs["attention_mask"]))

    def passes() -> None:
        with torch.no_grad():
            for embeddings, mask in ready:
                decoder(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)

    return passes
