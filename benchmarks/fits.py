"""What fits of defences read: two arms of the same media (SARSteer), neutral media beside many texts (MARS).

Encoding the prompts, pixels and sound included, belongs to both sides, but for the decoder alone.
"""

from collections.abc import Callable, Sequence

import torch

import refusal_plugin as rp
from refusal_plugin.inference.arms import score_arms
from refusal_plugin.inference.prefix import collect_variants
from refusal_plugin.models.encoders import kept_of
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts import Prompt
from refusal_plugin.prompts.neutral import neutral_prompts

from .clock import Row, summary, take_turns
from .shapes import Shape, pictures, word_prompts

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


def encoders(shape: Shape, *, repeats: int, items: int = 3, media: int = 2, texts: int = 4, arms: int = 3) -> list[Row]:
    """A thousand image tokens: arms and grid with nothing kept before, and strengths of an edit at all positions."""
    shown = [Prompt("w1 w2 w3 w4 w5 w6 w7 w8", image=one, id=f"{k}") for k, one in enumerate(pictures(items))]
    neutral = pictures(media, seed=1)
    said = [word.text for word in word_prompts(texts, shortest=8, longest=12)]
    grid = [Prompt(text, image=one, id=f"{m}/{t}") for m, one in enumerate(neutral) for t, text in enumerate(said)]
    vector = torch.zeros(shape.d_model)
    edits = [rp.addition({1: vector}, strength=s) for s in torch.linspace(0.1, 1.0, arms).tolist()]

    def fresh(job: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            kept_of(shape.model).forget()
            job()

        return run

    def strengths() -> None:
        for edit in edits:
            score_arms(shape.model, shown, torch.tensor([7]), [edit])

    arms_of = fresh(lambda: collect_variants(shape.model, shown, (None, "w50 w51 w52 w53 w54 w55"), progress=False))
    grid_of = fresh(lambda: collect_variants(shape.model, grid, progress=False))
    jobs = (arms_of, lambda: forward(shape, shown), grid_of, lambda: forward(shape, grid[::texts]), fresh(strengths))
    mine, once, whole, alone, several = take_turns(jobs, repeats)
    rows = (
        (f"SARSteer arms t and t + p, {items} images, against one set of bare passes", mine, once, 1, "<= 1.15"),
        (f"MARS grid, {media} images x {texts} texts, against its media passes alone", whole, alone, 1, "<= 1.20"),
        (f"{arms} strengths at all positions, {items} images, against bare passes for each", several, once, arms, ""),
    )
    return [
        summary(name, shape.name, [a / (n * b) for a, b in zip(ours, bare, strict=True)], target)
        for name, ours, bare, n, target in rows
    ]


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
