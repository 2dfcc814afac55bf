"""Work in sessions: one batch each on this machine, as many as a request may hold on a server."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .cutting import portions, workload
from .errors import RemoteTimeout

Item = TypeVar("Item")
Result = TypeVar("Result")


def sessions(
    work: Iterable[Item],
    run: Callable[[list[Item]], list[Result]],
    *,
    remote: bool | str,
    new_tokens: int = 0,
    row_bytes: int = 0,
    passes: float | Callable[[Item], float] = 1.0,
) -> Iterator[tuple[Item, Result]]:
    """Run batches and yield each with its result, in order.

    Where a request takes longer than the server allows it has ended there: it is cut in two and sent again, down to
    single batches. What is finished is never sent again.

    Args:
        work: encoded batches.
        run: one session over some of them; one result per batch.
        remote: False, or where.
        new_tokens, row_bytes, passes: longest answer, bytes that come back per row, passes over each; see
            `cutting.workload`.

    Raises:
        RemoteError: the result of a single batch is larger than the limit.
        RemoteTimeout: a single batch is too long for the server.
    """
    if not remote:
        for item in work:
            yield item, run([item])[0]
        return
    job = workload(list(work), new_tokens=new_tokens, row_bytes=row_bytes, passes=passes)
    waiting = [items for (items,) in portions(job, remote=remote)]
    while waiting:
        group = waiting.pop(0)
        try:
            found = run(group)
        except RemoteTimeout:
            if len(group) == 1:
                raise
            middle = len(group) // 2
            waiting[:0] = [group[:middle], group[middle:]]
            continue
        yield from zip(group, found, strict=True)
