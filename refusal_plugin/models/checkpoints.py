"""From what the user named to a Hugging Face module, tokenizer and processor; every failure is one clear line."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from ..organism import NAMES, checkpoint_path, require_spelled
from ..prompts.prompt import MEDIA
from . import spoken
from .probe import one_line
from .processors import LoadedProcessor, checkpoint_file, load_processor

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PARTS_OF_LARGER = {
    # The full model is a thinker, a talker and a vocoder; refusal is decided in the thinker, which its files hold.
    "Qwen2_5OmniModel": "Qwen2_5OmniThinkerForConditionalGeneration",
    "Qwen2_5OmniForConditionalGeneration": "Qwen2_5OmniThinkerForConditionalGeneration",
    "Qwen3OmniMoeForConditionalGeneration": "Qwen3OmniMoeThinkerForConditionalGeneration",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint by name.

    Attributes:
        name: as the user said it.
        location: folder or hub id that transformers can read.
        embedded: it is one of the checkpoints of this package.
        revision: branch, tag or commit on the hub.
        trust_remote_code: whether code in the repository may run.
        gguf_file: name of the GGUF file that holds configuration, tokenizer and weights; None without one.
    """

    name: str
    location: str
    embedded: bool
    revision: str | None
    trust_remote_code: bool
    gguf_file: str | None = None

    @property
    def asked(self) -> str:
        return f"load {self.name!r}"

    def _options(self) -> dict[str, Any]:
        # transformers refuses revision= beside a folder only in part of its functions, so it is never given there.
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if self.revision is not None:
            options["revision"] = self.revision
        if self.gguf_file is not None:
            options["gguf_file"] = self.gguf_file
        return options

    def config(self) -> Any:
        """The configuration of the checkpoint."""
        from transformers import AutoConfig

        folder, written = Path(self.location), self.gguf_file or "config.json"
        if folder.is_dir() and not (folder / written).is_file():
            raise ModelError(self.asked, f"the folder {self.location} has no {written}", "name a checkpoint folder")
        if self.gguf_file is not None and find_spec("gguf") is None:
            raise ModelError(self.asked, "GGUF files need gguf, which is not installed", "pip install gguf")
        try:
            return AutoConfig.from_pretrained(self.location, **self._options())
        except Exception as error:
            raise self._failure(error, "configuration") from error

    def tokenizer(self) -> Any:
        """The tokenizer of the checkpoint."""
        from transformers import AutoTokenizer

        do = "add its tokenizer files, or pass tokenizer="
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.location, **self._options())
        except Exception as error:
            found = f"the checkpoint has no tokenizer that loads ({type(error).__name__}: {one_line(error)})"
            raise ModelError(self.asked, found, do) from error
        # Without any tokenizer file transformers makes an empty tokenizer of the model's class and says nothing.
        if len(tokenizer) - len(tokenizer.all_special_ids) < 1:
            raise ModelError(self.asked, "the checkpoint has no tokenizer files", do)
        return tokenizer

    def processor(self, config: Any) -> LoadedProcessor:
        """The processor of the checkpoint, and what is missing of it; without one the model still takes text."""
        try:
            ours = self._embedded_processor(config)
        except Exception as error:
            return LoadedProcessor(None, dict.fromkeys(MEDIA, f"{type(error).__name__}: {one_line(error)}"))
        return LoadedProcessor(ours) if ours is not None else load_processor(self.location, config, self._options())

    def _embedded_processor(self, config: Any) -> Any | None:
        """The processor of the embedded family, also for a copy in a folder or on a hub; None for other checkpoints.

        Such a checkpoint names Hugging Face's sound-only processor, so that a server without this package can load it.
        """
        if getattr(config, "model_type", "") != "qwen2_5_omni_thinker":
            return None
        written = checkpoint_file(self.location, "preprocessor_config.json", self.revision)
        if written is None or json.loads(written.read_text()).get("processor_class") != "Qwen2AudioProcessor":
            return None
        from ..organism.processor import OmniProcessor

        return OmniProcessor.from_pretrained(written.parent, self.tokenizer())

    def module(
        self, config: Any, dtype: torch.dtype | str, attention: str | None, weights: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """The weights, in evaluation mode; refused if tensors are missing, misshapen or damaged.

        Args:
            config: configuration of the checkpoint.
            dtype: of the weights.
            attention: implementation of attention; None leaves the choice to transformers.
            weights: `device_map`, `max_memory`, `quantization_config`; without them the weights are on the CPU.
        """
        model_class = class_for(config, self.asked)
        options = self._options() | dict(weights or {})
        if attention is not None:
            options["attn_implementation"] = attention
        try:
            with _progress(not self.embedded):
                loaded, report = model_class.from_pretrained(
                    self.location, dtype=dtype, output_loading_info=True, **options
                )
        except Exception as error:
            raise self._failure(error, "weights") from error
        missing = sorted(report.get("missing_keys", ()))
        if missing:
            found = f"the weights lack {len(missing)} tensors of {model_class.__name__} (first: {missing[0]})"
            raise ModelError(self.asked, found, "download or save the checkpoint again")
        module: nn.Module = loaded
        return module

    def _failure(self, error: Exception, what: str) -> ModelError:
        cause = f"{type(error).__name__}: {one_line(error)}"
        text = str(error)
        if isinstance(error, ModelError):
            return error
        if "does not recognize this architecture" in text or "Unrecognized model" in text:
            return ModelError(
                self.asked,
                f"transformers does not know this architecture ({one_line(error)})",
                "update transformers, or pass trust_remote_code=True if you trust the repository",
            )
        if isinstance(error, ImportError) or (" requires " in text and "pip install" in text):
            return ModelError(self.asked, f"its {what} need a package that is not installed ({cause})", "install it")
        if "safetensor" in type(error).__name__.lower():
            found = f"a weight file is damaged ({cause})"
            return ModelError(self.asked, found, "download or save the checkpoint again")
        if "attention implementation" in text or "attn_implementation" in text:
            do = 'use attn_implementation="eager", or leave it to the model'
            return ModelError(self.asked, f"the model has no such attention implementation ({cause})", do)
        if "size mismatch" in text or "mismatched" in text.lower():
            found = f"weights and config.json disagree ({cause})"
            return ModelError(self.asked, found, "download or save the checkpoint again")
        if Path(self.location).is_dir():
            return ModelError(self.asked, f"the folder has no readable {what} ({cause})", "check the files in it")
        return ModelError(
            self.asked,
            f"no such folder, and no {what} under that id on the hub or in its cache ({cause})",
            f"check the spelling and the network, or use one of {', '.join(NAMES)}",
        )


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """Hide transformers' progress bar, which for the embedded model is over before it can be read."""
    from transformers.utils import logging as module

    logging: Any = module

    enabled = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def find_checkpoint(
    name: str, revision: str | None, trust_remote_code: bool, gguf_file: str | None = None
) -> Checkpoint:
    """Resolve a name: an embedded model, a folder, or a hub id, in this order.

    Raises:
        ModelError: it is none of them by its form, or the embedded checkpoint is not installed.
    """
    if name in NAMES:
        return Checkpoint(name, str(checkpoint_path(name)), True, None, False)
    if name == spoken.NAME:
        return Checkpoint(name, str(spoken.assembled_folder()), False, None, False)
    require_spelled(name)
    path = Path(name).expanduser()
    if not name.strip():
        raise ModelError("load a model", "an empty name", f"use one of {', '.join(NAMES)}, a folder or a hub id")
    if path.is_dir():
        return Checkpoint(name, str(path), False, None, trust_remote_code, gguf_file)
    if path.is_file():
        found = "it is a file, not a checkpoint folder"
        raise ModelError(f"load {name!r}", found, "name the folder that holds config.json")
    if not _HUB_ID.fullmatch(name):
        found = "no such folder, and it is not a hub id (owner/name)"
        raise ModelError(f"load {name!r}", found, f"check the path, or use one of {', '.join(NAMES)}")
    return Checkpoint(name, name, False, revision, trust_remote_code, gguf_file)


def part_of_larger(config: Any) -> str | None:
    """The class of the part that is loaded of an assembled model (Qwen-Omni's thinker); None for other models."""
    return _PARTS_OF_LARGER.get((getattr(config, "architectures", None) or [""])[0])


def class_for(config: Any, asked: str) -> Any:
    """The transformers class to load a configuration with: the one it was saved from, else the generative one for it.

    Raises:
        ModelError: transformers has no decoder for it (encoder-decoders included).
    """
    import transformers

    if getattr(config, "is_encoder_decoder", False):
        found = f"{config.model_type} is an encoder-decoder"
        raise ModelError(asked, found, "use a decoder-only language or multimodal model")
    autos = (
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForMultimodalLM,
        transformers.AutoModelForCausalLM,
    )
    named = part_of_larger(config) or (getattr(config, "architectures", None) or [""])[0]
    written = getattr(transformers, named, None) if named else None
    if written is not None and getattr(written, "can_generate", lambda: False)():
        return written
    for auto in autos:
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    if getattr(config, "auto_map", None):
        return transformers.AutoModelForCausalLM
    found = f"no decoder class for {named or config.model_type!r} in transformers {transformers.__version__}"
    raise ModelError(asked, found, "use a decoder-only language or multimodal model")


def task_for(config: Any, has_processor: bool) -> str:
    """The pipeline task nnsight wraps the model under; on NDIF it is part of the model's key.

    A multimodal model goes as "image-text-to-text" (or "any-to-any", sound only) so that the server builds the class
    that has the towers; these tasks want a processor, and without one the model runs as "text-generation", which is
    enough here because media travel as ready tensors.
    """
    import transformers

    if has_processor:
        if type(config) in transformers.AutoModelForImageTextToText._model_mapping:
            return "image-text-to-text"
        if type(config) in transformers.AutoModelForMultimodalLM._model_mapping:
            return "any-to-any"
    return "text-generation"
