"""From prompts to tensors: render, read media, tokenize, find the token roles, pad on the left.

Every prompt is encoded by itself and padded here, so a row in a batch holds exactly what the prompt alone would hold,
whatever a processor's own padding does. Roles are found from the character offsets of the rendered text. A processor
replaces the medium's placeholder by many tokens; everything before and after that one place is unchanged, so the
instruction keeps its distance from one end of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from refusal_plugin.errors import PromptError
from refusal_plugin.prompts import media
from refusal_plugin.prompts.batch import PER_TOKEN, Batch, Row, TokenRole, collate
from refusal_plugin.prompts.chat import Rendered, render
from refusal_plugin.prompts.prompt import MODALITIES, Prompt
from refusal_plugin.prompts.source import Source, source_of

WINDOW = 256  # different prompts encoded ahead to sort them by length; bounds the memory that pixels take

_ARGUMENT = {"image": "images", "video": "videos"}


def encode(
    model: Any,
    prompts: Prompt | str | Iterable[Prompt | str],
    *,
    system: str | None = None,
    suffix: str | None = None,
    raw: bool = False,
) -> Batch:
    """Encodes prompts as one left-padded batch, modalities mixed as they come.

    Args:
        model: a model loaded by `refusal_plugin.models.load`.
        prompts: one or several; a string is a text prompt.
        system: system text; None leaves the chat template its own default.
        suffix: text appended inside the user turn, after one space.
        raw: no chat template, the text alone; text prompts only.

    Raises:
        PromptError: 0 prompts, a modality the model does not take, a prompt longer than the context, a text that
            spells a control token, no chat template, or a template that loses the medium or the instruction.
        MediaError: a medium that cannot be read.
    """
    source = source_of(model)
    chosen = _as_prompts(prompts)
    if not chosen:
        raise PromptError("encode", "0 prompts", "give at least one")
    return _collate(source, [_row(source, prompt, system, suffix, raw) for prompt in chosen])


def batches(
    model: Any,
    prompts: Iterable[Prompt | str],
    *,
    token_budget: int = 4096,
    max_rows: int = 64,
    system: str | None = None,
    suffix: str | None = None,
    raw: bool = False,
) -> Iterator[tuple[list[int], Batch]]:
    """Encodes prompts in batches of one modality and of similar length; the same batches every time.

    Args:
        model, prompts, system, suffix, raw: as for `encode`.
        token_budget: most tokens in a batch, padding included; a longer prompt makes a batch of its own.
        max_rows: most rows in a batch.

    Yields:
        the rows' indices in `prompts`, and their batch. Every prompt comes exactly once; nothing for 0 prompts.

    Raises:
        PromptError, MediaError: as for `encode`, when the prompt's turn comes.
    """
    if token_budget < 1 or max_rows < 1:
        raise PromptError(f"batches of {token_budget} tokens and {max_rows} rows", "fewer than 1", "give at least 1")
    source = source_of(model)
    chosen = _as_prompts(prompts)
    for modality in MODALITIES:
        # A prompt that comes several times is encoded once, and its rows stay together.
        copies: dict[int, list[int]] = {}
        for place, prompt in enumerate(chosen):
            if prompt.modality == modality:
                copies.setdefault(id(prompt), []).append(place)
        each = list(copies.values())
        for start in range(0, len(each), WINDOW):
            rows: dict[int, Row] = {}
            for places in each[start : start + WINDOW]:
                rows |= dict.fromkeys(places, _row(source, chosen[places[0]], system, suffix, raw))
            window = sorted(rows, key=lambda place: rows[place].length)
            while window:
                n = 1
                while n < min(len(window), max_rows) and rows[window[n]].length * (n + 1) <= token_budget:
                    n += 1
                indices, window = window[:n], window[n:]
                yield indices, _collate(source, [rows.pop(place) for place in indices])


def _as_prompts(prompts: Prompt | str | Iterable[Prompt | str]) -> list[Prompt]:
    several = [prompts] if isinstance(prompts, (Prompt, str)) else prompts
    return [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in several]


def _collate(source: Source, rows: list[Row]) -> Batch:
    tokenizer = source.tokenizer
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return collate(rows, pad_id=int(pad), explicit_positions=source.explicit_positions)


def _row(source: Source, prompt: Prompt, system: str | None, suffix: str | None, raw: bool) -> Row:
    """One prompt, encoded and checked."""
    asked = f"encode prompt {prompt.id!r}"
    if prompt.modality not in source.modalities:
        takes = ", ".join(source.modalities)
        raise PromptError(asked, f"it holds {prompt.modality}, the model takes {takes}", "filter by modality")
    rendered = render(source, prompt, system=system, suffix=suffix, raw=raw)
    plain = tokenize(source, rendered, asked)
    inputs = _process(source, prompt, rendered, asked) if source.processor is not None else {}
    ids = inputs.get("input_ids", torch.tensor(plain["input_ids"]))
    if source.context_length is not None and len(ids) > source.context_length:
        found = f"it has {len(ids)} tokens, the model's context holds {source.context_length}"
        raise PromptError(asked, found, "shorten the text or the medium")
    tokens = {"input_ids": ids, **{name: inputs[name] for name in PER_TOKEN if name in inputs}}
    tokens.pop("attention_mask", None)  # all ones here; the batch makes its own
    others = {name: value for name, value in inputs.items() if name not in PER_TOKEN}
    roles, unknown = _roles(source, prompt, rendered, plain, ids, raw, asked)
    return Row(prompt, _accepted(source, tokens), _accepted(source, others), roles, unknown)


def _accepted(source: Source, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what the forward pass does not take: `generate` refuses unknown arguments."""
    return {name: value for name, value in inputs.items() if source.accepts is None or name in source.accepts}


def tokenize(source: Source, rendered: Rendered, asked: str) -> Mapping[str, Any]:
    """Token ids and character offsets of the rendered text, placeholders as single tokens."""
    if not source.tokenizer.is_fast:
        raise PromptError(asked, "the tokenizer gives no character offsets", "load the model with its fast tokenizer")
    encoded: Mapping[str, Any] = source.tokenizer(
        rendered.text, add_special_tokens=rendered.add_special_tokens, return_offsets_mapping=True
    )
    return encoded


def _process(source: Source, prompt: Prompt, rendered: Rendered, asked: str) -> dict[str, Tensor]:
    """The processor's tensors for one prompt: per-token inputs (tokens,), media inputs as they come."""
    from transformers import ProcessorMixin

    own = not isinstance(source.processor, ProcessorMixin)  # the embedded model's processor takes the media alone
    arguments: dict[str, Any] = {"text": [rendered.text], "return_tensors": "pt"}
    extra: dict[str, Any] = {"add_special_tokens": rendered.add_special_tokens}
    if prompt.audio is not None:
        rate = int(getattr(getattr(source.processor, "feature_extractor", None), "sampling_rate", media.SAMPLE_RATE))
        name = f"audio of prompt {prompt.id!r}"
        arguments["audio"] = [media.load_audio(prompt.audio, rate=rate, name=name)]
        extra["sampling_rate"] = rate
    elif prompt.medium is not None:
        arguments[_ARGUMENT[prompt.modality]] = [media.load(prompt)]
    if prompt.video is not None:
        extra["do_sample_frames"] = False  # load_video has taken the frames already
    try:
        output = dict(source.processor(**arguments, **({} if own else extra)))  # type: ignore[misc]
    except PromptError:
        raise
    except Exception as error:  # a processor's own complaints name no prompt
        why = " ".join(str(error).split())[:160]
        raise PromptError(asked, f"the processor fails ({type(error).__name__}: {why})", "check the medium") from error
    tensors = {name: torch.as_tensor(value) for name, value in output.items() if value is not None}
    real = tensors["attention_mask"][0] == 1 if "attention_mask" in tensors else slice(None)
    return {name: value[0][real] if name in PER_TOKEN else value for name, value in tensors.items()}


def _roles(
    source: Source,
    prompt: Prompt,
    rendered: Rendered,
    plain: Mapping[str, Any],
    ids: Tensor,
    raw: bool,
    asked: str,
) -> tuple[dict[TokenRole, Tensor], tuple[str, ...]]:
    """Token roles, each bool (tokens,), and the pieces of the instruction unknown to the tokenizer."""
    short: list[int] = plain["input_ids"]
    long: list[int] = ids.tolist()
    inside = [
        place
        for place, (start, end) in enumerate(plain["offset_mapping"])
        if start < end and start < rendered.end and end > rendered.start
    ]
    if not inside:
        raise PromptError(asked, "the tokenizer makes no token of its text", "use words the tokenizer knows")
    _refuse_control_ids(source, [short[place] for place in inside], asked)
    head = _common(short, long)
    tail = _common(short[::-1], long[::-1])
    if short == long or inside[-1] < head:
        shift = 0
    elif len(short) - inside[0] <= tail:
        shift = len(long) - len(short)
    else:
        raise PromptError(asked, "the processor changes the text around the medium", "report this model")
    media_mask = torch.zeros(len(long), dtype=torch.bool)
    if prompt.medium is not None:
        media_id = source.media_ids.get(prompt.modality)
        if media_id is not None:
            media_mask = ids == media_id
        else:  # no known id: what the processor put in
            media_mask[min(head, len(short) - tail) : len(long) - tail] = True
        if not bool(media_mask.any()):
            raise PromptError(asked, f"the chat template drops the {prompt.modality}", "use another model or template")
    first, last = inside[0] + shift, inside[-1] + shift
    places = torch.arange(len(long))
    roles: dict[TokenRole, Tensor] = {
        "last": places == len(long) - 1,
        "instruction": (places >= first) & (places <= last) & ~media_mask,
        "media": media_mask,
        "post_instruction": (places > last) & ~media_mask & (not raw),
    }
    offsets = plain["offset_mapping"]
    strange = [offsets[place] for place in inside if short[place] == source.tokenizer.unk_token_id]
    return roles, tuple(rendered.text[start:end] for start, end in strange)


def _refuse_control_ids(source: Source, ids: list[int], asked: str) -> None:
    """The last word on control tokens in a user's text: also those that only the tokenizer's normaliser brings out."""
    tokenizer = source.tokenizer
    controls = {*tokenizer.all_special_ids, *source.media_ids.values()} - {tokenizer.unk_token_id}
    found = [token for token in ids if token in controls]
    if found:
        name = tokenizer.convert_ids_to_tokens(found[0])
        raise PromptError(f"{asked}: its text", f"it becomes the control token {name!r}", "remove it")


def _common(left: list[int], right: list[int]) -> int:
    """Length of the common beginning."""
    n = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        n += 1
    return n
