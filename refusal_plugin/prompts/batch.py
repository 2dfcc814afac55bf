"""A batch: what the model is called with, and which token plays which role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from refusal_plugin.prompts.prompt import Prompt

TokenRole: TypeAlias = Literal["last", "instruction", "media", "post_instruction"]
TOKEN_ROLES: tuple[TokenRole, ...] = ("last", "instruction", "media", "post_instruction")
PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs with one value per token; every other input belongs to the media."""


@dataclass(frozen=True, eq=False)
class Row:
    """One encoded prompt, not padded.

    Attributes:
        prompt: where it comes from.
        tokens: per-token inputs, each (tokens,).
        media: the inputs of its medium, first dimension as the processor gave it.
        roles: token roles, each bool (tokens,).
        unknown: pieces of the instruction that the tokenizer does not know.
    """

    prompt: Prompt
    tokens: Mapping[str, Tensor]
    media: Mapping[str, Tensor]
    roles: Mapping[TokenRole, Tensor]
    unknown: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens["input_ids"])


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Encoded prompts, left padded: the last column is the last token of every row.

    Attributes:
        inputs: keyword arguments of the model's forward pass and of `generate`: `input_ids` and `attention_mask`
            (batch, pos), `position_ids` (batch, pos) where the model would otherwise count the padding, and the
            tensors of the media.
        roles: which tokens play which role, each bool (batch, pos):
            "last": the last prompt token, exactly one per row;
            "instruction": what the user typed, a suffix included; a token that holds a character of it and one of the
            template belongs to the instruction;
            "media": the tokens that stand for the medium; none in a text row;
            "post_instruction": the template's tokens after the instruction, "last" included; none in raw mode.
        prompts: one per row.
        unknown: per row, the pieces of the instruction that the tokenizer does not know (small vocabularies only).
    """

    inputs: dict[str, Tensor]
    roles: dict[TokenRole, Tensor]
    prompts: tuple[Prompt, ...]
    unknown: tuple[tuple[str, ...], ...] = ()

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.prompts)

    @property
    def length(self) -> int:
        """Number of columns, padding included."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def ends(self) -> Tensor:
        """(batch, 2) row and column of each prompt's last token."""
        return self.roles["last"].nonzero()

    @property
    def tail(self) -> int:
        """The ends are among the last `tail` columns: padding is on the left."""
        return 1

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
        return Batch(inputs, roles, self.prompts, self.unknown)

    def __repr__(self) -> str:
        return f"Batch({self.size} rows x {self.length} tokens: {', '.join(self.inputs)})"


def collate(rows: Sequence[Row], *, pad_id: int, explicit_positions: bool) -> Batch:
    """Left-pads rows to one length and joins their media in the order of the rows.

    Args:
        rows: at least one.
        pad_id: token id to pad with.
        explicit_positions: whether to add `position_ids`, counted from each row's first real token, 0 on padding.
    """
    length = max(row.length for row in rows)
    ones = [torch.ones(row.length, dtype=torch.long) for row in rows]
    inputs = {"input_ids": _left_pad([row.tokens["input_ids"] for row in rows], length, pad_id)}
    inputs["attention_mask"] = mask = _left_pad(ones, length, 0)
    if explicit_positions:
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    for name in sorted({name for row in rows for name in row.tokens} - set(inputs)):
        inputs[name] = _left_pad([row.tokens.get(name, 0 * row.tokens["input_ids"]) for row in rows], length, 0)
    for name in sorted({name for row in rows for name in row.media}):
        inputs[name] = _join([row.media[name] for row in rows if name in row.media])
    roles = {name: _left_pad([row.roles[name] for row in rows], length, 0) for name in TOKEN_ROLES}
    return Batch(inputs, roles, tuple(row.prompt for row in rows), tuple(row.unknown for row in rows))


def _left_pad(parts: Sequence[Tensor], length: int, value: int) -> Tensor:
    """(batch, length) from tensors (tokens,)."""
    return torch.stack([torch.nn.functional.pad(part, (length - len(part), 0), value=value) for part in parts])


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
