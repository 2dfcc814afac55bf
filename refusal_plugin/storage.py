"""Everything that is kept on disk: artefacts, checkpoints of a run, JSON. Written in full or not at all; no pickle.

write_tensors, read_tensors   tensors with a JSON record beside them in one safetensors file
Saved                         a result that is one such file: save, load, to_frame
Checkpoints                   what a run has finished, found again by what it depends on
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray, jaxtyped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import DataError, OptionalDependencyError, RefusalPluginError, StudyError

KEY = "refusal_plugin"
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


def frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Rows of a result as a pandas DataFrame.

    Raises:
        OptionalDependencyError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise OptionalDependencyError("make a table", "pandas is not installed", "pip install pandas") from None
    return pandas.DataFrame([dict(row) for row in rows])


# -- artefacts ---------------------------------------------------------------------------------------------------------


class Saved:
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
            raise DataError(asked, f"format {record.get('format')!r}", f"give a file of {cls.FORMAT}")
        kinds = {kind.__name__: kind for kind in _family(cls)}
        name = record.get("kind", cls.__name__)
        if not isinstance(name, str) or name not in kinds:
            raise DataError(asked, f"kind {name!r} is not known here", "import the file that defines it")
        # Files of version 0.1 have the fields beside the format.
        kept = record.get("fields", {key: value for key, value in record.items() if key not in ("format", "kind")})
        try:
            found = _unpacked(kinds[name], kept, "", tensors, cls.NAN)
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

    def to_frame(self) -> Any:
        """Its numbers and words as a pandas DataFrame of one row.

        Raises:
            OptionalDependencyError: pandas is not installed.
        """
        plain = {one.name: getattr(self, one.name) for one in _fields(type(self))}
        return frame([{name: value for name, value in plain.items() if isinstance(value, str | int | float)}])


class _Unfit(Exception):
    """What a file holds does not make the record it should be."""


def _family(kind: type) -> Iterator[type]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


def _fields(kind: Any) -> tuple[Field[Any], ...]:
    return fields(kind)


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; its tensors go into `tensors` under their place, and nothing stands for them."""

    def inside(parts: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found = {}
        for key, part in parts:
            place = f"{name}/{key}" if name else key
            if isinstance(part, Tensor):
                tensors[place] = part
            else:
                found[key] = _packed(part, place, tensors)
        return found

    if is_dataclass(value) and not isinstance(value, type):
        return inside((one.name, getattr(value, one.name)) for one in fields(value))
    if isinstance(value, Mapping):
        return inside((str(key), part) for key, part in value.items())
    return [_packed(part, name, tensors) for part in value] if isinstance(value, list | tuple) else value


def _unpacked(hint: Any, raw: Any, name: str, tensors: dict[str, Tensor], nan: bool) -> Any:
    """A value of the annotated type from JSON and tensors, which are taken out of `tensors`.

    Raises:
        _Unfit: it is none.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if NoneType in args and name not in tensors and raw in (None, MISSING):
            return None
        for option in args:
            with suppress(_Unfit):
                return _unpacked(option, raw, name, tensors, nan)
        raise _Unfit(f"its {name} is a {type(raw).__name__}")
    if _is_tensor(hint):
        return _tensor(hint, name, tensors, nan)
    if is_dataclass(hint):
        return _record(hint, raw, name, tensors, nan)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(args[1], raw, name, tensors, nan)
    if raw is MISSING:
        raise _Unfit(f"it has no {name}")
    if origin is tuple:
        items = list(raw) if isinstance(raw, list) else None
        if items is None or (Ellipsis not in args and len(items) != len(args)):
            raise _Unfit(f"its {name} is no list of the right length")
        of = [args[0]] * len(items) if Ellipsis in args else args
        return tuple(_unpacked(one, item, name, tensors, nan) for one, item in zip(of, items, strict=True))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(raw, list):
            raise _Unfit(f"its {name} is no list")
        return [_unpacked(args[0], item, name, tensors, nan) for item in raw]
    return _plain(hint, raw, name, nan)


def _plain(hint: Any, raw: Any, name: str, nan: bool) -> Any:
    if get_origin(hint) is Literal:
        fits = raw in get_args(hint) if isinstance(raw, str | int) else False
    elif hint is float:
        fits = isinstance(raw, int | float) and not isinstance(raw, bool) and abs(raw) <= 1e300
        fits = fits or (nan and isinstance(raw, float))
    elif hint in (bool, str):
        fits = isinstance(raw, hint)
    elif hint is int:
        fits = isinstance(raw, int) and not isinstance(raw, bool)
    else:
        return raw
    if not fits:
        raise _Unfit(f"its {name} is {str(raw)[:40]!r}")
    return float(raw) if hint is float else raw


def _record(kind: Any, raw: Any, name: str, tensors: dict[str, Tensor], nan: bool) -> Any:
    if not isinstance(raw, dict):
        raise _Unfit(f"it has no {name}" if name else "its fields are no JSON object")
    hints, values = get_type_hints(kind), {}
    strange = set(raw) - {one.name for one in fields(kind)}
    if strange:
        raise _Unfit(f"it holds {', '.join(sorted(strange)[:3])}, which no {kind.__name__} has")
    with jaxtyped("context"):  # type: ignore[no-untyped-call]  # in here, an axis has one length under one name
        for one in fields(kind):
            place = f"{name}/{one.name}" if name else one.name
            given = raw.get(one.name, MISSING)
            optional = one.default is not MISSING or one.default_factory is not MISSING
            absent = given is MISSING and not any(t == place or t.startswith(f"{place}/") for t in tensors)
            if not (absent and optional):
                values[one.name] = _unpacked(hints[one.name], given, place, tensors, nan)
    return kind(**values)


def _mapping(hint: Any, raw: Any, name: str, tensors: dict[str, Tensor], nan: bool) -> dict[str, Any]:
    keys = list(raw) if isinstance(raw, dict) else [] if raw is MISSING else None
    if keys is None:
        raise _Unfit(f"its {name} is no JSON object")
    if _is_tensor(hint):
        keys = list(dict.fromkeys([*keys, *(t.removeprefix(f"{name}/") for t in tensors if t.startswith(f"{name}/"))]))
    if not keys and raw is MISSING:
        raise _Unfit(f"it has no {name}")
    found = {}
    for key in keys:
        given = raw.get(key, MISSING) if isinstance(raw, dict) else MISSING
        with jaxtyped("context"):  # type: ignore[no-untyped-call]  # lengths may differ between the entries
            found[key] = _unpacked(hint, given, f"{name}/{key}", tensors, nan)
    return found


def _is_tensor(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Tensor | AbstractArray)


def _tensor(hint: Any, name: str, tensors: dict[str, Tensor], nan: bool) -> Tensor:
    if name not in tensors:
        raise _Unfit(f"it has no {name}")
    value = tensors.pop(name)
    if not isinstance(value, hint):
        raise _Unfit(f"its {name} has shape {tuple(value.shape)} of {value.dtype}".replace("torch.", ""))
    if not nan and value.is_floating_point() and not bool(value.isfinite().all()):
        raise _Unfit(f"its {name} holds NaN or infinity")
    return value


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

    Attributes:
        reused, computed: how many values were found, and how many were not.
        stages: names of the stages that were found.
        seconds: of the stages asked for; a stage inside another one is part of its time.

    Raises:
        StudyError: the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
        self.folder, self.path = Path(folder), Path(folder) / "results.jsonl"
        self.facts = dict(facts or {})
        self.stages: list[str] = []
        self.seconds: dict[str, float] = {}
        self.reused = self.computed = 0
        self._found: dict[str, Any] = {}
        self._inside = 0
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
            value, seconds = self._timed(work)
            self.put(facts, {"seconds": seconds, "value": value})
        return self._took(name, self.kept(facts), reused=kept is not None)

    def tensor(self, name: str, work: Callable[[], Tensor]) -> Tensor:
        """As `run`, for one tensor, kept in a file of its own."""
        path, key = self.folder / f"{name}.safetensors", key_of({**self.facts, "stage": name})
        with suppress(RefusalPluginError, KeyError, TypeError, ValueError):  # no file, or a spoiled one: done again
            tensors, record = read_tensors(path)
            if record["key"] == key:
                kept = {"seconds": float(record["seconds"]), "value": tensors["value"]}
                return self._took(name, kept, reused=True)  # type: ignore[no-any-return]
        value, seconds = self._timed(work)
        write_tensors(path, {"value": value}, {"key": key, "seconds": seconds})
        self.computed += 1
        return self._took(name, {"seconds": seconds, "value": value}, reused=False)  # type: ignore[no-any-return]

    def _timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        start = time.perf_counter()
        self._inside += 1
        try:
            value = work()
        finally:
            self._inside -= 1
        return value, round(time.perf_counter() - start, 2)

    def _took(self, name: str, kept: Mapping[str, Any], *, reused: bool) -> Any:
        if reused:
            self.reused += 1
            self.stages.append(name)
        if not self._inside:
            self.seconds[name] = kept["seconds"]
        return kept["value"]
