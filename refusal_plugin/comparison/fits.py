"""Fitted defences of a comparison, one file each, fitted again only when what they depend on has changed."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..defences import REGISTRY, Defence, DefenceData, fit_defence
from ..defences.run import digest
from ..errors import RefusalPluginError
from ..progress import Progress, track
from ..prompts import PromptSet, Split
from ..storage import Checkpoints


@dataclass(frozen=True)
class Fitted:
    """A defence and the fit seed it comes from.

    Attributes:
        name: of the method or variant, as in tables.
        seed: of the fit.
        defence: the defence.
    """

    name: str
    seed: int
    defence: Defence


class Fits:
    """Fits methods by name and seed, and keeps them in a folder.

    Args:
        model: a loaded model.
        prompts: with splits and roles; nothing of "test" is looked at.
        folder: for the files.
        checkpoints: remember which file belongs to which question.
        base: what every fit depends on: weights, template, versions.
        how: further arguments of `DefenceData.of`.
    """

    def __init__(
        self, model: Any, prompts: PromptSet, folder: Path, checkpoints: Checkpoints, base: dict[str, Any], **how: Any
    ) -> None:
        self.model, self.folder, self.checkpoints = model, folder, checkpoints
        self.prompts = prompts.filter(split=("train", "val"))
        self.base = {**base, "what": "fit", **{key: how[key] for key in sorted(how) if key != "tokens"}}
        self.how = how
        self.refused: dict[str, str] = {}
        self._data: DefenceData | None = None

    def all(
        self,
        defences: Sequence[str | Defence],
        seeds: Sequence[int],
        progress: Progress,
    ) -> list[Fitted]:
        """Every method with every seed; what depends on no seed with the first one only.

        Controls are fitted with whole pairs of seeds (`control_seeds`). Methods that cannot be fitted on these prompts
        are left out, and `refused` says why.
        """
        found: list[Fitted] = []
        plan = [(one, control_seeds(seeds) if _control(one) else seeds) for one in defences]
        with track(sum(len(own) for _, own in plan), "fits", progress) as advance:
            for one, own in plan:
                for seed in own:
                    if isinstance(one, Defence):
                        if seed == own[0]:
                            found.append(Fitted(one.name, seed, one))
                    elif seed == own[0] or not self._seedless(one, found):
                        try:
                            found.append(Fitted(one, seed, self.one(one, seed)))
                        except RefusalPluginError as error:
                            self.refused.setdefault(one, str(error))
                    advance(1)
        return found

    def _seedless(self, name: str, found: Sequence[Fitted]) -> bool:
        """Whether a method looks at nothing that a seed could draw."""
        return any(f.name == name and f.defence.system is not None for f in found)

    def one(self, name: str, seed: int, **switches: Any) -> Defence:
        """One fit, from its file if it is still the answer to the same question; a switch wins over the variant's."""
        facts = {**self.base, "method": name, "seed": seed, "prompts": self.prompts.hash}
        if name in REGISTRY:
            facts["switches"] = {**REGISTRY[name].switches, **switches}
        path, known = self.folder / f"{name}-{seed}.safetensors", self.checkpoints.kept(facts)
        if known is not None:
            # Missing, spoiled or from a method that is not imported: fitted again.
            with suppress(RefusalPluginError):
                kept = Defence.load(path, self.model)
                if digest(kept) == known:
                    return kept
        defence = fit_defence(name, self.model, self.data(seed), **switches)
        self.folder.mkdir(parents=True, exist_ok=True)
        defence.save(path)
        self.checkpoints.put(facts, digest(defence))
        return defence

    def data(self, seed: int) -> DefenceData:
        """The data of a seed; streams are computed once for all seeds and methods."""
        if self._data is None:
            self._data = DefenceData.of(self.model, self.prompts, seed, **self.how)
        if self._data.seed != seed:
            self._data = self._data.reseed(seed)
        return self._data


def _control(one: str | Defence) -> bool:
    return isinstance(one, str) and one in REGISTRY and REGISTRY[one].control


def control_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds of a control: of each pair 2k, 2k + 1 both, since its two draws are opposite (`defences.addition`).

    An odd number of draws would leave one of them unopposed, and its chance overlap with what decides about refusal in
    the figure.
    """
    return sorted({half for seed in seeds for half in (seed & ~1, seed | 1)})


def limited(prompts: PromptSet, limit: int) -> PromptSet:
    """At most `limit` validation and test prompts each, balanced over modality and role, and ten times as many to train
    on: a fit needs more items than it has principal directions."""
    room: dict[Split, int] = {"train": 10 * limit, "val": limit, "test": limit}
    parts = [(prompts.filter(split=split), n) for split, n in room.items()]
    return PromptSet(p for part, n in parts if len(part) for p in part.limit(n, seed=0))
