"""When a batch does not fit into memory: halve it, keep what is done, and remember what did fit.

    for (rows, batch), value in backed_off(work, run, again):      `work` as `prompts.batches` yields it
        ...
    for (rows, batch), value in run_batches(work, measure, again, remote=remote):      the same, or sessions on a server

Reading (`activations`), scoring (`scores.next_token`) and answering (`answers.generate`) all go through `run_batches`.
Only errors that mean "out of memory" are caught; everything else passes through. A batch of one row that does not fit
is an error that says so, with the number of prompts that were finished.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch

from ..errors import ModelError
from ..prompts.batch import Batch
from ..prompts.encoding import encode
from ..prompts.prompt import Prompt
from ..remote.split import sessions

T = TypeVar("T")
Item: TypeAlias = tuple[list[int], Batch]
ReEncode: TypeAlias = Callable[[Sequence[Prompt]], Batch]
"""Encodes some of the prompts of a batch anew."""

WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")


@dataclass
class Room:
    """What fits, as learned so far; share it between calls that run on the same device.

    Attributes:
        tokens: most tokens, padding included, that are tried at once; None while nothing has failed.
    """

    tokens: int | None = None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that caused it, says that memory is full (CUDA, MPS, CPU, cuBLAS handles)."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.cuda.OutOfMemoryError | MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(word in str(seen).lower() for word in WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    # nnsight raises an error of its own that quotes the original as text.
    return any(word in str(error).lower() for word in (*WORDS, "outofmemoryerror"))


def run_batches(
    work: Iterable[Item],
    measure: Callable[[list[Item]], list[T]],
    again: ReEncode | None,
    *,
    remote: bool | str = False,
    asked: str = "run a batch",
    room: Room | None = None,
    new_tokens: int = 0,
    row_bytes: int = 0,
    passes: float | Callable[[Item], float] = 1.0,
) -> Iterator[tuple[Item, T]]:
    """Batches with back-off on this machine, in sessions on a server (which are halved when they take too long).

    Args:
        work: row numbers and their batch.
        measure: one session over some batches; one result for each.
        again, asked, room: see `backed_off`.
        remote: where to run.
        new_tokens, row_bytes, passes: what a batch costs on a server, see `remote.workload`.

    Yields:
        row numbers and the batch that ran (a part of the one given, where that did not fit), and its result.

    Raises:
        ModelError: see `backed_off`.
        RemoteError: the server refuses or fails.
    """
    if remote:
        return sessions(work, measure, remote=remote, new_tokens=new_tokens, row_bytes=row_bytes, passes=passes)
    return backed_off(work, lambda item: measure([item])[0], again, asked=asked, room=room)


def backed_off(
    work: Iterable[tuple[Sequence[int], Batch]],
    run: Callable[[Item], T],
    again: ReEncode | None,
    *,
    asked: str = "run a batch",
    room: Room | None = None,
) -> Iterator[tuple[Item, T]]:
    """Results of all batches, in order; a batch that does not fit runs in halves, as do later ones of its size.

    Args:
        work: row numbers and their batch.
        run: what is done with row numbers and their batch; it may be called again with fewer rows.
        again: encodes some prompts of a batch anew, see `re_encoder`; None where a batch cannot be split.
        asked: what the user asked for, for the error message.
        room: what is known to fit; it is updated.

    Yields:
        row numbers and the batch that ran, and what `run` returned for it.

    Raises:
        ModelError: a single row does not fit, or a batch that cannot be split.
    """
    known = Room() if room is None else room
    done = 0
    for rows, batch in work:
        waiting: list[tuple[list[int], Sequence[Prompt], Batch | None]] = [(list(rows), batch.prompts, batch)]
        del batch
        while waiting:
            part, prompts, made = waiting.pop(0)
            if made is None:
                assert again is not None
                made = again(prompts)
            splits = made.size > 1 and again is not None
            if splits and known.tokens is not None and made.size * made.length > known.tokens:
                waiting[:0] = _halves(part, prompts)
                continue
            value, failed = _tried(run, (part, made))
            if not failed:
                yield (part, made), value  # type: ignore[misc]
                done += len(part)
                continue
            known.tokens = made.size * made.length // 2
            if not splits:
                raise ModelError(asked, f"{_what(made)} does not fit into memory; {done} were finished", _advice(made))
            del made
            _free()
            waiting[:0] = _halves(part, prompts)


def _halves(rows: list[int], prompts: Sequence[Prompt]) -> list[tuple[list[int], Sequence[Prompt], Batch | None]]:
    middle = (len(rows) + 1) // 2
    return [(rows[:middle], prompts[:middle], None), (rows[middle:], prompts[middle:], None)]


def _what(batch: Batch) -> str:
    if batch.size == 1:
        return f"prompt '{batch.prompts[0].id}' of {batch.length} tokens alone"
    return f"a batch of {batch.size} rows x {batch.length} tokens whose edit is bound to these rows"


def _advice(batch: Batch) -> str:
    if batch.size == 1:
        return "use a shorter prompt, a smaller dtype or a larger device"
    return "use fewer rows, a smaller dtype or a larger device"


def _tried(run: Callable[[Item], T], item: Item) -> tuple[T | None, bool]:
    """The result and whether memory ran out; the traceback, which holds the tensors, is gone when this returns."""
    try:
        return run(item), False
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None, True


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def re_encoder(model: Any, **options: Any) -> ReEncode:
    """The `again` of `backed_off` for a model.

    Args:
        model: a loaded model.
        options: `system`, `suffix`, `raw` of `prompts.encode`.
    """

    def again(prompts: Sequence[Prompt]) -> Batch:
        return encode(model, prompts, **options)

    return again
