"""From prompts to tensors: render, read media, tokenize, find the token roles, pad on the left.

Every prompt is encoded as if it were alone and padded here, so a row in a batch holds exactly what the prompt alone
would hold, whatever a processor's own padding does. Many texts are rendered and tokenized in one call; a processor is
given all texts without media together. Roles are found from the character offsets of the rendered text. A processor
replaces a medium's placeholder by many tokens; everything before the first and after the last of them is unchanged, so
a text there keeps its distance from one end of the row. One between two media is found by the tokens that stand for no
medium, which are the same in both, or, where a processor adds some of its own, by its own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import PromptError, RefusalPluginError
from . import media
from .batch import PER_TOKEN, Batch, Row, collate
from .controls import Controls
from .conversation import MEDIA
from .input_spec import InputSpec, input_spec_of
from .prompt import EVERY_MODALITY, Prompt
from .sampling import family_sampler, time_arguments
from .texts import Text, asked_of, common_beginning, texts_of
from .thinking import thinking_block
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
    lonely = [prompt for prompt in chosen if spec.join_of(prompt) == "alone"]
    if lonely and len(chosen) > 1:
        several = "several media" if len(lonely[0].media) > 1 else lonely[0].modality
        found = f"this model computes other values for {several} in a batch than alone"
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
    for modality, several in product(EVERY_MODALITY, (False, True)):
        # A prompt that comes several times is encoded once, and its rows stay together.
        copies: dict[int, list[int]] = {}
        for place, prompt in enumerate(chosen):
            if prompt.modality == modality and several is (len(prompt.media) > 1):
                copies.setdefault(id(prompt), []).append(place)
        each = list(copies.values())
        most = 1 if each and spec.join_of(chosen[each[0][0]]) == "alone" else max_rows
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
    if len(rows) > 1 and any(spec.join_of(row.prompt) == "processor" for row in rows):
        media = _joined(spec, [row for row in rows if row.prompt.media])
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
            _join_arguments(into, values, "encode prompts in one batch", "one row at a time: max_rows=1")
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
        alike = [not text.prompt.media and text.rendered.add_special_tokens is adds for text in texts]
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
    alone = spec.processor is None if text.prompt.media else not _processes_text(spec)
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
    turns, thinking, heard, unknown = _places(spec, text, controls, ids, asked)
    said = ids if heard is None else ids[~heard]  # a medium's own placeholder may lie outside: it is replaced
    if spec.vocabulary is not None and int(said.max()) >= spec.vocabulary:
        found = f"token {int(said.max())} lies outside the model's embedding of {spec.vocabulary} rows"
        raise PromptError(asked, found, "load the tokenizer that belongs to the model, or resize its embedding")
    if text.prompt.media and not others:
        found = f"the processor makes nothing of its {text.prompt.modality}"
        raise PromptError(asked, found, "use another model, or pass processor= to load()")
    return Row(text.prompt, _accepted(spec, tokens), others, turns, thinking, heard, raw, unknown, text.rendered)


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
        if "videos" not in given or len(texts) not in (1, len(given["videos"])):
            raise
        clips = given["videos"]
        given = {**given, "videos": [clips] if len(texts) == 1 else [[clip] for clip in clips]}  # as SmolVLM wants them
        output = dict(spec.processor(text=texts, return_tensors="pt", **given))  # type: ignore[misc]
    output.pop("labels", None)  # PaliGemma's, for training
    return {name: torch.as_tensor(value) for name, value in output.items() if value is not None}


def _media(spec: InputSpec, prompt: Prompt) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prompt's media as a processor's arguments; and what further ones Hugging Face's processors need with them."""
    given: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for part, name in media.named(prompt):
        more: dict[str, Any] = {}
        if part.kind == "audio":
            more = {"sampling_rate": sound_rate(spec)}
            given.setdefault("audio", []).append(media.load_audio(part.value, rate=sound_rate(spec), name=name))
        elif part.kind == "video":
            clip = media.load_video(part.value, choose=family_sampler(spec.processor), name=name)
            given.setdefault("videos", []).append(clip)
            more = time_arguments(spec.processor, clip)
        else:
            given.setdefault("images", []).append(media.load_image(part.value, name=name))
        _join_arguments(extra, more, f"encode prompt {prompt.id!r}", "give clips of one rate")
    return given, extra


def _join_arguments(into: dict[str, Any], more: Mapping[str, Any], asked: str, do: str) -> None:
    """Arguments of one more medium to those of others: lists go one behind another, and the rest has to agree."""
    for name, value in more.items():
        if not isinstance(value, list) and into.get(name, value) != value:
            raise PromptError(asked, f"clips of different {name} ({into[name]:g} and {value:g})", do)
        into[name] = into.get(name, []) + value if isinstance(value, list) else value


def sound_rate(spec: InputSpec) -> int:
    """Samples per second that the processor hears."""
    return int(getattr(getattr(spec.processor, "feature_extractor", None), "sampling_rate", media.SAMPLE_RATE))


def _process(spec: InputSpec, text: Text, asked: str) -> dict[str, Tensor]:
    """The processor's tensors for one prompt: per-token inputs (tokens,), media inputs as they come."""
    try:
        given, extra = _media(spec, text.prompt)
        tensors = _call(spec, [text.rendered.text], text.rendered.add_special_tokens, given, **extra)
        for place, samples in enumerate(given.get("audio", ())):

            def again(other: Samples, place: int = place) -> dict[str, Tensor]:
                sounds = [*given["audio"][:place], other, *given["audio"][place + 1 :]]
                more = {**given, "audio": sounds}
                return _call(spec, [text.rendered.text], text.rendered.add_special_tokens, more, **extra)

            require_whole_sound(spec.processor, samples, sound_rate(spec), tensors, again, asked)
    except RefusalPluginError:
        raise
    except Exception as error:  # a processor's own complaints name no prompt
        if not text.prompt.media:
            return {}  # it takes no text alone (PaliGemma, Qwen3-ASR), and would only have tokenized it
        why = " ".join(str(error).split())[:160]
        raise PromptError(asked, f"the processor fails ({type(error).__name__}: {why})", "check the medium") from error
    real = tensors["attention_mask"][0] == 1 if "attention_mask" in tensors else slice(None)
    return {name: value[0][real] if name in PER_TOKEN else value for name, value in tensors.items()}


def _places(
    spec: InputSpec, text: Text, controls: Controls, ids: Tensor, asked: str
) -> tuple[Tensor, tuple[int, int] | None, Tensor | None, tuple[str, ...]]:
    """The turn of every token of a text, the thinking block, the media's tokens, and the pieces that are unknown."""
    short, rendered = text.ids, text.rendered
    long: list[int] = ids.tolist()
    turns = torch.full((len(long),), -1)
    pieces: list[str] = []
    for span in rendered.spans:
        inside = _inside(text, span.start, span.end)
        if not inside:
            raise PromptError(asked, "the tokenizer makes no token of its text", "use words the tokenizer knows")
        if span.turn <= rendered.asked:
            controls.refuse_ids([short[place] for place in inside], asked)
        first, last = _moved(spec, text, inside, long, asked)
        turns[first : last + 1] = span.turn
        strange = [text.offsets[place] for place in inside if short[place] == spec.tokenizer.unk_token_id]
        pieces += [rendered.text[start:end] for start, end in strange]
    head, tail = common_beginning(short, long), common_beginning(short[::-1], long[::-1])
    heard = _heard(spec, text.prompt, ids, min(head, len(short) - tail), tail, asked)
    if heard is not None:
        turns[heard] = -1
    block = thinking_block(rendered.text, rendered.end)
    thinking: tuple[int, int] | None = None
    if block is not None:
        first, last = _moved(spec, text, _inside(text, block[0], block[1] or len(rendered.text)), long, asked)
        thinking = first, last if block[1] is not None else len(long)
    return turns, thinking, heard, tuple(pieces)


def _inside(text: Text, start: int, end: int) -> list[int]:
    """Tokens that hold a character of a piece of the rendered text."""
    return [n for n, (first, last) in enumerate(text.offsets) if first < last and first < end and last > start]


def _moved(spec: InputSpec, text: Text, inside: list[int], long: list[int], asked: str) -> tuple[int, int]:
    """Where the first and the last of some tokens stand once the processor has put its tokens for the media in."""
    short = text.ids
    if short == long or inside[-1] < common_beginning(short, long):
        return inside[0], inside[-1]
    if len(short) - inside[0] <= common_beginning(short[::-1], long[::-1]):
        shift = len(long) - len(short)
        return inside[0] + shift, inside[-1] + shift
    known = {spec.media_ids[kind] for kind in MEDIA if kind in spec.media_ids}
    before, after = ([n for n, token in enumerate(row) if token not in known] for row in (short, long))
    if [short[n] for n in before] == [long[n] for n in after]:  # between two media
        moved = dict(zip(before, after, strict=True))
        return moved[inside[0]], moved[inside[-1]]
    # A processor adds tokens of its own around media, or behind the text (PaliGemma): then by the words themselves.
    words = short[inside[0] : inside[-1] + 1]
    here, there = (
        [n for n in range(len(row) - len(words) + 1) if row[n : n + len(words)] == words] for row in (short, long)
    )
    if not known & set(long) or len(here) != len(there):
        raise PromptError(asked, "the processor changes the text around the medium", "report this model")
    first = there[here.index(inside[0])]
    return first, first + inside[-1] - inside[0]


def _heard(spec: InputSpec, prompt: Prompt, ids: Tensor, head: int, tail: int, asked: str) -> Tensor | None:
    """The tokens that stand for media; those after `head` and before the last `tail` where no id is known."""
    if not prompt.media:
        return None
    heard = torch.zeros(len(ids), dtype=torch.bool)
    for kind in dict.fromkeys(part.kind for part in prompt.media):
        media_id = spec.media_ids.get(kind)
        if kind == "video" and (media_id is None or not bool((ids == media_id).any())):
            media_id = spec.media_ids.get("image")  # InternVL, SmolVLM and GLM-V write a clip as images
        own = torch.zeros_like(heard) if media_id is None else ids == media_id
        if media_id is None and len(prompt.media) > 1:
            raise PromptError(asked, f"no token of its own stands for {kind}", "give this model one medium a prompt")
        if media_id is None:
            own[head : len(ids) - tail] = True
        if not bool(own.any()):
            raise PromptError(asked, f"the chat template drops the {kind}", "use another model or template")
        heard |= own
    return heard
