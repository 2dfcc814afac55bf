"""Cut a job into requests that stay below the server's limits.

A job is one or more stages in order, each a list of items (batches, layers, groups of candidates). A portion holds a
run of items across the stages, so that one request does as much as fits:

    for reading, trying in portions(workload(texts), workload(trials, passes=9), remote=remote):
        with torch.no_grad(), model.session(remote=remote):      # one turn, so one request, unless the job is too large
            ...

    tokens     what the server computes: prompt tokens with padding x passes, and generated tokens      max_tokens
    up, down   bytes before compression                                              half of max_upload, max_result

Items keep their order and are never cut, so results that are put together in order are those of one request, bit for
bit. What a later portion needs of an earlier one travels with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from .errors import RemoteError
from .options import Settings, current, current_task

Item = TypeVar("Item")


@dataclass(frozen=True)
class Stage:
    """Items and what each costs.

    Attributes:
        items: in order.
        tokens: computed by each.
        up, down: bytes of each, uncompressed.
    """

    items: list[Any]
    tokens: list[float]
    up: list[int]
    down: list[int]


def workload(
    items: Sequence[Any],
    *,
    passes: float | Callable[[Any], float] = 1.0,
    new_tokens: int = 0,
    row_bytes: int = 0,
    tokens: Sequence[float] | None = None,
) -> Stage:
    """Items with their cost.

    Args:
        items: anything that is, or holds, an encoding (a dict with "input_ids"); anything at all if `tokens` is given.
        passes: forward passes over each, or a function of the item.
        new_tokens: longest answer, for generation.
        row_bytes: bytes that come back per row.
        tokens: computed by each item, if it is no encoding.
    """
    found = list(items)
    if tokens is not None:
        return Stage(found, [float(n) for n in tokens], [0] * len(found), [0] * len(found))
    encoded = [encoding(item) for item in found]
    rows = [len(inputs["input_ids"]) for inputs in encoded]
    many = [passes(item) if callable(passes) else passes for item in found]
    return Stage(
        found,
        [inputs["input_ids"].numel() * k + n * new_tokens for inputs, k, n in zip(encoded, many, rows, strict=True)],
        [sum(value.nbytes for value in inputs.values() if isinstance(value, Tensor)) for inputs in encoded],
        [n * row_bytes for n in rows],
    )


def portions(
    *stages: Stage,
    remote: bool | str = True,
    fixed: float = 0.0,
    fixed_bytes: int = 0,
    settings: Settings | None = None,
    asked: str = "run the job on NDIF",
) -> list[tuple[list[Any], ...]]:
    """Cut stages into portions; one where everything fits, and always one where it is not remote.

    Args:
        stages: the job, in order.
        remote: False gives one portion.
        fixed: tokens that every request computes besides its items.
        fixed_bytes: bytes that come back from every request, however little it does.
        settings: those in force by default.
        asked: for messages.

    Returns:
        per portion one list of items per stage, empty where it has none of a stage.

    Raises:
        RemoteError: a result that cannot be cut further is larger than `Settings.max_result`.
    """
    found = settings or current()
    if not remote:
        return [tuple(list(one.items) for one in stages)]
    heaviest = max([0, *(n for one in stages for n in one.down)]) + fixed_bytes
    if heaviest > found.max_result:
        what = f"its smallest part brings back {_mib(heaviest)}, the limit is {_mib(found.max_result)}"
        raise RemoteError(asked, what, "run it here, read less, or raise remote.settings(max_result=...)")
    cut: list[tuple[list[Any], ...]] = [tuple([] for _ in stages)]
    weights, counts = [0.0], [0]
    up = down = 0
    for place, one in enumerate(stages):
        for item, tokens, more, back in zip(one.items, one.tokens, one.up, one.down, strict=True):
            over = fixed + weights[-1] + tokens > found.max_tokens
            over = over or up + more > found.max_upload // 2
            over = over or fixed_bytes + down + back > max(found.max_result // 2, heaviest)
            if counts[-1] and over:
                cut.append(tuple([] for _ in stages))
                weights, counts, up, down = [*weights, 0.0], [*counts, 0], 0, 0
            cut[-1][place].append(item)
            weights[-1] += tokens
            counts[-1] += 1
            up, down = up + more, down + back
    run = current_task()
    if run is not None:  # a request that runs into the server's time limit is cut at this weight; see `running`
        run.heaviest = max((fixed + w for w, n in zip(weights, counts, strict=True) if n > 1), default=0.0)
    return cut


def encoding(item: Any) -> dict[str, Tensor]:
    """The encoding inside a batch, a tuple, or a dict."""
    if isinstance(item, dict):
        return item
    if hasattr(item, "inputs"):
        found: dict[str, Tensor] = item.inputs
        return found
    for value in item:
        if isinstance(value, dict) and "input_ids" in value:
            return value
        if hasattr(value, "inputs"):
            return encoding(value)
    raise TypeError(f"no encoding in a {type(item).__name__}")


def _mib(n: int) -> str:
    return f"{n / 2**20:.3g} MiB"


def parts(work: Sequence[Item], *, settings: Settings | None = None, remote: bool | str = True) -> list[list[Item]]:
    """Cut a list of batches into requests that stay below `Settings.max_tokens` and half of `max_upload`.

    Order is kept and no batch is cut. One part where nothing is too large, and always one when not remote. Work of
    several stages, or with more than one pass per batch: `portions`.

    Args:
        work: encoded batches: anything that is, or holds, a dict with "input_ids".
        settings: those in force by default.
        remote: False gives one part.
    """
    return [items for (items,) in portions(workload(work), settings=settings, remote=remote)]
