"""Several processes fill one ledger; the first of them then reads all of it.

A worker runs the same measurement on other modalities and throws its result away: what it computed stays in a file of
its own beside ours. So nothing has to be handed back, a worker that dies costs time only, and a continued run need not
have the same number of workers.
"""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..evaluation import Judge
from ..models import load
from ..progress import Progress
from ..prompts import Modality, PromptSet
from ..study.threads import few_threads
from .arena import DefenceRun
from .fits import Fits, Fitted, defence_prompts, limited
from .ledger import Ledger
from .measure import Plan, Settings, measure
from .results import Measured


@dataclass(frozen=True)
class Task:
    """What a worker needs to set up the same comparison.

    Attributes:
        model: name or folder.
        prompts: as given; None for the embedded model's own.
        limit: of the comparison.
        defences: names.
        seeds: fit seeds.
        once: names of the methods with the first seed only.
        out: folder of the comparison; the defences lie there, fitted.
        settings: of the arena.
    """

    model: str
    prompts: PromptSet | None
    limit: int | None
    defences: tuple[str, ...]
    seeds: tuple[int, ...]
    once: tuple[str, ...]
    out: str
    settings: Settings


def measure_together(
    arena: DefenceRun,
    fitted: Sequence[Fitted],
    plan: Plan,
    judge: Judge | None,
    task: Task,
    workers: int,
    progress: Progress = None,
) -> Measured:
    """`measure`, with other processes working on the modalities that are not ours."""
    shares = shared_out(plan.modalities, workers)
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
    started = []
    try:
        for number, share in enumerate(shares[1:], start=1):
            process = context.Process(target=work, args=(task, replace(plan, modalities=share), number), daemon=True)
            process.start()
            started.append(process)
        measure(arena, fitted, replace(plan, modalities=shares[0]), judge, progress)
        for process in started:
            process.join()
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()
    arena.ledger.read()
    return measure(arena, fitted, plan, judge, progress)


def shared_out(modalities: Sequence[Modality], workers: int) -> list[tuple[Modality, ...]]:
    """The modalities dealt out so that the dear ones (the last) do not meet: one share per worker, none empty."""
    shares: list[list[Modality]] = [[] for _ in range(max(1, min(workers, len(modalities))))]
    order = [*range(len(shares)), *reversed(range(len(shares)))]
    for k, modality in enumerate(reversed(modalities)):
        shares[order[k % len(order)]].append(modality)
    return [tuple(share) for share in shares]


def work(task: Task, plan: Plan, number: int) -> None:
    """The life of a worker: everything it says goes into the ledger, and it ends silently."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's business; it ends us
    try:
        model = load(task.model)
        prompts = defence_prompts(model) if task.prompts is None else task.prompts
        if task.limit is not None:
            prompts = limited(prompts, task.limit)
        ledger = Ledger(os.path.join(task.out, "stream"), f"worker-{number}")
        with few_threads(model):
            arena = DefenceRun(model, prompts, ledger, **task.settings)
            fits = Fits(model, prompts, ledger.folder.parent / "defences", ledger, arena.base)
            measure(arena, fits.all(task.defences, task.seeds, False, task.once), plan, None, False)
    except Exception:  # the first process meets the same trouble, and says so
        os._exit(1)
