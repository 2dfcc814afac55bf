"""Train the projector from nothing: `python -m training.spoken DECODER ENCODER OUT`; needs espeak-ng.

Two cores: about half an hour of speaking and listening, a quarter of an hour of spelling, half an hour of alignment.
Everything that is heard is kept in OUT and not heard again; a checkpoint of the projector is kept along the way, for
the curve of refusal against reading.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from refusal_plugin import progress
from refusal_plugin.models.spoken import assemble

from . import features
from .alignment import Decoder, align
from .sentences import Sentence, instructions, requests, sayings, word_list, word_runs
from .spelling import Projector, Spelling, budget, spell

MARKS = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300)
"""Steps of the alignment after which a checkpoint is kept."""


def sentences(words: list[str]) -> list[Sentence]:
    """What is said in training."""
    found = instructions(2800, "train") + requests(700) + sayings(3600) + word_runs(1500, words[:1500])
    random.Random(0).shuffle(found)
    return found


def save(projector: Projector, path: Path) -> None:
    """The projector as it ships: float16."""
    save_file({name: value.detach().half().contiguous() for name, value in projector.state_dict().items()}, path)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("decoder", "encoder", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--spelling", type=float, default=15, help="minutes")
    parser.add_argument("--alignment", type=float, default=30, help="minutes")
    parser.add_argument("--batch", type=int, nargs=2, default=(4, 2), help="transcriptions and instructions of a step")
    parser.add_argument("--longest", type=int, default=75, help="frames of a sentence that is aligned, 25 a second")
    asked = parser.parse_args()
    progress.speak("lines")
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    projector = Projector()

    whole, processor = assemble(asked.decoder, asked.encoder, projector.state_dict(), torch.float32)
    listener = features.Listener(whole.model.audio_tower, processor.feature_extractor)
    del whole
    known = [json.loads((f / "tokenizer.json").read_text())["model"]["vocab"] for f in (asked.encoder, asked.decoder)]
    words = word_list(*known)
    features.write(sentences(words), "train", listener, asked.out / "train")
    held_out = instructions(128, "held_out") + sayings(64, seed=1)
    features.write(held_out, "held_out", listener, asked.out / "held_out")
    spoken = features.read(asked.out / "train")

    tokenizer = AutoTokenizer.from_pretrained(asked.decoder)
    frozen: Any = AutoModelForCausalLM.from_pretrained(asked.decoder, dtype=torch.float32)
    decoder = Decoder(frozen.eval().requires_grad_(False), tokenizer)
    spelling = Spelling(tokenizer, decoder.embeddings, lambda: spoken)

    def spelt(step: int, loss: float) -> None:
        if step % 100 == 0:
            progress.say(f"spelling: step {step}, loss {loss:.2f} nats a token")

    spell(projector, spelling, budget(60 * asked.spelling), spelt)
    save(projector, asked.out / "step-000.safetensors")

    def aligned(step: int, read: float, followed: float) -> None:
        if step % 5 == 0:
            progress.say(f"alignment: step {step}, repeating {read:.2f}, following {followed:.2f} nats a token")
        if step in MARKS:
            save(projector, asked.out / f"step-{step:03d}.safetensors")

    short = [row for row in spoken if row.sentence.kind != "run" and len(row.frames) <= asked.longest]
    batch = (asked.batch[0], asked.batch[1])
    until = budget(60 * asked.alignment)
    align(projector, decoder, lambda: short, until, lambda: spelling.loss(projector), aligned, batch)
    save(projector, asked.out / "projector.safetensors")


if __name__ == "__main__":
    main()
