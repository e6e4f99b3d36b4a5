"""Which files a corpus consists of, under which names, and what their content hashes to.

Belongs here: folders, globs, URLs, patterns, buckets. Does not belong here: what is inside a file (``readers.py``).
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import fsspec
import xxhash

from ppl_assets.corpus.errors import CorpusError
from ppl_assets.discovery import is_temporary
from ppl_assets.sections import CorpusSection

READ_BYTES = 1 << 20
VERSIONED_SETTINGS = ("role", "format", "text_field", "id_field", "sample", "max_characters")
"""Settings that change which documents come out of the same files. ``include``, ``exclude`` and ``path`` act through
the list of files, ``on_bad_row`` decides only between all rows and an error."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a corpus.

    Attributes:
        url: local path, or fsspec URL.
        relative: its name inside the corpus, with ``/``; the same on every machine, part of document ids.
        size: bytes as stored.
        modified: when it was last written, nanoseconds; 0 for a URL. Decides nothing: touched text is the same text.
    """

    url: str
    relative: str
    size: int
    modified: int = field(default=0, compare=False)

    def open(self) -> BinaryIO:
        """Open for binary reading, still compressed."""
        if "://" in self.url:
            return cast("BinaryIO", fsspec.open(self.url, "rb").open())
        return Path(self.url).open("rb")


def list_files(settings: CorpusSection, *, bucket: int = 0) -> list[SourceFile]:
    """The files of a corpus, or of one bucket of it, sorted by relative name.

    Folders are read to the bottom; what is hidden or unfinished by its name (``.part``, ``.tmp``, ``.crdownload``,
    ``~``), ``__pycache__`` and ``*.pyc`` are left out. Links to files
    are read, links to folders are not entered, so a loop cannot be walked. Where ``path`` names several locations,
    relative names start with the last part of theirs (``~2`` is added where two locations end alike), so equal names
    stay apart; a file reached by two locations is read once.

    Patterns of ``include`` and ``exclude`` are matched against the name inside the location. One with a slash matches
    the whole name: ``*`` stays within a folder, ``**`` crosses them, ``stats/`` is ``stats/**``. One without a slash
    (``*.py``, ``tests``) matches the name of the file or of any folder above it. ``**`` matches everything.

    Raises:
        CorpusError: nothing is left to read. An empty bucket of a corpus that has files is no error.
    """
    labels = _labels(settings.paths)
    found: dict[str, SourceFile] = {}
    for location, label in zip(settings.paths, labels, strict=True):
        for file in _files_at(location):
            if _is_wanted(file.relative, settings):
                found.setdefault(file.url, replace(file, relative=_readable(_under(label, file.relative))))
    if not found:
        raise CorpusError(
            f"no file to read in {', '.join(settings.paths)} (include {settings.include}, exclude {settings.exclude}); "
            "name a folder, file, glob or URL that holds files, or widen include."
        )
    files = sorted(found.values(), key=lambda file: (file.relative, file.url))
    return [file for file in files if bucket_of(file.relative, settings.buckets) == bucket]


def bucket_of(relative: str, buckets: int) -> int:
    """The bucket of a file: depends on its name only, so that a new file never moves an old one."""
    return xxhash.xxh3_64_intdigest(relative.encode()) % buckets


def corpus_version(settings: CorpusSection, bucket: int = 0) -> str:
    """Digest of what a corpus, or one bucket of it, says: 32 hexadecimal digits.

    Covers name and content of every file and the settings that decide which documents come out
    (``VERSIONED_SETTINGS``). Reads every byte, in constant memory; modification times do not count.

    Raises:
        CorpusError: there is nothing to read, or a file cannot be read.
    """
    digest = xxhash.xxh3_128()
    for name in VERSIONED_SETTINGS:
        digest.update(f"{name}={getattr(settings, name)!r}\n".encode())
    for file in list_files(settings, bucket=bucket):
        digest.update(f"{file.relative}\0{_content_hash(file)}\n".encode())
    return digest.hexdigest()


def _content_hash(file: SourceFile) -> str:
    digest = xxhash.xxh3_128()
    try:
        with file.open() as stream:
            while block := stream.read(READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise CorpusError(
            f"{file.url} cannot be read ({error.strerror or error}); repair it, remove it, or name it under exclude"
        ) from error
    return digest.hexdigest()


def _labels(locations: list[str]) -> list[str]:
    """What relative names of each location start with: nothing for a single one, else its last part."""
    if len(locations) == 1:
        return [""]
    seen: Counter[str] = Counter()
    labels = []
    for location in locations:
        base, _ = _split_glob(location)
        name = PurePosixPath(base.rstrip("/")).name or "root"
        seen[name] += 1
        labels.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return labels


def _under(label: str, relative: str) -> str:
    """A name below its location's label; a location that is one file keeps the label alone, suffix and all."""
    if not label:
        return relative
    return label if "/" not in relative and label.partition("~")[0] == relative else f"{label}/{relative}"


def _files_at(location: str) -> Iterator[SourceFile]:
    """Every file of one location, relative to it, before ``include`` and ``exclude``."""
    location = location.removeprefix("file://")
    base, pattern = (location, "") if _exists(location) else _split_glob(location)
    walk = _walk_remote if "://" in base else _walk_local
    matches = _below(pattern) if pattern else None
    for file in walk(base):
        if matches is None or matches(file.relative):
            yield file


def _exists(location: str) -> bool:
    """Whether a location with ``[`` or ``*`` in its name is meant literally."""
    return "://" not in location and Path(location).exists()


def _split_glob(location: str) -> tuple[str, str]:
    """A location as the folder before its first wildcard, and the pattern below it (empty without wildcard)."""
    protocol, separator, path = location.rpartition("://")
    parts = path.split("/")
    first = next((i for i, part in enumerate(parts) if any(mark in part for mark in "*?[")), len(parts))
    return protocol + separator + ("/".join(parts[:first]) or "/"), "/".join(parts[first:])


def _walk_local(base: str) -> Iterator[SourceFile]:
    root = Path(base)
    if root.is_file():
        yield _local(root, root.name)
        return
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = [name for name in folders if not _is_skipped(name)]
        for name in names:
            path = Path(folder) / name
            if not _is_skipped(name) and path.is_file():
                yield _local(path, path.relative_to(root).as_posix())


def _local(path: Path, relative: str) -> SourceFile:
    facts = path.stat()
    return SourceFile(str(path), relative, facts.st_size, facts.st_mtime_ns)


def _walk_remote(base: str) -> Iterator[SourceFile]:
    filesystem, root = fsspec.core.url_to_fs(base)
    if filesystem.isfile(root):
        yield SourceFile(base, PurePosixPath(root).name, int(filesystem.info(root)["size"] or 0))
        return
    for name, info in filesystem.find(root, detail=True).items():
        relative = name.removeprefix(root).strip("/")
        if not any(_is_skipped(part) for part in relative.split("/")):
            yield SourceFile(filesystem.unstrip_protocol(name), relative, int(info["size"] or 0))


def _is_skipped(name: str) -> bool:
    return is_temporary(name) or name == "__pycache__" or name.endswith(".pyc")


def _is_wanted(relative: str, settings: CorpusSection) -> bool:
    included = any(_matcher(pattern)(relative) for pattern in settings.include)
    return included and not any(_matcher(pattern)(relative) for pattern in settings.exclude)


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a relative name matches one pattern of ``include`` or ``exclude``."""
    pattern = pattern.removeprefix("./")
    if pattern.endswith("/"):
        pattern += "**"
    expression = re.compile(_expression(pattern))
    if "/" in pattern or pattern == "**":
        return lambda relative: expression.fullmatch(relative) is not None
    return lambda relative: any(expression.fullmatch(part) for part in relative.split("/"))


def _below(pattern: str) -> Callable[[str], bool]:
    """Whether a name matches a location's glob, or lies in a folder that does."""
    expression = re.compile(f"{_expression(pattern)}(?:/.*)?", re.DOTALL)
    return lambda relative: expression.fullmatch(relative) is not None


def _expression(pattern: str) -> str:
    """A glob as a regular expression: ``**/`` any folders or none, ``**`` anything, ``*`` and ``?`` within a name."""
    token = re.compile(r"\*\*/|\*\*|\*|\?|\[(!?)([^\]/]+)\]|.", re.DOTALL)

    def translate(match: re.Match[str]) -> str:
        text = match.group()
        if match.group(2):
            inside = match.group(2).replace("\\", r"\\").replace("[", r"\[").replace("^", r"\^")
            return f"[{'^' if match.group(1) else ''}{inside}]"
        return {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(text, re.escape(text))

    return "(?s:" + token.sub(translate, pattern) + ")"


def _readable(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 on disk are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
