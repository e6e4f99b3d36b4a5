"""Corpora that nobody named: the sub-folders and data files of one folder.

Belongs here: which entries of the folder are corpora, under which names, and why others are not. Does not belong here:
what is in them (``corpus/``), and when they are looked at (``automation/``). Nothing is read but names.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

PARTITION_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""What a corpus may be called. Dagster accepts more, and its UI and backfills then break (dagster#32183)."""

TEMPORARY_SUFFIXES = (".part", ".tmp", ".crdownload", "~")
"""How programs name a file that they have not finished, or a copy that an editor left."""

DATA_SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".csv", ".tsv", ".txt")
COMPRESSION_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz")
"""What a single file ends with that is a corpus of its own; anything else belongs into a folder."""


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        corpora: absolute path of each corpus, by name.
        skipped: why other entries are passed over, one sentence each.
    """

    corpora: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is hidden or unfinished: it is never read."""
    return name.startswith(".") or name.lower().endswith(TEMPORARY_SUFFIXES)


def find_corpora(folder: Path, named: Iterable[str], taken: Iterable[str]) -> Found:
    """The corpora directly below a folder.

    Args:
        folder: the folder.
        named: absolute locations of corpora that the study names itself; what they hold is not read a second time.
        taken: corpus names and partition keys that the study uses already.
    """
    locations, names = list(named), set(taken)
    corpora: dict[str, str] = {}
    skipped: list[str] = []
    for path, is_folder in _entries(folder):
        if any(_shares_files(path, location) for location in locations):
            continue
        name = path.name if is_folder else _stem(path.name)
        if reason := _refusal(path, name, is_folder, names | set(corpora)):
            skipped.append(f"{path} is passed over: {reason}")
        elif name:
            corpora[name] = str(path)
    return Found(corpora, tuple(skipped))


def listing(folder: Path) -> tuple[str, ...]:
    """What :func:`find_corpora` depends on, cheap to ask for: the entries, and whether each holds a file."""
    return tuple(f"{path.name} {is_folder and not _holds_a_file(path)}" for path, is_folder in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Paths directly below a folder that may be corpora, sorted by name, and whether each is a folder."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry.name, entry.is_dir()) for entry in found if not is_temporary(entry.name))
    except FileNotFoundError:
        return
    for name, is_folder in entries:
        if is_folder or not name.upper().startswith("README"):
            yield folder / name, is_folder


def _stem(name: str) -> str:
    """A data file's name without its suffixes; empty where it is no data file."""
    lower = name.lower()
    packed = next((suffix for suffix in COMPRESSION_SUFFIXES if lower.endswith(suffix)), "")
    bare = name[: len(name) - len(packed)]
    suffix = next((suffix for suffix in DATA_SUFFIXES if bare.lower().endswith(suffix)), "")
    return bare[: -len(suffix)] if suffix else ""


def _refusal(path: Path, name: str, is_folder: bool, taken: set[str]) -> str:
    """Why an entry is no corpus, and what to do; empty where it is one."""
    if not is_folder and not _stem(path.name):
        return f"a single file is a corpus where it ends with {', '.join(DATA_SUFFIXES)}; put others into a folder."
    if not PARTITION_KEY.fullmatch(name):
        return (
            f"a corpus is named with a-z, 0-9, _ and - and starts with a letter or digit, and {name!r} does not; "
            "rename it, or name it in study.toml."
        )
    if name in taken:
        return f"the study has another corpus or partition {name!r}; rename one of them."
    if is_folder and not _holds_a_file(path):
        return "it holds no file yet."
    return ""


def _holds_a_file(folder: Path) -> bool:
    """Whether there is a finished file anywhere below."""
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_temporary(name)]
        if not all(is_temporary(name) for name in names):
            return True
    return False


def _shares_files(path: Path, location: str) -> bool:
    """Whether a location that the study names holds an entry's files, or lies inside it."""
    if "://" in location:
        return False
    parts = PurePath(location).parts
    first = next((i for i, part in enumerate(parts) if any(mark in part for mark in "*?[")), len(parts))
    if first == len(parts) or Path(location).exists():
        return path.is_relative_to(location) or PurePath(location).is_relative_to(path)
    inside = PurePath(*parts[:first]).is_relative_to(path)
    return inside or PurePath(*path.parts[: len(parts)]).match(location)
