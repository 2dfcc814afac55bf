"""Where along a prompt, and along an answer, the stream lies on the refusal direction.

    p[l, s] = ( <h[l, s], r> - benign ) / (harmful - benign)      0 = mean benign text, 1 = mean harmful text

at the direction's own layer by default, for every token of the prompt or for every token the model then says. The two
means were taken at the token where the direction was read; at other tokens the scale is a yardstick, not a calibration:
read differences between prompts, not absolute values.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..directions.direction import Direction
from ..inference.answers import decoded, generate_ids
from ..inference.loop import Item, re_encoder, run_batches
from ..models import anatomy, layers
from ..models.wrapper import save
from ..prompts import Prompt, batches, encode
from ..report.shown import Shown
from ..traced.read import residual
from .labels import SHOWN, Labels, chosen_prompts
from .sources import token_spans, token_words


@dataclass(frozen=True)
class TokenProjection(Shown):
    """Projections of every token.

    Attributes:
        values: per prompt (token,), 0 = benign text, 1 = harmful text at the reading position.
        tokens, spans: per prompt, the tokens as text and their roles.
        labels: names and groups of the prompts.
        layer: whose stream.
    """

    values: tuple[Float[Tensor, " _"], ...]
    tokens: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[str, ...], ...]
    labels: Labels
    layer: int

    def finding(self) -> str:
        return f"{len(self.labels)} prompts, layer {self.layer}; 0 = benign text, 1 = harmful text where it is read"

    def caveats(self) -> Sequence[str]:
        said = "at other tokens the scale is a yardstick: read differences between prompts, not values."
        return [said, *filter(None, [self.labels.rest])]

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per prompt and token."""
        for id, *columns in zip(self.labels.ids, self.tokens, self.spans, self.values, strict=True):
            for place, (token, span, value) in enumerate(zip(*columns, strict=True)):
                yield {"id": id, "place": place, "token": token, "span": span, "projection": float(value)}

    def drawn(self) -> Sequence[str]:
        from ..report.figures.tokens import values_over_prompt

        limit = max(1.0, *(float(value.abs().max()) for value in self.values))
        return [
            values_over_prompt(
                self.labels.title(row), self.tokens[row], {"": value.tolist()}, self.spans[row], limit,
                "Refusal projection",
            )
            for row, value in enumerate(self.values[:SHOWN])
        ]  # fmt: skip


@dataclass(frozen=True)
class AnswerProjection(Shown):
    """Projections along an answer; unpacks into its two fields.

    Attributes:
        words: what is said at each step.
        values: (step,) the coordinate from which it is said, 0 = benign text, 1 = harmful text.
    """

    words: tuple[str, ...]
    values: Float[Tensor, " step"]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.words, self.values))

    def finding(self) -> str:
        return f"{' '.join(self.words)!r}; 0 = benign text, 1 = harmful text at the reading position"

    def records(self) -> Iterable[Mapping[str, Any]]:
        """One row per step."""
        steps = enumerate(zip(self.words, self.values.tolist(), strict=True))
        return ({"step": n, "word": word, "projection": value} for n, (word, value) in steps)

    def drawn(self) -> Sequence[str]:
        from ..report.figures.tokens import token_line
        from ..report.table import folded, html_table

        steps = self.values.tolist()
        limit, spans = max([1.0, *map(abs, steps)]), ["said"] * len(steps)
        line = token_line(self.words, steps, limit, spans, "Refusal projection along the answer")
        rows = [[f"{row['step']}: {row['word']}", row["projection"]] for row in self.records()]
        return [line, folded("Numbers behind this picture", html_table(["word", "projection"], rows))]


def project_tokens(
    model: Any, direction: Direction, prompts: Iterable[Prompt | str], *, remote: Any = False
) -> TokenProjection:
    """The refusal coordinate of every token of some prompts, at the direction's layer.

    Args:
        model: a loaded model.
        direction: whose means of harmful and benign text are the yardstick.
        prompts: of any modality the model takes.
        remote: run on NDIF: one request, or several where one would be too large.

    Raises:
        PromptError: 0 prompts, or one the model does not take.
        ModelError: the model's stream is not one vector per token.
    """
    anatomy(model).require_stream("project tokens")
    chosen = chosen_prompts(prompts, "project tokens")
    block, unit, n = layers(model)[direction.layer], direction.unit, len(chosen)

    def measure(items: list[Item]) -> list[Tensor]:
        calls = [batch.inputs for _rows, batch in items]
        with torch.no_grad(), model.session(remote=remote):
            found = save([])
            for inputs in calls:
                with model.trace(**inputs) as tracer:
                    hidden = residual(block.output).float()
                    found.append((hidden @ unit.to(hidden.device)).cpu())
                    tracer.stop()
        return list(found)

    values: list[Any] = [None] * n
    words: list[Any] = [None] * n
    spans: list[Any] = [None] * n
    options: dict[str, Any] = {"remote": remote, "asked": "project tokens"}
    for (rows, batch), along in run_batches(batches(model, chosen), measure, re_encoder(model), **options):
        first = batch.inputs["attention_mask"].int().argmax(1).tolist()
        for row, index in enumerate(rows):
            values[index] = coordinate(direction, along[row, first[row] :])
            words[index] = token_words(model, batch, row, first[row])
            spans[index] = token_spans(batch, row, first[row])
    return TokenProjection(tuple(values), tuple(words), tuple(spans), Labels.of(chosen), direction.layer)


def coordinate(direction: Direction, along: Tensor) -> Tensor:
    """`<h, unit>` as a coordinate: 0 = mean benign text, 1 = mean harmful text."""
    low, high = (float(side[direction.layer] @ direction.unit) for side in (direction.benign, direction.harmful))
    return (along - low) / (high - low)


def project_answer(
    model: Any, direction: Direction, prompt: Prompt | str, *, max_new_tokens: int = 24
) -> AnswerProjection:
    """The refusal coordinate at every step of a greedy answer.

    Step 0 is the last prompt token, from which the first word is said; the words are those said at each step. The
    answer is generated first and then read in one pass over prompt and answer, which gives the same streams as the
    steps did.

    Returns:
        the words, and their coordinates.
    """
    anatomy(model).require_stream("project an answer")
    batch = encode(model, prompt)
    ids = generate_ids(model, batch.inputs, None, max_new_tokens=max_new_tokens)[0]
    said = ids[batch.length :].tolist()
    n = len(decoded(model, "", said).ids)
    inputs = {**batch.inputs}
    grown = len(ids[: batch.length + n])
    inputs["input_ids"] = ids[None, :grown]
    inputs["attention_mask"] = torch.ones(1, grown, dtype=batch.inputs["attention_mask"].dtype)
    if "position_ids" in inputs:
        inputs["position_ids"] = torch.arange(grown)[None]
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, grown - inputs[name].shape[1]))
    block, unit = layers(model)[direction.layer], direction.unit
    with torch.no_grad(), model.trace(**inputs) as tracer:
        hidden = residual(block.output).float()
        along = (hidden[0, batch.length - 1 :] @ unit.to(hidden.device)).cpu().save()
        tracer.stop()
    tokenizer = anatomy(model).tokenizer
    words = tuple(tokenizer.decode([token]).strip() or " " for token in said[:n])
    return AnswerProjection(words, coordinate(direction, along[:n]))
