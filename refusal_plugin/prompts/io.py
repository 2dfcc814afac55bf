"""Prompt sets as files: JSONL, CSV, or a folder of media.

One prompt per JSONL line or CSV row, with these fields (only `text` is needed):

    text         the instruction the user types
    image        path of an image file                             \\
    video        path of a video file, a GIF or a folder of frames  > relative to the file that names them
    audio        path of a sound file                              /
    system       the system text
    messages     in the place of all these: a conversation in transformers' chat format, media by their paths
    tools, documents   lists of objects for the chat template;  thinking: true or false
    role         harmful, benign or near_miss
    pair         name of the group of prompts about one thing; all of a group are in one split
    split        train, val or test; see `PromptSet.assigned` for prompts that say none
    id           unique name; made from the text and what the medium holds if absent
    answer       exact expected answer
    read_text    question that shows whether the medium was read;  read_answer: its exact answer
    wording      name of the template the text was made from
    meta         anything else: an object in JSONL, columns `meta.NAME` (strings) in CSV

In CSV messages, tools, documents and thinking are JSON in their cells. An empty CSV cell and a JSON null mean "absent".
Blank lines are skipped; any other field is an error, so that a slip of spelling does not go unnoticed.

A folder holds `prompts.jsonl` or `prompts.csv`; or one sub-folder per role (`harmful/`, `benign/`, `near_miss/`),
directly or below one per split (`train/`, `val/`, `test/`). There `NAME.txt` is a text prompt, and `NAME.png`,
`NAME.wav`, `NAME.mp4` ... is a medium asked about with the text of `NAME.txt` beside it, or else with the text given to
`PromptSet.from_folder`. Files of one NAME form a pair.

Everything is read and checked before anything is returned; one PromptError lists the bad rows with their line numbers.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from ..errors import PromptError
from .conversation import MEDIA, Part, as_messages, placed, short_form
from .prompt import GIVEN, ROLES, SHORT, SPLITS, Prompt, Role, Split
from .reading import portable

OWN = ("role", "pair", "split", "id", "answer", "read_text", "read_answer", "wording", "meta")
JSONS: Mapping[str, type] = {"messages": list, "tools": list, "documents": list, "thinking": bool, "meta": dict}
"""Fields that are no strings."""
FIELDS = (*SHORT, *OWN, "messages", *GIVEN)
SHOWN = 10  # bad rows named in an error

Raw: TypeAlias = tuple[str, Callable[[], Mapping[str, Any]]]
"""Where a row stands ("line 3"), and a function that gives its fields or raises ValueError."""


def read_jsonl(path: str | os.PathLike[str]) -> list[Prompt]:
    """Reads a JSONL file.

    Raises:
        PromptError: no such file, or bad rows, all of them in one error.
    """
    file = Path(path)
    lines = _read_text(file).split("\n")  # not splitlines: it also splits at separators that JSON allows in a string
    rows = [(f"line {number}", _json_row(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    return _build(rows, file, file.parent)


def read_csv(path: str | os.PathLike[str]) -> list[Prompt]:
    """Reads a CSV file with a header line.

    Raises:
        PromptError: no such file, no header, or bad rows, all of them in one error.
    """
    file = Path(path)
    reader = csv.reader(io.StringIO(_read_text(file), newline=""), strict=True)
    rows: list[Raw] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = [cell.strip() for cell in cells]
            elif any(cell.strip() for cell in cells):
                rows.append((f"line {reader.line_num}", _csv_row(header, cells)))
    except csv.Error as error:
        raise PromptError(f"read {file}", f"line {reader.line_num}: {error}", "give a CSV file") from None
    if header is None or not {"text", "messages"} & set(header) or len(set(header)) < len(header):
        raise PromptError(
            f"read {file}", f"its header is {str(header)[:200]}", f"name columns once each: {', '.join(FIELDS)}"
        )
    return _build(rows, file, file.parent)


def read_path(path: str | os.PathLike[str]) -> list[Prompt]:
    """Reads a folder, a CSV file (by its ending, in any case) or else a JSONL file.

    Raises:
        PromptError: as `read_folder`, `read_csv` and `read_jsonl`.
    """
    file = Path(path)
    if file.is_dir():
        return read_folder(file)
    return read_csv(file) if file.suffix.lower() == ".csv" else read_jsonl(file)


def read_folder(path: str | os.PathLike[str], *, text: str | None = None) -> list[Prompt]:
    """Reads a folder.

    Args:
        path: the folder, laid out as this module's docstring says.
        text: the instruction for media that have no text file beside them.

    Raises:
        PromptError: no such folder, nothing in it that fits, or bad files, all of them in one error.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise PromptError(f"read folder {folder}", "no such folder", "check the path")
    for name, read in (("prompts.jsonl", read_jsonl), ("prompts.csv", read_csv)):
        if (folder / name).is_file():
            return read(folder / name)
    rows = list(_folder_rows(folder, text))
    if not rows:
        raise PromptError(f"read folder {folder}", "no sub-folder named after a role", f"make {', '.join(ROLES)}")
    return _build(rows, folder, folder)


def write_jsonl(prompts: Iterable[Prompt], path: str | os.PathLike[str]) -> Path:
    """Writes a JSONL file, and every medium as a file in a folder beside it (`NAME-media/`).

    Images become PNG, frames a folder of PNG, waveforms float WAV, all of them without loss; files already on disk are
    copied. The JSONL file appears only when everything is written.

    Returns:
        the path written.

    Raises:
        MediaError: a medium cannot be read.
        PromptError: `meta` cannot be written as JSON.
    """
    file = Path(path)
    folder = file.with_name(file.stem + "-media")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for prompt in prompts:
        if prompt.media:
            folder.mkdir(exist_ok=True)
        turns = [
            dataclasses.replace(turn, parts=tuple(_written(prompt, part, folder) for part in turn.parts))
            for turn in prompt.turns
        ]
        said: dict[str, Any] = short_form(turns) or {"messages": as_messages(turns)}
        row = said | {name: getattr(prompt, name) for name in (*OWN, *GIVEN)}
        kept = {name: row[name] for name in FIELDS if row.get(name) not in (None, {})}
        try:
            lines.append(json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n")
        except (TypeError, ValueError) as error:
            raise PromptError(f"write prompt {prompt.id!r}", f"its meta: {error}", "keep JSON values in meta") from None
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_text("".join(lines), encoding="utf-8", newline="\n")
    unfinished.replace(file)
    return file


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(f"read {file}", f"line {line} is not UTF-8", "save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise PromptError(f"read {str(file)[:200]}", why, "check the path") from None


def _json_row(line: str) -> Callable[[], Mapping[str, Any]]:
    def fields() -> Mapping[str, Any]:
        row = _json(line)
        if not isinstance(row, dict):
            raise ValueError(f"a JSON {type(row).__name__}, not an object")
        return row

    return fields


def _json(text: str, what: str = "") -> Any:
    """A JSON value; ValueError says in one line what is wrong."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{what}nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what}not JSON ({error})") from None


def _csv_row(header: list[str], cells: list[str]) -> Callable[[], Mapping[str, Any]]:
    def fields() -> Mapping[str, Any]:
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells, the header has {len(header)}")
        row: dict[str, Any] = {}
        for name, cell in zip(header, cells, strict=True):
            if cell and name.startswith("meta."):
                row.setdefault("meta", {})[name.removeprefix("meta.")] = cell
            elif cell and name == "meta":
                raise ValueError("a column meta; name it meta.NAME")
            elif cell and name in JSONS:
                row[name] = _json(cell, f"{name} is ")
            elif cell:
                row[name] = cell
        return row

    return fields


def _folder_rows(folder: Path, text: str | None) -> Iterator[Raw]:
    """One row per medium, and per text file that has no medium beside it."""
    from .media import KIND_OF

    homes: list[tuple[Path, Split | None, Role]] = []
    for split in (None, *SPLITS):
        homes += [(folder / (split or "") / role, split, role) for role in ROLES]
    for home, split, role in homes:
        visible = [file for file in home.iterdir() if file.is_file() and file.name[:1] != "."] if home.is_dir() else []
        files = sorted(visible, key=lambda file: portable(file.name))
        with_medium = {file.stem for file in files if file.suffix.lower() in KIND_OF}
        for file in files:
            name = file.relative_to(folder).as_posix()
            known: dict[str, Any] = {"role": role, "split": split, "pair": portable(file.stem), "id": portable(name)}
            if file.suffix.lower() in KIND_OF:
                yield name, _file_row({**known, KIND_OF[file.suffix.lower()]: name}, file.with_suffix(".txt"), text)
            elif file.suffix.lower() == ".txt" and file.stem not in with_medium:
                yield name, _file_row(known, file, None)


def _file_row(known: dict[str, Any], file: Path, text: str | None) -> Callable[[], Mapping[str, Any]]:
    def fields() -> Mapping[str, Any]:
        if file.is_file():
            return {**known, "text": _read_text(file).strip()}
        if text is None:
            raise ValueError(f"no {file.name} beside it; write one, or give text=")
        return {**known, "text": text}

    return fields


def _build(rows: Iterable[Raw], file: Path, base: Path) -> list[Prompt]:
    """Prompts from raw rows; one error for all that is wrong with them."""
    bad: list[str] = []
    prompts: list[Prompt] = []
    first: dict[str, str] = {}  # id -> where it stands
    home: dict[str, tuple[Split, str]] = {}  # pair -> its split, and where that was said
    for where, fields in rows:
        try:
            prompt = _prompt(fields(), base)
        except PromptError as error:
            bad.append(f"{where}: {error.found}")
            continue
        except ValueError as error:
            bad.append(f"{where}: {error}")
            continue
        if prompt.id in first:
            bad.append(f"{where}: id {prompt.id[:60]!r} is taken by {first[prompt.id]}")
        if prompt.split is not None:
            split, said = home.setdefault(prompt.pair, (prompt.split, where))
            if split != prompt.split:
                bad.append(f"{where}: pair {prompt.pair[:60]!r} is in {prompt.split}, but in {split} by {said}")
        first.setdefault(prompt.id, where)
        prompts.append(prompt)
    if bad:
        shown = "; ".join(bad[:SHOWN]) + (f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
        raise PromptError(f"read {file}", f"{len(bad)} bad rows: {shown}", "correct them; nothing was loaded")
    # A prompt that says no split goes where its pair is.
    return [
        prompt.replace(split=home[prompt.pair][0]) if prompt.split is None and prompt.pair in home else prompt
        for prompt in prompts
    ]


def _prompt(row: Mapping[str, Any], base: Path) -> Prompt:
    """A prompt from the fields of one row, media looked up but not decoded."""
    from .media import check_part

    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        raise ValueError(f"unknown field {unknown[0][:60]!r}")
    given = {name: value for name, value in row.items() if value is not None}
    if not {"text", "messages"} & set(given):
        raise ValueError("no text")
    for name, value in given.items():
        if not isinstance(value, JSONS.get(name, str)):
            raise ValueError(f"{name} is a {type(value).__name__}")
        strange = [one for one in value if not isinstance(one, dict)] if isinstance(value, list) else []
        if strange:
            raise ValueError(f"{name} hold a {type(strange[0]).__name__}")
    for name in MEDIA:
        if name in given:
            if not given[name] or "\0" in given[name]:
                raise ValueError(f"{name} is no path")
            given[name] = base / given[name]
    if "messages" in given:
        given["messages"] = placed(given["messages"], base)
    if given.get("role", ROLES[0]) not in ROLES:
        raise ValueError(f"role {str(given['role'])[:60]!r} is none of {', '.join(ROLES)}")
    if given.get("split", SPLITS[0]) not in SPLITS:
        raise ValueError(f"split {str(given['split'])[:60]!r} is none of {', '.join(SPLITS)}")
    prompt = Prompt(**given)
    for part in prompt.media:
        try:
            check_part(part, part.kind)
        except PromptError as error:
            raise ValueError(f"{part.kind} {Path(part.value).name[:60]!r}: {error.found}") from None
    return prompt


def _written(prompt: Prompt, part: Part, folder: Path) -> Part:
    """A part with its medium, if it is one, as a path of a file in `folder`, relative to the folder above."""
    if part.kind == "text":
        return part
    path = _write_medium(part, f"{part.kind} of prompt {prompt.id!r}", folder)
    return Part(part.kind, path.relative_to(folder.parent).as_posix())


def _write_medium(part: Part, name: str, folder: Path) -> Path:
    """Writes a medium into `folder` under a name made from its content, and returns that path.

    Such names never clash, also when a set is written over the file it was read from.
    """
    from . import media
    from .video import TIMES_FILE, Clip
    from .waveforms import wav_bytes

    target = folder / media.digest_of(part, name)[:16]
    medium = part.value
    if isinstance(medium, (str, os.PathLike)) and Path(medium).is_file():
        copy = target.with_suffix(Path(medium).suffix.lower())
        copy.write_bytes(Path(medium).read_bytes())
        return copy
    found = media.load(part, name)
    if part.kind == "audio":
        sound = target.with_suffix(".wav")
        sound.write_bytes(wav_bytes(cast("Any", found)))
        return sound
    if isinstance(found, list):
        target.mkdir(exist_ok=True)
        for number, frame in enumerate(found):
            frame.save(target / f"{number:05d}.png")
        if isinstance(found, Clip) and found.timed:
            (target / TIMES_FILE).write_text("".join(f"{time!r}\n" for time in found.schedule), encoding="utf-8")
        return target
    picture = target.with_suffix(".png")
    cast("Any", found).save(picture)
    return picture
