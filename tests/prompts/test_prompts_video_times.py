"""Real video time: a clip gives a model what its family's own processor gives for that file.

Needs torchvision, as video processors do; ffmpeg decodes the frames for the family's own processor.
"""

from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import pytest
import torch
from families import FAMILIES
from ffmpeg import needs_ffmpeg
from PIL import Image
from transformers.utils import is_torchvision_available

from refusal_plugin.prompts import Clip, Prompt, encode
from refusal_plugin.prompts.input_spec import InputSpec
from tests.support import torchvision

# transformers looks for torchvision once, when it is first imported.
READY = not torchvision.enable() and is_torchvision_available()
pytestmark = pytest.mark.skipif(not READY, reason="torchvision is not installed: pip install 'refusal-plugin[vision]'")


def source(family: str) -> InputSpec:
    processor = FAMILIES[family]()
    return InputSpec(processor.tokenizer, processor, ("text", "video"), None)


def own(processor: Any, file: Path, text: str, rate: float, seconds: float) -> dict[str, Any]:
    """What the family's own processor gives for all frames of a file, at its own settings or two frames a second."""
    frames = ffmpeg.pixels(file, 64, 48)
    known = {"total_num_frames": len(frames), "fps": rate, "duration": seconds, "height": 48, "width": 64}
    video = processor.video_processor
    more = {} if video.do_sample_frames or video.fps or video.num_frames else {"fps": 2.0}
    nested = [[frames]] if type(processor).__name__ == "SmolVLMProcessor" else [frames]  # prompt by prompt
    found = processor(
        text=[text], videos=nested, video_metadata=[known], do_sample_frames=True, return_tensors="pt", **more
    )
    return dict(found)


@needs_ffmpeg
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("rate", "seconds"), [(30, 4), (10, 6), (24, 3)])
def test_a_file_gives_what_the_familys_own_processor_gives(
    tmp_path: Path, family: str, rate: int, seconds: int
) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'refusal-plugin[audio]'")
    file = ffmpeg.clip(tmp_path / "a.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", rate=rate, seconds=seconds)
    used = source(family)
    turns = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "bake bread"}]}]
    text = used.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    wanted = own(used.processor, file, text, rate, seconds)
    batch = encode(used, Prompt("bake bread", video=file))
    assert batch.inputs["input_ids"].tolist() == torch.as_tensor(wanted["input_ids"]).tolist()
    for name in ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts", "video_second_per_grid"):
        assert (name in batch.inputs) == (name in wanted)
        if name in wanted:
            assert torch.allclose(batch.inputs[name].double(), torch.as_tensor(wanted[name]).double(), atol=1e-6), name


def frames(n: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((48, 64, 3), 8 * level, np.uint8)) for level in range(n)]


@pytest.mark.parametrize(
    ("family", "name"), [("qwen2.5-vl", "second_per_grid_ts"), ("qwen2.5-omni", "video_second_per_grid")]
)
def test_eight_frames_over_four_seconds_are_a_second_a_grid(family: str, name: str) -> None:
    used = source(family)
    for medium, seconds in (
        (frames(8), 1.0),
        (Clip(frames(8), [0.5 * k for k in range(8)]), 1.0),
        (Clip(frames(8), [0.125 * k for k in range(8)]), 0.25),
        (Clip(frames(8), [3.0 * k for k in range(8)]), 6.0),
    ):
        assert encode(used, Prompt("bake", video=medium)).inputs[name].tolist() == pytest.approx([seconds])


def test_stamps_between_frames_are_the_times_of_the_clip() -> None:
    used = source("qwen3-vl")
    batch = encode(used, Prompt("bake", video=Clip(frames(4), [0, 1, 10, 11])))
    shown = used.tokenizer.decode(batch.inputs["input_ids"][0]).replace(" ", "")
    assert "<0.5seconds>" in shown and "<10.5seconds>" in shown
