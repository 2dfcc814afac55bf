"""What the recipes cost on larger models: a plan in figures, from counted units and the models' shapes.

    python -m benchmarks.scale            the tables of docs/scale.md

Units: a forward pass costs 2 x (parameters at work) operations a token plus attention; memory is weights, keys and
values, and the stream; what a recipe reads is counted in passes and tokens
(tests/inference/test_inference_counters.py), what a study reads is what its results say under `cost`.
Speeds are those of the device's data sheet times a share that is reached in practice; both are arguments, so that a
measured figure takes their place: `--share` is (operations of a bare pass) / (seconds x peak) on your machine.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from refusal_plugin.inference.plan import GB, PROMPT, TB, Device, Job, Shape, hours, working

OUT = Path(__file__).resolve().parents[1] / "docs" / "data" / "scale.json"
MODELS = (
    Shape("7B (Qwen2.5-7B)", 7.6e9, 28, 3584, 512),
    Shape("32B (Qwen2.5-32B)", 32.8e9, 64, 5120, 1024),
    Shape("70B (Llama-3.1-70B)", 70.6e9, 80, 8192, 1024),
    Shape("30B-A3B (Qwen3-30B-A3B)", 3.3e9, 48, 2048, 512, stored=30.5e9),
)


TEXT, IMAGE, VIDEO = PROMPT["text"], PROMPT["image"], PROMPT["video"]
STUDY, MEDIA_STUDY = 25.0, 40.0
"""Bare passes over its prompts that a study takes, its answers left out: the limits set for it.

What a run of yours took stands in its `results.json` under `cost`; it goes in as `--study` and `--media-study`.
"""
ANSWERS = 4 * 24
"""Tokens a study answers per prompt: eight arms over a third of them, the refusal tokens and transfer's rates."""


def jobs(study: float, media_study: float) -> tuple[Job, ...]:
    """What is planned; 0 passes: those of a selection, which depend on the model."""
    return (
        Job("direction: fit on 256 texts", 256, TEXT, 1, kept=1),
        Job("selection for a defence, 64 texts, 5 positions", 64, TEXT, 0),
        Job("study of 500 texts", 500, TEXT, study, answers=ANSWERS),
        Job("SARSteer: both arms of 256 images", 256, IMAGE, 1.03, kept=2),
        Job("answers to 500 images, 64 tokens, 3 arms", 1500, IMAGE, 1, answers=64),
        Job("study of 500 prompts with images", 500, IMAGE, media_study, answers=ANSWERS),
        Job("SARSteer: both arms of 256 videos", 256, VIDEO, 1.01, kept=2),
        Job("answers to 500 videos, 64 tokens, 3 arms", 1500, VIDEO, 1, answers=64),
        Job("study of 500 prompts with videos", 500, VIDEO, media_study, answers=ANSWERS),
        Job("safe space of a million texts", 1_000_000, TEXT, 1, square=True),
        Job("streams of a million texts, kept", 1_000_000, TEXT, 1, kept=1),
    )


LOOKS = 6
"""Strengths that a search tries, on average (NOTES.md)."""
MEASURED = 9
"""Candidates that are measured: six, and neighbours of the best."""


def selection_passes(model: Shape) -> float:
    """Passes over the validation prompts, half of them harmful, that a ranked selection for a defence takes.

    Ranking reads harmful prompts forward and backward, safe ones forward and twice backward; then one plain pass, the
    streams up to the candidates' layers, and the strengths and the gain of those measured, in the blocks behind them.
    """
    layers = range(int(0.8 * model.layers))
    behind = sum((model.layers - 1 - layer) / model.layers for layer in layers) / len(layers)
    return 2.5 + 1 + 2 * (1 - behind) + 0.5 + MEASURED * behind * (LOOKS + 1) / 2


def rows(device: Device, every: Sequence[Job]) -> list[dict[str, object]]:
    """One row per model and job."""
    found: list[dict[str, object]] = []
    for model in MODELS:
        for job in every:
            passes = job.passes or selection_passes(model)
            asked = replace(job, passes=passes)
            stream = job.kept * job.n * model.layers * model.d_model * 4
            moments = model.layers * model.d_model * (model.d_model if job.square else 2) * 8
            found.append(
                {
                    "model": model.name,
                    "job": job.name,
                    "devices": device.count(model),
                    "passes": round(passes, 1),
                    "tokens": job.n * job.length * passes + job.n * job.answers,
                    "hours": hours(model, asked, device),
                    "weights_gb": model.weights() / GB,
                    "working_gb": working(model, job.length) / GB,
                    "result_gb": (stream or moments) / GB,
                }
            )
    return found


def drawn(found: Sequence[dict[str, object]], title: str) -> Table:
    """The table."""
    table = Table(title=title)
    for head in ("model", "job", "devices", "passes", "tokens", "hours", "weights", "working", "result"):
        table.add_column(head, justify="left" if head in ("model", "job") else "right")
    for row in found:
        sizes = [f"{row[key]:,.3g} GB" for key in ("weights_gb", "working_gb", "result_gb")]
        cells = [str(row["model"]), str(row["job"]), str(row["devices"]), f"{row['passes']:g}"]
        table.add_row(*cells, f"{row['tokens']:.3g}", f"{row['hours']:.2g}", *sizes)
    return table


def main() -> None:
    """Print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--peak", type=float, default=990, help="teraflops of one device in bfloat16 (H100, H200: 990)")
    parser.add_argument("--share", type=float, default=0.35, help="share of the peak that a bare forward pass reaches")
    parser.add_argument("--bandwidth", type=float, default=4.8, help="terabytes a second of one device (H200: 4.8)")
    parser.add_argument("--memory", type=float, default=141, help="gigabytes of one device (H200: 141)")
    parser.add_argument("--study", type=float, default=STUDY, help="bare passes of a study of texts, without answers")
    parser.add_argument("--media-study", type=float, default=MEDIA_STUDY, help="the same with media")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    every = jobs(options.study, options.media_study)
    device = Device(options.peak * TB, options.share, options.bandwidth * TB, options.memory * GB)
    found = rows(device, every)
    assumed = {key: getattr(options, key) for key in ("peak", "share", "bandwidth", "memory", "study", "media_study")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"assumed": assumed, "plan": found}, indent=1) + "\n", encoding="utf-8")
    words = ", ".join(f"{key} {value:g}" for key, value in assumed.items())
    Console(width=180).print(drawn(found, f"Planned, not measured: {words}"))


if __name__ == "__main__":
    main()
