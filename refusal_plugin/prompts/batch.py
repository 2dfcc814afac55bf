"""A batch: what the model is called with, and which token plays which role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from .conversation import asked_turn

if TYPE_CHECKING:
    from .chat import Rendered
    from .prompt import Prompt

TokenRole: TypeAlias = Literal[
    "last", "instruction", "media", "post_instruction", "prefill", "thinking", "after_thinking"
]
TOKEN_ROLES: tuple[TokenRole, ...] = get_args(TokenRole)
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs known to have one value per token; for others see `encoding`."""


@dataclass(frozen=True, eq=False)
class Row:
    """One encoded prompt, not padded.

    Attributes:
        prompt: where it comes from.
        tokens: per-token inputs, each (tokens, ...).
        media: the inputs of its media, first dimension as the processor gave it.
        turns: of every token of a text, the number of its turn among the prompt's messages; else -1; (tokens,).
        thinking: the first and the last token of the thinking block before the answer; the latter lies beyond the row
            where the block is open; None without a block.
        heard: which tokens stand for a medium, bool (tokens,); None where there is none.
        raw: no chat template, so nothing follows the instruction.
        unknown: pieces of the instruction that the tokenizer does not know.
        rendered: the text that was tokenized; None where it was not rendered here.
    """

    prompt: Prompt
    tokens: Mapping[str, Tensor]
    media: Mapping[str, Tensor]
    turns: Tensor
    thinking: tuple[int, int] | None = None
    heard: Tensor | None = None
    raw: bool = False
    unknown: tuple[str, ...] = ()
    rendered: Rendered | None = None

    @property
    def length(self) -> int:
        """Number of tokens."""
        return int(self.tokens["input_ids"].shape[0])


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Encoded prompts, left padded: the last column is the last token of every row.

    Attributes:
        inputs: keyword arguments of the model's forward pass and of `generate`: `input_ids` and `attention_mask`
            (batch, pos), `position_ids` (batch, pos) where the model would otherwise count the padding, and the
            tensors of the media.
        roles: which tokens play which role, each bool (batch, pos):
            "last": the last prompt token, exactly one per row;
            "instruction": what the user typed in the last user turn, a suffix included; a token that holds a character
            of it and one of the template belongs to the instruction;
            "media": the tokens that stand for media, of all turns; none in a text row;
            "post_instruction": the template's tokens after the last user turn; none in raw mode;
            "prefill": the given beginning of the answer;
            "thinking": the thinking block before the answer, written by the template or given, its marks included;
            "after_thinking": the end of its closing mark and all that follows: what is read there has thought.
            In a conversation a token has one of "instruction", "media", "post_instruction" and "prefill", or it belongs
            to an earlier turn or to the template before the instruction.
        prompts: one per row.
        unknown: per row, the pieces of its texts that the tokenizer does not know (small vocabularies only).
        turns: of every token of a text, the number of its turn among the prompt's messages; -1 for all others,
            (batch, pos).
    """

    inputs: dict[str, Tensor]
    roles: dict[TokenRole, Tensor]
    prompts: tuple[Prompt, ...]
    unknown: tuple[tuple[str, ...], ...] = ()
    turns: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.prompts)

    @property
    def length(self) -> int:
        """Number of columns, padding included."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def last(self) -> Int[Tensor, "batch 1"]:
        """Column of each prompt's last token."""
        return self.roles["last"].int().argmax(1, keepdim=True)

    @property
    def n_tokens(self) -> int:
        """Number of real tokens, padding excluded."""
        return int(self.inputs["attention_mask"].sum())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """A copy on a device; `dtype` changes the floating inputs (pixels, sound features) only."""
        inputs = {
            name: value.to(device, dtype if value.is_floating_point() else None) for name, value in self.inputs.items()
        }
        roles = {name: mask.to(device) for name, mask in self.roles.items()}
        return replace(self, inputs=inputs, roles=roles, turns=self.turns.to(device))

    def __repr__(self) -> str:
        return f"Batch({self.size} rows x {self.length} tokens: {', '.join(self.inputs)})"


def collate(
    rows: Sequence[Row], *, pad_id: int, explicit_positions: bool, media: Mapping[str, Tensor] | None = None
) -> Batch:
    """Left-pads rows to one length and joins their media in the order of the rows.

    Args:
        rows: at least one.
        pad_id: token id to pad with.
        explicit_positions: whether to add `position_ids`, counted from each row's first real token, 0 on padding.
        media: the media's inputs where they are joined already.
    """
    lengths = torch.tensor([row.length for row in rows])
    length = int(lengths.max())
    places = torch.arange(length) - (length - lengths).unsqueeze(1)  # of every column in its row, negative on padding
    inputs = {"input_ids": _left_pad([row.tokens["input_ids"] for row in rows], pad_id)}
    inputs["attention_mask"] = (places >= 0).long()
    if explicit_positions:
        inputs["position_ids"] = places.clamp(min=0)
    for name in sorted({name for row in rows for name in row.tokens} - set(inputs)):
        inputs[name] = _left_pad(_alike([row.tokens.get(name) for row in rows], lengths.tolist()), 0)
    if media is not None:
        inputs |= media
    else:
        for name in sorted({name for row in rows for name in row.media}):
            inputs[name] = _join([row.media[name] for row in rows if name in row.media])
    turns = _left_pad([row.turns for row in rows], -1)
    names = tuple(row.unknown for row in rows)
    return Batch(inputs, _roles(rows, places, turns), tuple(row.prompt for row in rows), names, turns)


def _roles(rows: Sequence[Row], places: Tensor, turns: Tensor) -> dict[TokenRole, Tensor]:
    """The token roles, each bool (batch, pos)."""
    asked = torch.tensor([asked_turn(row.prompt.turns) for row in rows]).unsqueeze(1)
    beyond = places.shape[1]
    begins, ends = torch.tensor([row.thinking or (beyond, beyond) for row in rows]).T.unsqueeze(-1)
    raw = torch.tensor([row.raw for row in rows]).unsqueeze(1)
    media = torch.zeros_like(places, dtype=torch.bool)
    for row, mask in zip(rows, media, strict=True):
        if row.heard is not None:
            mask[len(mask) - row.length :] = row.heard
    instruction = (turns == asked) & ~media
    last = places.masked_fill(~(instruction | media), -1).amax(1, keepdim=True)
    return {
        "last": places == places[:, -1:],
        "instruction": instruction,
        "media": media,
        "post_instruction": (places > last) & (turns < 0) & ~raw,
        "prefill": turns > asked,
        "thinking": (places >= begins) & (places <= ends),
        "after_thinking": places >= ends,
    }


def _alike(parts: Sequence[Tensor | None], lengths: Sequence[int]) -> list[Tensor]:
    """Per-token inputs of one shape behind the token, zeros where a row has none."""
    have = [part for part in parts if part is not None]
    behind = [max(sizes) for sizes in zip(*(part.shape[1:] for part in have), strict=True)]
    found = [have[0].new_zeros(n, *behind) for n in lengths]
    for into, part in zip(found, parts, strict=True):
        if part is not None:
            into[tuple(slice(size) for size in part.shape)] = part
    return found


def _left_pad(parts: Sequence[Tensor], value: int) -> Tensor:
    """(batch, longest, ...) from tensors (tokens, ...)."""
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=value, padding_side="left")


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenation along the first dimension; the others are padded with zeros at their end to the largest.

    The zeros lie where the processor's own batches have them: sound features of different length come with a mask.
    """
    widest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        missing = [want - have for want, have in zip(widest, part.shape[1:], strict=True)]
        widths = [width for amount in reversed(missing) for width in (0, amount)]
        padded.append(torch.nn.functional.pad(part, widths))
    return torch.cat(padded)
