"""Control tokens of a model: what a user's text may neither spell nor become."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import PromptError
from .input_spec import InputSpec


@dataclass(frozen=True)
class Controls:
    """Special tokens and media placeholders of a tokenizer, but for the unknown token; for many texts at once.

    They are read off the tokenizer anew for every call that encodes prompts, because special tokens may be added later.

    Attributes:
        texts: how they are spelled, in alphabetical order.
        ids: their token ids.
        tokenizer: whose they are.
    """

    texts: tuple[str, ...]
    ids: frozenset[int]
    tokenizer: Any = field(repr=False, compare=False)

    @classmethod
    def of(cls, spec: InputSpec) -> Controls:
        """The control tokens as they are now."""
        tokenizer, media = spec.tokenizer, list(spec.media_ids.values())
        texts = {str(token) for token in tokenizer.all_special_tokens}
        texts |= set(tokenizer.convert_ids_to_tokens(media))
        texts |= {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
        ids = {*tokenizer.all_special_ids, *media} - {tokenizer.unk_token_id}
        return cls(tuple(sorted(texts - {"", str(tokenizer.unk_token)})), frozenset(ids), tokenizer)

    def refuse_text(self, text: str, asked: str) -> None:
        """Raises PromptError if `text` spells one of them.

        Typed by a user they would silently become control tokens: end the turn, or stand for a medium that is not
        there.
        """
        for token in self.texts:
            if token in text:
                raise PromptError(
                    asked, f"it spells the control token {token!r}", "remove it, or break it up with a space"
                )

    def refuse_ids(self, ids: Iterable[int], asked: str) -> None:
        """The last word on a user's text: also those that only the tokenizer's normaliser brings out."""
        for token in ids:
            if token in self.ids:
                name = self.tokenizer.convert_ids_to_tokens(token)
                raise PromptError(f"{asked}: its text", f"it becomes the control token {name!r}", "remove it")
