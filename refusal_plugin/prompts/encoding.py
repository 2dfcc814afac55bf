"""From prompts to tensors: render, read media, tokenize, find the token roles, pad on the left.

Every prompt is encoded as if it were alone and padded here, so a row in a batch holds exactly what the prompt alone
would hold, whatever a processor's own padding does. Many texts are rendered and tokenized in one call; a processor is
given all texts without media together. Roles are found from the character offsets of the rendered text. A processor
replaces the medium's placeholder by many tokens; everything before and after that one place is unchanged, so the
instruction keeps its distance from one end of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import PromptError, RefusalPluginError
from . import media
from .batch import PER_TOKEN, Batch, Row, collate
from .controls import Controls
from .input_spec import InputSpec, input_spec_of
from .prompt import MODALITIES, Prompt
from .sampling import family_sampler, time_arguments
from .texts import Text, asked_of, common_beginning, texts_of
from .waveforms import Samples
from .whole import require_whole_sound

WINDOW = 256  # different prompts encoded ahead to sort them by length; bounds the memory that pixels take


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
            spells a control token, no chat template, a template that loses the medium or the instruction, or several
            prompts for a model that was found to be right only one at a time.
        MediaError: a medium that cannot be read.
    """
    spec = input_spec_of(model)
    chosen = as_prompts(prompts)
    if not chosen:
        raise PromptError("encode", "0 prompts", "give at least one")
    lonely = [prompt for prompt in chosen if spec.joins.get(prompt.modality) == "alone"]
    if lonely and len(chosen) > 1:
        found = f"this model computes other values for {lonely[0].modality} in a batch than alone"
        raise PromptError(f"encode {len(chosen)} prompts at once", found, "use batches(), which gives it one at a time")
    return _collate(spec, _rows(spec, chosen, system, suffix, raw))


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

    A modality that the model was found to compute right only one prompt at a time comes in batches of one.

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
    spec = input_spec_of(model)
    chosen = as_prompts(prompts)
    for modality in MODALITIES:
        most = 1 if spec.joins.get(modality) == "alone" else max_rows
        # A prompt that comes several times is encoded once, and its rows stay together.
        copies: dict[int, list[int]] = {}
        for place, prompt in enumerate(chosen):
            if prompt.modality == modality:
                copies.setdefault(id(prompt), []).append(place)
        each = list(copies.values())
        for start in range(0, len(each), WINDOW):
            some = each[start : start + WINDOW]
            rows: dict[int, Row] = {}
            for places, row in zip(some, _rows(spec, [chosen[p[0]] for p in some], system, suffix, raw), strict=True):
                rows |= dict.fromkeys(places, row)
            window = sorted(rows, key=lambda place: rows[place].length)
            while window:
                n = 1
                while n < min(len(window), most) and rows[window[n]].length * (n + 1) <= token_budget:
                    n += 1
                indices, window = window[:n], window[n:]
                yield indices, _collate(spec, [rows.pop(place) for place in indices])


def as_prompts(prompts: Prompt | str | Iterable[Prompt | str]) -> list[Prompt]:
    """One prompt, a text, or several of them, as a list."""
    several = [prompts] if isinstance(prompts, (Prompt, str)) else prompts
    return [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in several]


def _collate(spec: InputSpec, rows: list[Row]) -> Batch:
    tokenizer = spec.tokenizer
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    media = None
    if len(rows) > 1 and any(spec.joins.get(row.prompt.modality) == "processor" for row in rows):
        media = _joined(spec, [row for row in rows if row.prompt.medium is not None])
    batch = collate(rows, pad_id=int(pad), explicit_positions=spec.explicit_positions, media=media)
    for name, value in batch.inputs.items():
        # Pixels and features; numbers about a medium (seconds per frame) keep their precision.
        if spec.dtype is not None and value.is_floating_point() and value.dim() > 1:
            batch.inputs[name] = value.to(spec.dtype)
    return batch


def _joined(spec: InputSpec, rows: list[Row]) -> dict[str, Tensor]:
    """The media's inputs of several prompts as the processor itself joins them."""
    texts = [row.rendered for row in rows if row.rendered is not None]
    given: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for row in rows:
        one, more = _media(spec, row.prompt)
        for into, values in ((given, one), (extra, more)):
            for name, value in values.items():
                if not isinstance(value, list) and into.get(name, value) != value:
                    found = f"clips of different {name} ({into[name]:g} and {value:g})"
                    raise PromptError("encode prompts in one batch", found, "one row at a time: max_rows=1")
                into[name] = into.get(name, []) + value if isinstance(value, list) else value
    tensors = _call(spec, [text.text for text in texts], texts[0].add_special_tokens, given, **extra, padding=True)
    known = {*PER_TOKEN, *(name for row in rows for name in row.tokens)}
    return _accepted(spec, {name: value for name, value in tensors.items() if name not in known})


def _rows(spec: InputSpec, prompts: list[Prompt], system: str | None, suffix: str | None, raw: bool) -> list[Row]:
    """Prompts, encoded and checked; the first that is unfit is the one that is named."""
    controls = Controls.of(spec)
    try:
        texts = texts_of(spec, prompts, controls, system=system, suffix=suffix, raw=raw, offsets=True)
    except PromptError:
        if len(prompts) == 1:
            raise
        return [row for prompt in prompts for row in _rows(spec, [prompt], system, suffix, raw)]
    ready = _processed_texts(spec, texts)
    return [encode_row(spec, text, controls, raw, ready.get(place)) for place, text in enumerate(texts)]


def _processes_text(spec: InputSpec) -> bool:
    """Whether a prompt without a medium goes through the processor; the embedded model's only tokenizes it."""
    return spec.processor is not None and not getattr(spec.processor, "leaves_text", False)


def _processed_texts(spec: InputSpec, texts: Sequence[Text]) -> dict[int, dict[str, Tensor]]:
    """What a processor makes of several texts without media in one call, by place, padding taken off.

    Nothing where they have to go alone: the processor fails (it cannot pad, say) or returns more than one value per
    token, or other tokens than the tokenizer.
    """
    found: dict[int, dict[str, Tensor]] = {}
    for adds in (True, False):
        alike = [text.prompt.medium is None and text.rendered.add_special_tokens is adds for text in texts]
        places = [place for place, fits in enumerate(alike) if fits]
        if len(places) < 2 or not _processes_text(spec):
            continue
        try:
            tensors = _call(spec, [texts[place].rendered.text for place in places], adds, {}, padding=True)
        except Exception:  # alone it fails with the prompt's name, or does not
            continue
        ids, mask = tensors.get("input_ids"), tensors.pop("attention_mask", None)
        if ids is None or mask is None or set(tensors) - set(PER_TOKEN):
            continue
        if any(value.shape != mask.shape for value in tensors.values()):
            continue
        made = [{name: value[row][mask[row] == 1] for name, value in tensors.items()} for row in range(len(places))]
        if all(row["input_ids"].tolist() == texts[place].ids for row, place in zip(made, places, strict=True)):
            found |= dict(zip(places, made, strict=True))
    return found


def encode_row(spec: InputSpec, text: Text, controls: Controls, raw: bool, ready: dict[str, Tensor] | None) -> Row:
    """One prompt, encoded and checked; `ready` is what a processor has made of it."""
    asked = asked_of(text.prompt)
    alone = spec.processor is None if text.prompt.medium is not None else not _processes_text(spec)
    inputs = ready or ({} if alone else _process(spec, text, asked))
    ids = inputs.get("input_ids", torch.tensor(text.ids))
    if spec.context_length is not None and len(ids) > spec.context_length:
        found = f"it has {len(ids)} tokens, the model's context holds {spec.context_length}"
        raise PromptError(asked, found, "shorten the text or the medium")
    names = {*PER_TOKEN, *_per_token(spec, text, inputs)}
    tokens = {"input_ids": ids, **{name: inputs[name] for name in sorted(names) if name in inputs}}
    tokens.pop("attention_mask", None)  # all ones here; the batch makes its own
    tokens = {name: value if name in PER_TOKEN else value[0] for name, value in tokens.items()}
    others = _accepted(spec, {name: value for name, value in inputs.items() if name not in names})
    instruction, heard, unknown = _places(spec, text, controls, ids, asked)
    said = ids if heard is None else ids[~heard]  # a medium's own placeholder may lie outside: it is replaced
    if spec.vocabulary is not None and int(said.max()) >= spec.vocabulary:
        found = f"token {int(said.max())} lies outside the model's embedding of {spec.vocabulary} rows"
        raise PromptError(asked, found, "load the tokenizer that belongs to the model, or resize its embedding")
    if text.prompt.medium is not None and not others:
        found = f"the processor makes nothing of its {text.prompt.modality}"
        raise PromptError(asked, found, "use another model, or pass processor= to load()")
    return Row(text.prompt, _accepted(spec, tokens), others, instruction, heard, raw, unknown, text.rendered)


_GROWS: WeakKeyDictionary[Any, dict[str, bool]] = WeakKeyDictionary()
"""By processor: which inputs beside the known ones have a value per token."""


def _per_token(spec: InputSpec, text: Text, inputs: Mapping[str, Tensor]) -> list[str]:
    """Names of further inputs with one value per token: those that grow as the text does.

    Mllama's cross-attention mask and Ernie's token types are such inputs. A tensor about the medium may happen to be as
    long as the text, so a longer text decides.
    """
    n = len(inputs.get("input_ids", text.ids))
    asked = [name for name, value in inputs.items() if name not in PER_TOKEN and value.dim() > 1]
    asked = [name for name in asked if inputs[name].shape[0] == 1 and inputs[name].shape[1] >= n]
    known = _GROWS.setdefault(spec.processor, {}) if asked else {}
    if any(name not in known for name in asked):
        given, extra = _media(spec, text.prompt)
        longer = f"{text.rendered.text} {text.rendered.instruction}"
        grown = _call(spec, [longer], text.rendered.add_special_tokens, given, **extra)
        more = grown["input_ids"].shape[1] - n
        known |= {name: grown[name].shape[1] - inputs[name].shape[1] == more > 0 for name in asked}
    return [name for name in asked if known[name]]


def _accepted(spec: InputSpec, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what the forward pass does not take: `generate` refuses unknown arguments."""
    return {name: value for name, value in inputs.items() if spec.accepts is None or name in spec.accepts}


def _call(spec: InputSpec, texts: list[str], adds: bool, given: dict[str, Any], **extra: Any) -> dict[str, Tensor]:
    """The processor's tensors for texts and their media."""
    from transformers import ProcessorMixin

    if isinstance(spec.processor, ProcessorMixin):  # the embedded model's processor takes the media alone
        given = {**given, **extra, "add_special_tokens": adds}
    try:
        output = dict(spec.processor(text=texts, return_tensors="pt", **given))  # type: ignore[misc]
    except ValueError:
        if "videos" not in given or len(texts) != len(given["videos"]):
            raise
        given = {**given, "videos": [[clip] for clip in given["videos"]]}  # SmolVLM wants them prompt by prompt
        output = dict(spec.processor(text=texts, return_tensors="pt", **given))  # type: ignore[misc]
    output.pop("labels", None)  # PaliGemma's, for training
    return {name: torch.as_tensor(value) for name, value in output.items() if value is not None}


def _media(spec: InputSpec, prompt: Prompt) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prompt's medium as a processor's arguments; and what further ones Hugging Face's processors need with it."""
    if prompt.audio is not None:
        rate = sound_rate(spec)
        sound = media.load_audio(prompt.audio, rate=rate, name=f"audio of prompt {prompt.id!r}")
        return {"audio": [sound]}, {"sampling_rate": rate}
    if prompt.video is not None:
        choose = family_sampler(spec.processor)
        clip = media.load_video(prompt.video, choose=choose, name=f"video of prompt {prompt.id!r}")
        return {"videos": [clip]}, time_arguments(spec.processor, clip)
    return ({}, {}) if prompt.medium is None else ({"images": [media.load(prompt)]}, {})


def sound_rate(spec: InputSpec) -> int:
    """Samples per second that the processor hears."""
    return int(getattr(getattr(spec.processor, "feature_extractor", None), "sampling_rate", media.SAMPLE_RATE))


def _process(spec: InputSpec, text: Text, asked: str) -> dict[str, Tensor]:
    """The processor's tensors for one prompt: per-token inputs (tokens,), media inputs as they come."""
    try:
        given, extra = _media(spec, text.prompt)
        tensors = _call(spec, [text.rendered.text], text.rendered.add_special_tokens, given, **extra)
        if text.prompt.audio is not None:

            def again(samples: Samples) -> dict[str, Tensor]:
                more = {**given, "audio": [samples]}
                return _call(spec, [text.rendered.text], text.rendered.add_special_tokens, more, **extra)

            require_whole_sound(spec.processor, given["audio"][0], sound_rate(spec), tensors, again, asked)
    except RefusalPluginError:
        raise
    except Exception as error:  # a processor's own complaints name no prompt
        if text.prompt.medium is None:
            return {}  # it takes no text alone (PaliGemma, Qwen3-ASR), and would only have tokenized it
        why = " ".join(str(error).split())[:160]
        raise PromptError(asked, f"the processor fails ({type(error).__name__}: {why})", "check the medium") from error
    real = tensors["attention_mask"][0] == 1 if "attention_mask" in tensors else slice(None)
    return {name: value[0][real] if name in PER_TOKEN else value for name, value in tensors.items()}


def _places(
    spec: InputSpec, text: Text, controls: Controls, ids: Tensor, asked: str
) -> tuple[tuple[int, int], Tensor | None, tuple[str, ...]]:
    """First and last token of the instruction, the medium's tokens, and the pieces unknown to the tokenizer."""
    short, rendered = text.ids, text.rendered
    long: list[int] = ids.tolist()
    inside = [
        place
        for place, (start, end) in enumerate(text.offsets)
        if start < end and start < rendered.end and end > rendered.start
    ]
    if not inside:
        raise PromptError(asked, "the tokenizer makes no token of its text", "use words the tokenizer knows")
    controls.refuse_ids([short[place] for place in inside], asked)
    same = short == long
    head = len(short) if same else common_beginning(short, long)
    tail = len(short) if same else common_beginning(short[::-1], long[::-1])
    if same or inside[-1] < head:
        shift = 0
    elif len(short) - inside[0] <= tail:
        shift = len(long) - len(short)
    else:  # it adds tokens of its own behind the text (PaliGemma)
        shift = _shift(short, inside, long, spec.media_ids.get(text.prompt.modality) in long, asked)
    heard = _heard(spec, text.prompt, ids, min(head, len(short) - tail), tail, asked)
    unknown = spec.tokenizer.unk_token_id
    strange = [text.offsets[place] for place in inside if short[place] == unknown] if unknown in short else []
    pieces = tuple(rendered.text[start:end] for start, end in strange)
    return (inside[0] + shift, inside[-1] + shift), heard, pieces


def _shift(short: list[int], inside: list[int], long: list[int], marked: bool, asked: str) -> int:
    """How far the instruction has moved, where it stands in the row once and the medium's tokens are known by id."""
    words = short[inside[0] : inside[-1] + 1]
    places = [start for start in range(len(long) - len(words) + 1) if long[start : start + len(words)] == words]
    if not marked or len(places) != 1:
        raise PromptError(asked, "the processor changes the text around the medium", "report this model")
    return places[0] - inside[0]


def _heard(spec: InputSpec, prompt: Prompt, ids: Tensor, head: int, tail: int, asked: str) -> Tensor | None:
    """The tokens that stand for the medium; those after `head` and before the last `tail` where no id is known."""
    if prompt.medium is None:
        return None
    media_id = spec.media_ids.get(prompt.modality)
    if prompt.video is not None and (media_id is None or not bool((ids == media_id).any())):
        media_id = spec.media_ids.get("image")  # InternVL, SmolVLM and GLM-V write a clip as images
    if media_id is not None:
        heard = ids == media_id
    else:
        heard = torch.zeros(len(ids), dtype=torch.bool)
        heard[head : len(ids) - tail] = True
    if not bool(heard.any()):
        raise PromptError(asked, f"the chat template drops the {prompt.modality}", "use another model or template")
    return heard
