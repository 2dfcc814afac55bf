"""Where the files of a data set lie: a local copy, a repository of the hub, a repository of GitHub.

Whatever is fetched or unpacked lies below one folder of the user's cache (REFUSAL_PLUGIN_DATA names another), media
that a table holds as bytes too, under a name made of their content.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from .registry import Dataset

SECONDS = 60
BEGINNINGS = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}
"""How sounds begin, and the ending that says so: tables name them without one."""


def cache_folder() -> Path:
    """Where fetched files and unpacked media are kept."""
    given = os.environ.get("REFUSAL_PLUGIN_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(cache) / "refusal-plugin" / "datasets"


@dataclass(frozen=True)
class Place:
    """Where one set is read from.

    Attributes:
        entry: the set.
        base: a folder with the repository's layout, or None for the repository itself.
        revision: commit, branch or tag of the repository; empty for its newest state.
    """

    entry: Dataset
    base: Path | None
    revision: str

    @property
    def folder(self) -> Path:
        """What is kept of the set and of this state of it; a copy's by where it lies."""
        state = self.revision or "newest"
        if self.base is not None:
            state = "copy-" + hashlib.sha256(str(self.base.resolve()).encode()).hexdigest()[:12]
        return cache_folder() / self.entry.name / state.replace("/", "-")

    def file(self, name: str, archive: str = "") -> Path:
        """A file of the set, fetched if it is not here yet, from an archive of it if one is named.

        Raises:
            DataError: no such file, or it cannot be fetched.
        """
        inside = PurePosixPath(name.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts:
            raise DataError(
                f"load {self.entry.name!r}", f"the file name {name[:80]!r} leaves the set", "check the copy"
            )
        if archive and not (self.base is not None and (self.base / inside).exists()):
            return self._here(self._unpacked(archive) / inside)
        if self.base is not None:
            return self._here(self.base / inside)
        return self._fetched(str(inside))

    def keep(self, raw: bytes, path: str | None) -> Path:
        """Bytes of a medium as a file, named by their content."""
        ending = next((end for start, end in BEGINNINGS.items() if raw.startswith(start)), "")
        target = self.folder / "media" / hashlib.sha256(raw).hexdigest()[:24]
        target = target.with_suffix(ending or Path(path or "x.png").suffix.lower())
        if not target.exists():
            _written(target, raw)
        return target

    def _here(self, path: Path) -> Path:
        if not path.exists():
            found = f"no file {path.name!r} in {path.parent}"
            raise DataError(
                f"load {self.entry.name!r}", found, "give the folder that has the set's own layout as path="
            )
        return path

    def _unpacked(self, archive: str) -> Path:
        target = self.folder / "unpacked" / archive.replace("/", "-")
        if not target.exists():
            packed, unfinished = self.file(archive), target.with_name(target.name + ".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            safe: dict[str, Any] = {} if packed.suffix.lower() == ".zip" else {"filter": "data"}
            try:
                shutil.unpack_archive(packed, unfinished, **safe)
            except (OSError, ValueError, shutil.ReadError) as error:
                raise DataError(f"load {self.entry.name!r}", f"{archive}: {error}", "fetch it again") from None
            unfinished.replace(target)
        return target

    def _fetched(self, name: str) -> Path:
        entry, asked = self.entry, f"load {self.entry.name!r}"
        do = "check the connection and the set's terms, or pass a copy as path="
        try:
            if entry.hub:
                from huggingface_hub import hf_hub_download

                return Path(hf_hub_download(entry.hub, name, repo_type="dataset", revision=self.revision or None))
            target = self.folder / "files" / name
            if entry.github and not target.exists():
                if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true"):
                    raise OSError("HF_HUB_OFFLINE is set")
                state = self.revision or "HEAD"
                url = f"https://raw.githubusercontent.com/{entry.github}/{state}/{urllib.parse.quote(name)}"
                with urllib.request.urlopen(url, timeout=SECONDS) as answer:
                    _written(target, answer.read())
        except (OSError, ValueError) as error:
            why = " ".join(str(error).split())[:160]
            raise DataError(asked, f"{name} cannot be fetched from {entry.source} ({why})", do) from None
        return self._here(target)


def _written(target: Path, raw: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.part")
    unfinished.write_bytes(raw)
    unfinished.replace(target)
