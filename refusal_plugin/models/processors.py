"""The processor of a checkpoint: whole, or with the parts that load here.

transformers loads a processor whole or not at all, so that a video processor, which needs torchvision, takes images and
sound along although theirs run on Pillow and NumPy. Here every part is loaded on its own; what is missing is told by
modality, with its reason.
"""

import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..prompts.prompt import MEDIA, Modality
from .probe import one_line

PARTS: Mapping[Modality, tuple[str, ...]] = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
"""Names of the parts of a Hugging Face processor by what they read."""

_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_PACKAGE = re.compile(r"requires the (\w+) library|No module named '(\w+)|Package `(\w+)` is required", re.IGNORECASE)
_COMMANDS = {"torchvision": 'pip install "refusal-plugin[vision]"', "mistral_common": "pip install mistral-common"}


class MissingPart(dict[str, Any]):
    """Stands for a part of a processor that does not load here, with the values of its file.

    Processors read sizes of parts that they do not call: Qwen2.5-Omni asks its video part for `merge_size` whatever it
    is given.
    """

    model_input_names: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


@dataclass(frozen=True)
class LoadedProcessor:
    """What a checkpoint has for turning media into tensors.

    Attributes:
        processor: a Hugging Face processor, a `MissingPart` for what does not load; None if nothing loads.
        missing: why a modality cannot be read, for those whose part does not load.
    """

    processor: Any | None
    missing: Mapping[Modality, str] = field(default_factory=dict)


def load_processor(location: str, config: Any, options: Mapping[str, Any]) -> LoadedProcessor:
    """Load the processor of a checkpoint, or as many of its parts as load here.

    Args:
        location: folder or hub id.
        config: configuration of the model, which names the processor where no file does.
        options: `revision` and `trust_remote_code`.
    """
    from transformers import AutoProcessor, ProcessorMixin

    auto: Any = AutoProcessor
    try:
        whole = auto.from_pretrained(location, **options)
    except Exception as error:  # whatever it is, it is a matter of media only
        reason = _reason(error)
    else:
        if isinstance(whole, ProcessorMixin) or not type(whole).__module__.startswith("transformers."):
            return LoadedProcessor(whole)
        reason = f"the checkpoint has a {type(whole).__name__} and no processor"
    try:
        kind = _processor_class(location, config, options)
        if kind is not None:
            return _in_parts(kind, location, options)
    except Exception as error:
        reason = _reason(error)
    return LoadedProcessor(None, dict.fromkeys(MEDIA, reason))


def reads(processor: Any, modality: Modality) -> bool:
    """Whether a processor of Hugging Face has its part for a modality."""
    found = (getattr(processor, name, None) for name in PARTS.get(modality, ()))
    return any(part is not None and not isinstance(part, MissingPart) for part in found)


def processor_class_for(config: Any) -> Any | None:
    """The processor class that transformers has for a configuration; None if it has none that can be imported here."""
    from transformers import ProcessorMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind = PROCESSOR_MAPPING.get(type(config), None)
    return kind if isinstance(kind, type) and issubclass(kind, ProcessorMixin) else None


def installing(reason: str) -> str | None:
    """The command that mends a missing modality; None where installing a package is no help."""
    named = re.search(r"it needs (\w+), which is not installed", reason)
    return None if named is None else _COMMANDS.get(named[1], f"pip install {named[1]}")


def _in_parts(kind: Any, location: str, options: Mapping[str, Any]) -> LoadedProcessor:
    import transformers

    autos = {
        "image_processor": transformers.AutoImageProcessor,
        "video_processor": transformers.AutoVideoProcessor,
        "feature_extractor": transformers.AutoFeatureExtractor,
        "audio_processor": transformers.AutoFeatureExtractor,
        "tokenizer": transformers.AutoTokenizer,
    }
    parts: list[Any] = []
    missing: dict[Modality, str] = {}
    for name in kind.get_attributes():
        auto: Any = autos.get(name)
        if auto is None:
            raise ValueError(f"{kind.__name__} has a part {name!r} of its own")
        try:
            parts.append(auto.from_pretrained(location, **options))
        except Exception as error:
            if name == "tokenizer":
                raise
            parts.append(MissingPart(_part_values(name, location, options)))
            missing |= {m: _reason(error) for m in MEDIA if name in PARTS[m]}
    written, more = kind.get_processor_dict(location, **options)
    more = {name: value for name, value in more.items() if name not in options}
    return LoadedProcessor(_tolerant(kind).from_args_and_dict(parts, written, **more), missing)


def _part_values(name: str, location: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's files say about a part."""
    nested = _read(location, "processor_config.json", options).get(name, {})
    own = f"{name.removesuffix('_processor')}_preprocessor_config.json"
    return {**_read(location, "preprocessor_config.json", options), **_read(location, own, options), **nested}


def _tolerant(kind: Any) -> Any:
    """A processor class whose parts may be missing; under its own name, because transformers looks at that."""

    def check_argument_for_proper_class(self: Any, name: str, argument: Any) -> Any:
        return None if isinstance(argument, MissingPart) else kind.check_argument_for_proper_class(self, name, argument)

    body = {
        "check_argument_for_proper_class": check_argument_for_proper_class,
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (kind,), body)


def _processor_class(location: str, config: Any, options: Mapping[str, Any]) -> Any | None:
    """The class of a checkpoint's processor: what its files name, else what transformers has for the configuration."""
    import transformers

    named = next((name for file in _FILES if (name := _read(location, file, options).get("processor_class"))), None)
    if named is None:
        return processor_class_for(config)
    known = getattr(transformers, named, None)
    if known is None or issubclass(known, transformers.ProcessorMixin):
        return known
    # A class that refuses to be made, because its module asks for torchvision; the module itself may do without.
    folder = known.__module__.rpartition(".processing_")[2]
    with _pillow_for_torchvision(folder):
        return getattr(importlib.import_module(f"transformers.models.{folder}.processing_{folder}"), named)


def _read(location: str, file: str, options: Mapping[str, Any]) -> dict[str, Any]:
    found = checkpoint_file(location, file, options.get("revision"))
    return {} if found is None else dict(json.loads(found.read_text(encoding="utf-8")))


def checkpoint_file(location: str, file: str, revision: str | None) -> Path | None:
    """A file of a folder or of a hub repository; None if it is not there."""
    from transformers.utils.hub import cached_file

    quietly = {
        f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")
    }
    found = cached_file(location, file, revision=revision, **quietly)
    return None if found is None else Path(found)


@contextmanager
def _pillow_for_torchvision(folder: str) -> Iterator[None]:
    """Let a processor's module that imports its image processor for torchvision (Pixtral) import that for Pillow."""
    wanted = f"transformers.models.{folder}.image_processing_{folder}"
    pillow = f"transformers.models.{folder}.image_processing_pil_{folder}"
    if find_spec("torchvision") is not None or find_spec(pillow) is None:
        yield
        return
    sys.modules[wanted] = importlib.import_module(pillow)
    try:
        yield
    finally:
        del sys.modules[wanted]


def _reason(error: Exception) -> str:
    """Why a part does not load: the missing package where that is it."""
    text = str(error)
    named = re.search(
        r"requires the (\w+) library|No module named '(\w+)|Package `(\w+)` is required", text, re.IGNORECASE
    )
    if named is None:
        return f"{type(error).__name__}: {one_line(error)}"
    return f"it needs {next(filter(None, named.groups())).lower()}, which is not installed"
