"""What a paper's table needs to be made again, as one YAML file: read, and checked against everything it names.

Every key is known and most are needed; docs/reproduce.md says what each means. A file that is wrong is one line that
names the place, before anything is loaded. Nothing is fetched here.
"""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from ..datasets.loading import named_sets
from ..defences import REGISTRY
from ..defences.registry import switches_of
from ..errors import DataError
from ..evaluation import FORMATS, DefenceRates
from ..inference.plan import BATCH, GB, PROMPT, Device, Job, Shape, hours, working
from ..models.tiny import architectures
from ..prompts import MODALITIES
from ..recipe_files import recipe_folder

PHRASES = "phrases"
"""Instead of a judge's format: the phrase judge."""
NONE = "none"
"""Instead of a defence: the model as it is."""
MATCHED = "matched"
"""Instead of a strength: the one at the same price as in a comparison."""
RATES = tuple(one.name for one in fields(DefenceRates) if one.name not in ("unknown", "contract"))


@dataclass(frozen=True)
class Counts:
    """How many prompts of a part there should be."""

    train: int
    test: int


@dataclass(frozen=True)
class Data:
    """Prompts.

    Attributes:
        train, test: public sets as `--data` takes them; for `test` also a share of the training pairs.
        val: share of the training pairs that prices and selects.
        modalities: of the table.
        expected: how many prompts there should be; for the plan of hours alone.
        train_limit, test_limit: most prompts of each set.
        seed: of every draw, and of the fits.
    """

    train: str
    test: str | float
    val: float
    modalities: list[str]
    expected: Counts
    train_limit: int | None = None
    test_limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Decoding:
    """How answers are written; `strategy` is "greedy", as every answer of this package."""

    strategy: str
    max_new_tokens: int


@dataclass(frozen=True)
class JudgeEntry:
    """Who labels: a format of `FORMATS` and its model, or "phrases"; `billions` of parameters are for the plan."""

    format: str
    model: str | None
    revision: str | None
    billions: float


@dataclass(frozen=True)
class Size:
    """Shape of a decoder, see `inference.plan.Shape`; parameters in billions."""

    billions: float
    layers: int
    d_model: int
    kv: int
    stored: float | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: a share in [0, 1] (a change: [-1, 1]) of one defence on one modality."""

    defence: str
    modality: str
    rate: str
    paper: float


@dataclass(frozen=True)
class ModelEntry:
    """A model of the table: hub id, pinned revision or null, class of the tiny run, shape, and what the paper found."""

    id: str
    revision: str | None
    tiny: str
    shape: Size
    figures: list[Figure]


@dataclass(frozen=True)
class Configuration:
    """A paper's table. Attributes as in the file; `name` is the file's.

    Attributes:
        shows: the claim behind the table, in words.
        defences: name of a registered method to `strength` (a number or "matched") and its switches.
        notes: what is not as in the paper, or not known; they stand under every table.
    """

    paper: str
    arxiv: str
    shows: str
    data: Data
    decoding: Decoding
    judge: JudgeEntry
    defences: dict[str, dict[str, Any]]
    models: dict[str, ModelEntry]
    notes: list[str] = field(default_factory=list)
    name: str = ""

    def strength(self, defence: str) -> float | str | None:
        """A number, "matched", or None for the fitted one."""
        found: float | str | None = self.defences[defence].get("strength")
        return found

    def switches(self, defence: str) -> dict[str, Any]:
        """Its hyperparameters but the strength."""
        return {key: value for key, value in self.defences[defence].items() if key != "strength"}

    def plan(self, model: str, device: Device | None = None) -> dict[str, float]:
        """Devices, gigabytes and hours that a run should take: docs/scale.md's units times the expected prompts.

        Fits read the training prompts twice for each method, answers stand for the model as it is and each defence,
        a matched strength is six looks at 64 answers. Memory counts the judge's weights beside the model's; hours do
        not count its work.
        """
        device, size = device or Device(), self.models[model].shape
        stored = None if size.stored is None else 1e9 * size.stored
        shape = Shape(model, 1e9 * size.billions, size.layers, size.d_model, size.kv, stored)
        length, tokens = max(PROMPT[m] for m in self.data.modalities), self.decoding.max_new_tokens
        arms, expected = len(self.defences), self.data.expected
        priced = sum(self.strength(name) == MATCHED for name in self.defences) * len(self.data.modalities)
        jobs = [
            Job("fit", expected.train, length, 2 * arms),
            Job("price", 64 * priced, length + 32, 6),
            Job("answer", expected.test * (1 + arms), length, 1, tokens),
        ]
        rows = max(1, min(128, BATCH // length))
        beside = max(working(shape, length), shape.cache(rows, length + tokens))
        total = shape.weights() + 2e9 * self.judge.billions + beside
        found = {"devices": float(device.count(shape)), "memory_gb": total / GB}
        return {**found, "hours": sum(hours(shape, job, device, rows) for job in jobs)}


def configurations() -> dict[str, Path]:
    """Name to file of every configuration that comes with the package, in alphabetical order."""
    folder = recipe_folder()
    return {} if folder is None else {path.stem: path for path in sorted((folder / "configs").glob("*.yaml"))}


def configuration(name: str | Path) -> Configuration:
    """Read and check a configuration: one of ours by name, or any file by its path.

    Raises:
        DataError: no such configuration, no YAML, or something in it is wrong; names the place.
    """
    known = configurations()
    path = known.get(str(name)) or Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        found = "no configuration and no YAML file of that name"
        raise DataError(f"reproduce {str(name)!r}", found, f"use one of {', '.join(known)}, or a .yaml file")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise DataError(f"read {path}", " ".join(str(error).split())[:200], "mend the YAML") from None
    made: Configuration = _read(Configuration, raw, path.name, {"name": path.stem})
    check(made)
    return made


def check(made: Configuration) -> None:
    """Whether everything that a configuration names exists here.

    Raises:
        DataError: one line that says what does not.
    """
    data, judge = made.data, made.judge
    for spec in (data.train, data.test):
        for entry, _part, path in named_sets(spec) if isinstance(spec, str) else ():
            if not entry.views or (path is None and not (entry.hub or entry.github)):
                raise _wrong(made, "data", f"{entry.name} cannot be loaded by name", "use another set")
    shares = [data.val, *([] if isinstance(data.test, str) else [data.test])]
    if any(not 0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise _wrong(made, "data", f"shares {shares}", "give shares above 0 that leave some to train on")
    _known(made, "data.modalities", data.modalities, MODALITIES)
    _known(made, "decoding.strategy", [made.decoding.strategy], ("greedy",))
    _known(made, "judge.format", [judge.format], (*FORMATS, PHRASES))
    if (judge.model is None) != (judge.format == PHRASES):
        raise _wrong(made, "judge.model", str(judge.model), "name a model, or use phrases without one")
    _known(made, "defences", list(made.defences), tuple(sorted(REGISTRY)))
    for name in made.defences:
        _known(made, f"defences.{name}", list(made.switches(name)), switches_of(name))
        strength = made.strength(name)
        if isinstance(strength, bool) or not (strength in (None, MATCHED) or isinstance(strength, int | float)):
            raise _wrong(made, f"defences.{name}.strength", repr(strength), f"give a number, or {MATCHED!r}")
    for name, model in made.models.items():
        _known(made, f"models.{name}.tiny", [model.tiny], tuple(architectures()))
        for one in model.figures:
            where = f"models.{name}.figures"
            _known(made, where, [one.defence], (NONE, *made.defences))
            _known(made, where, [one.modality], data.modalities)
            _known(made, where, [one.rate], RATES)
            if not -1 <= one.paper <= 1:
                raise _wrong(made, where, f"{one.rate} = {one.paper:g}", "give a share, not per cent")


def _wrong(made: Configuration, where: str, found: str, do: str) -> DataError:
    return DataError(f"configuration {made.name}, {where}", found, do)


def _known(made: Configuration, where: str, given: list[Any], known: Any) -> None:
    for one in given:
        if one not in known:
            raise _wrong(made, where, f"there is no {one!r}", f"use {', '.join(known) or 'none'}")


def _read(kind: Any, raw: Any, where: str, more: Mapping[str, Any] | None = None) -> Any:
    """A dataclass from a mapping of a YAML file, nested ones included.

    Raises:
        DataError: an unknown or missing key, or a value of another type; names the place.
    """
    asked = f"read configuration {where}"
    if not isinstance(raw, Mapping):
        raise DataError(asked, f"{type(raw).__name__} where keys are expected", "write a mapping")
    hints, known = get_type_hints(kind), {one.name: one for one in fields(kind) if one.name not in (more or {})}
    needed = [n for n, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    if unknown := [str(key) for key in raw if key not in known]:
        raise DataError(asked, f"unknown key {unknown[0]!r}", f"use {', '.join(known)}")
    if missing := [name for name in needed if name not in raw]:
        raise DataError(asked, f"no key {missing[0]!r}", f"it needs {', '.join(needed)}")
    return kind(**{key: _value(hints[key], value, f"{where}, {key}") for key, value in raw.items()}, **(more or {}))


def _value(hint: Any, value: Any, where: str) -> Any:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        if any(isinstance(value, one) for one in inner):
            return value
        if float in inner and isinstance(value, int):
            return float(value)
    elif inspect.isclass(kind) and hasattr(kind, "__dataclass_fields__"):
        return _read(kind, value, where)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif kind is Any or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        if kind is dict:
            return {str(key): _value(inner[1], one, f"{where}.{key}") for key, one in value.items()}
        return [_value(inner[0], one, where) for one in value] if kind is list else value
    wanted = getattr(hint, "__name__", None) or str(hint)
    raise DataError(f"read configuration {where}", f"{value!r:.60} is no {wanted}", "mend the value")
