"""Loading a judge: any Hugging Face model and what encodes for it, where and how the user says."""

from pathlib import Path
from typing import Any

from ..errors import ModelError

CHUNK = 8192
"""Attention chunk of Llama 4, which its guard's configuration leaves out."""


def pretrained(
    name: str | Path,
    kind: str,
    *,
    device_map: Any = None,
    dtype: Any = None,
    revision: str | None = None,
    sees: bool = False,
) -> tuple[Any, Any]:
    """A model in evaluation mode and its tokenizer, or its processor for one that sees.

    Args:
        name: a folder or hub id.
        kind: name of transformers' auto class.
        device_map, dtype, revision: as transformers takes them; its defaults where they are None.
        sees: whether the processor is wanted.

    Raises:
        ModelError: it cannot be loaded, or needs a package that is not installed (`peft` for an adapter).
    """
    import transformers

    given = {"device_map": device_map, "dtype": dtype}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    tools = transformers.AutoProcessor if sees else transformers.AutoTokenizer
    try:
        if sees:
            config = transformers.AutoConfig.from_pretrained(name, revision=revision)
            text = getattr(config, "text_config", None)
            if text is not None and getattr(text, "attention_chunk_size", CHUNK) is None:
                text.attention_chunk_size = CHUNK
            options["config"] = config
        model = getattr(transformers, kind).from_pretrained(name, revision=revision, **options)
        return model.eval().requires_grad_(False), tools.from_pretrained(name, revision=revision)
    except (ImportError, OSError, ValueError) as error:
        why = " ".join(str(error).split())[:160]
        do = "give a folder or hub id of such a model, and accept its terms where it is gated"
        raise ModelError(f"load judge '{name}'", why, do) from None
