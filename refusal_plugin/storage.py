"""Everything that is kept on disk: artefacts, checkpoints of a run, JSON. Written in full or not at all; no pickle.

write_tensors, read_tensors   tensors with a JSON record beside them in one safetensors file
Saved                         a result that is one such file: save, load; it shows itself
Checkpoints                   what a run has finished, found again by what it depends on
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import DataError, RefusalPluginError, StudyError
from .progress import duration, say
from .report.shown import Shown

KEY = "refusal_plugin"
LARGEST = 1e300
"""Of a number in a record; what is larger would not survive its first multiplication."""
Own = TypeVar("Own", bound="Saved")
UNREADABLE = (SafetensorError, OSError, ValueError, RecursionError)


# -- files -------------------------------------------------------------------------------------------------------------


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
    """Write tensors and a JSON record; a file is either the old one or the new one, never half of one.

    Raises:
        DataError: the folder does not exist or cannot be written.
    """
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}  # two may share memory
    metadata = {KEY: json.dumps(record)}
    return _replace(Path(path), lambda partial: save_file(own, partial, metadata=metadata))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        DataError: no such file, not a safetensors file, or one without our record.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"read {source}", "no such file", "give a file written by save()")
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: tensors in the file's own memory may lie off a 64-byte boundary, where kernels round differently,
            # so that a loaded defence would compute other bits than the fitted one (seen with AVX-512).
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
        record = json.loads(metadata[KEY])
        if not isinstance(record, dict):
            raise ValueError("its record is no JSON object")
    except KeyError:
        raise DataError(f"read {source}", "it has no record of ours", "give a file written by save()") from None
    except UNREADABLE as error:
        found = (str(error).splitlines() or ["unreadable"])[0][:200]
        raise DataError(f"read {source}", f"not a readable safetensors file ({found})", "write it again") from None
    return tensors, record


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON; NaN is refused (results hold null for what could not be measured).

    Raises:
        DataError: the file cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False)
    return _replace(Path(path), lambda partial: partial.write_text(text, encoding="utf-8"))


def _replace(target: Path, write: Callable[[Path], Any]) -> Path:
    partial = target.with_name(target.name + ".partial")
    try:
        write(partial)
        os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        found = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"write {target}", found, "free some space or choose a folder that can be written") from None
    return target


# -- artefacts ---------------------------------------------------------------------------------------------------------


class Saved(Shown):
    """A dataclass that is kept in one safetensors file; what it holds is read off its annotations.

    Tensors may stand alone, in mappings from strings, and in dataclasses within; everything else is JSON. On loading,
    types are those annotated, and shapes agree wherever the annotations name an axis alike.

    Attributes:
        FORMAT: written into each file and asked for again; a changed layout takes another one.
        NAN: whether NaN stands for what was not measured. Where it is False, a file with NaN or infinity is refused.
    """

    FORMAT: ClassVar[str]
    NAN: ClassVar[bool] = False

    def save(self, path: str | Path) -> Path:
        """Write all of it into one safetensors file (no pickle).

        Raises:
            DataError: the file cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        kept = _packed(self, "", tensors)
        return write_tensors(path, tensors, {"format": self.FORMAT, "kind": type(self).__name__, "fields": kept})

    @classmethod
    def load(cls: type[Own], path: str | Path) -> Own:
        """Read what `save` wrote.

        Raises:
            DataError: no such file, another kind of file, or one whose content cannot be right.
        """
        tensors, record = read_tensors(path)
        asked = f"load {cls.__name__} {path}"
        if record.get("format") != cls.FORMAT:
            kind, do = record.get("kind"), f"give a file of {cls.FORMAT}"
            do = f"load it with {kind}.load, or {do}" if kind else do
            raise DataError(asked, f"it holds a {kind} (format {record.get('format')!r})", do)
        kinds = {kind.__name__: kind for kind in _family(cls)}
        name = record.get("kind", cls.__name__)
        if not isinstance(name, str) or name not in kinds:
            raise DataError(asked, f"kind {name!r} is not known here", "import the file that defines it")
        # Files of version 0.1 have the fields beside the format.
        kept = record.get("fields", {key: value for key, value in record.items() if key not in ("format", "kind")})
        try:
            found = _Reader(tensors, cls.NAN).record(kinds[name], kept, "")
            if tensors:
                raise _Unfit(f"it holds {', '.join(sorted(tensors)[:3])}, which no {name} has")
            if problem := found.problem():
                raise _Unfit(problem)
        except _Unfit as error:
            raise DataError(asked, str(error), "it is spoiled or of another version: make it again") from None
        return found  # type: ignore[no-any-return]

    def problem(self) -> str:
        """What is wrong with the content beyond types and shapes; empty if nothing is."""
        return ""


class _Unfit(Exception):
    """What a file holds does not make the record it should be."""


def _family(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; its tensors go into `tensors` under their place, with null where they stood."""

    def inside(parts: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        return {key: _packed(part, f"{name}/{key}" if name else key, tensors) for key, part in parts}

    if isinstance(value, Tensor):
        tensors[name] = value
        return None
    if is_dataclass(value) and not isinstance(value, type):
        return inside((one.name, getattr(value, one.name)) for one in fields(value))
    if isinstance(value, Mapping):
        return inside((str(key), part) for key, part in value.items())
    return [_packed(part, name, tensors) for part in value] if isinstance(value, list | tuple) else value


class _Reader:
    """Values of annotated types from JSON and tensors; each tensor is taken out of `tensors` as its place is found.

    Every method raises `_Unfit` where what is there does not make such a value.
    """

    def __init__(self, tensors: dict[str, Tensor], nan: bool) -> None:
        self.tensors, self.nan = tensors, nan
        self.sizes: dict[str, int] = {}

    def value(self, hint: Any, raw: Any, name: str) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):
            if NoneType in args and name not in self.tensors and raw in (None, MISSING):
                return None
            for option in args[:-1]:
                with suppress(_Unfit):
                    return self.value(option, raw, name)
            return self.value(args[-1] if args[-1] is not NoneType else args[0], raw, name)
        if _is_tensor(hint):
            return self.tensor(hint, name)
        if is_dataclass(hint):
            return self.record(hint, raw, name)
        kind = origin if isinstance(origin, type) else NoneType
        if issubclass(kind, Mapping):
            return self.mapping(args[1], raw, name)
        if raw is MISSING:
            raise _Unfit(f"it has no {name}")
        if not issubclass(kind, Sequence):
            return self.plain(hint, raw, name)
        several = kind is not tuple or Ellipsis in args
        if not isinstance(raw, list) or not (several or len(raw) == len(args)):
            raise _Unfit(f"its {name} is no list of the right length")
        of = [args[0]] * len(raw) if several else args
        items = (self.value(one, item, name) for one, item in zip(of, raw, strict=True))
        return tuple(items) if kind is tuple else list(items)

    def plain(self, hint: Any, raw: Any, name: str) -> Any:
        if get_origin(hint) is Literal:
            fits = isinstance(raw, str | int) and raw in get_args(hint)
        elif hint is float:
            fits = isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) <= LARGEST
            fits = fits or (self.nan and isinstance(raw, float))
        elif hint in (bool, str, int):
            fits = type(raw) is hint
        else:
            return raw
        if not fits:
            raise _Unfit(f"its {name} is {str(raw)[:40]!r}")
        return float(raw) if hint is float else raw

    def record(self, kind: Any, raw: Any, name: str) -> Any:
        if not isinstance(raw, dict):
            raise _Unfit(f"it has no {name}" if name else "its fields are no JSON object")
        strange = set(raw) - {one.name for one in fields(kind)}
        if strange:
            raise _Unfit(f"it holds {', '.join(sorted(strange)[:3])}, which no {kind.__name__} has")
        outside, self.sizes = self.sizes, {}  # in here, an axis has one length under one name
        hints, values = get_type_hints(kind), {}
        for one in fields(kind):
            place = f"{name}/{one.name}" if name else one.name
            given = raw.get(one.name, MISSING)
            optional = one.default is not MISSING or one.default_factory is not MISSING
            if given is MISSING and optional and not any(f"{t}/".startswith(f"{place}/") for t in self.tensors):
                continue
            values[one.name] = self.value(hints[one.name], given, place)
        self.sizes = outside
        return kind(**values)

    def mapping(self, hint: Any, raw: Any, name: str) -> dict[str, Any]:
        given = {} if raw is MISSING else raw
        below = [t.removeprefix(f"{name}/") for t in self.tensors if t.startswith(f"{name}/")]
        keys = dict.fromkeys([*given, *below] if _is_tensor(hint) else given) if isinstance(given, dict) else None
        if keys is None or (raw is MISSING and not keys):
            raise _Unfit(f"it has no {name}")
        found, sizes = {}, self.sizes
        for key in keys:
            self.sizes = dict(sizes)  # what no field has named may have another length in each entry
            found[key] = self.value(hint, given.get(key, MISSING), f"{name}/{key}")
        self.sizes = sizes
        return found

    def tensor(self, hint: Any, name: str) -> Tensor:
        if name not in self.tensors:
            raise _Unfit(f"it has no {name}")
        value, named = self.tensors[name], getattr(hint, "dim_str", "").split()
        fits = isinstance(value, hint) and all(
            self.sizes.setdefault(axis, n) == n
            for axis, n in zip(named, value.shape, strict=False)
            if axis.isidentifier()
        )
        if not fits:
            found = f"{tuple(value.shape)} of {value.dtype}".replace("torch.", "")
            raise _Unfit(f"its {name} has shape {found}, where ({', '.join(named)}) belongs")
        if not self.nan and value.is_floating_point() and not bool(value.isfinite().all()):
            raise _Unfit(f"its {name} holds NaN or infinity")
        return self.tensors.pop(name)


def _is_tensor(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Tensor | AbstractArray)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def key_of(facts: Mapping[str, Any]) -> str:
    """The key of what depends on these facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]


class Checkpoints:
    """What a run has finished, in one folder: an interrupted run continues, a changed question finds nothing.

    JSON values are lines of `<folder>/results.jsonl`, tensors files beside it, each with the hash of everything that it
    depends on. A line is flushed as soon as its value is there, so that an interruption loses one piece of work.

    Args:
        folder: made if missing.
        facts: what every named stage depends on; any change makes all of them stale.
        gauge: what has been computed so far, in any unit: its rise is kept with every stage.

    Attributes:
        reused, computed: how many values were found, and how many were not.
        stages: names of the stages that were found.
        seconds, work: of the stages asked for: their time, and the rise of the gauge; a stage inside another one is
            part of it.
        inside: how many stages are being worked on, one inside the other.

    Raises:
        StudyError: the folder cannot be made or written.
    """

    def __init__(
        self,
        folder: str | Path,
        facts: Mapping[str, Any] | None = None,
        *,
        gauge: Callable[[], float] = float,
    ) -> None:
        self.folder, self.path = Path(folder), Path(folder) / "results.jsonl"
        self.facts, self.gauge = dict(facts or {}), gauge
        self.stages: list[str] = []
        self.seconds: dict[str, float] = {}
        self.work: dict[str, float] = {}
        self.reused = self.computed = 0
        self._found: dict[str, Any] = {}
        self.inside = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                file.seek(0)
                raw = file.read()
                whole = raw.rfind(b"\n") + 1  # half a line behind it is what an interruption left
                if whole < len(raw):
                    file.truncate(whole)
        except OSError as error:
            found = error.strerror or str(error)
            raise StudyError(f"write results into {self.folder}", found, "choose another --out") from None
        for line in raw[:whole].decode(errors="replace").split("\n"):
            with suppress(ValueError, TypeError, KeyError, RecursionError):  # a spoiled line: its work is done again
                record = json.loads(line)
                self._found[record["key"]] = record["value"]

    def get(self, facts: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """The JSON-able value for these facts: found, else computed and kept.

        Raises:
            DataError: it cannot be written.
        """
        key = key_of(facts)
        if key in self._found:
            self.reused += 1
        else:
            self.put(facts, work())
        return self._found[key]

    def kept(self, facts: Mapping[str, Any]) -> Any:
        """The value for these facts, None if there is none."""
        return self._found.get(key_of(facts))

    def put(self, facts: Mapping[str, Any], value: Any) -> None:
        """Keep a value; it replaces an earlier one for the same facts."""
        line = json.dumps({"key": key_of(facts), "value": value}, allow_nan=False)
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line + "\n")
        except OSError as error:
            raise DataError(f"write {self.path}", error.strerror or str(error), "free some space") from None
        self._found[key_of(facts)] = json.loads(line)["value"]
        self.computed += 1

    def run(self, name: str, work: Callable[[], Any], *, again: bool = False) -> Any:
        """The JSON-able value of a stage.

        Args:
            name: of the stage.
            work: computes it.
            again: compute it even if it is there.
        """
        facts = {**self.facts, "stage": name}
        kept = None if again else self.kept(facts)
        if kept is None:
            value, spent = self._spent(work)
            self.put(facts, {"stage": name, **spent, "value": value})
        return self._took(name, self.kept(facts), reused=kept is not None)

    def tensor(self, name: str, work: Callable[[], Tensor]) -> Tensor:
        """As `run`, for one tensor, kept in a file of its own."""
        path, key = self.folder / f"{name}.safetensors", key_of({**self.facts, "stage": name})
        with suppress(RefusalPluginError, KeyError, TypeError, ValueError):  # no file, or a spoiled one: done again
            tensors, record = read_tensors(path)
            if record["key"] == key:
                spent = {"seconds": float(record["seconds"]), "work": float(record.get("work", 0))}
                kept = {**spent, "value": tensors["value"]}
                return self._took(name, kept, reused=True)  # type: ignore[no-any-return]
        value, spent = self._spent(work)
        write_tensors(path, {"value": value}, {"key": key, **spent})
        self.computed += 1
        return self._took(name, {**spent, "value": value}, reused=False)  # type: ignore[no-any-return]

    def _spent(self, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """What work gives, the seconds it took and the rise of the gauge."""
        start, before = time.perf_counter(), self.gauge()
        self.inside += 1
        try:
            value = work()
        finally:
            self.inside -= 1
        return value, {"seconds": round(time.perf_counter() - start, 2), "work": self.gauge() - before}

    def _took(self, name: str, kept: Mapping[str, Any], *, reused: bool) -> Any:
        if reused:
            self.reused += 1
            self.stages.append(name)
        if not self.inside:
            took = duration(kept["seconds"])
            say(f"{name}: {'kept from an earlier run' if reused else f'done in {took}'}")
        if not self.inside:
            self.seconds[name], self.work[name] = kept["seconds"], kept.get("work", 0.0)
        return kept["value"]
