"""Which corpora have changed files, told from names, sizes and times: cheap enough to ask twice a minute.

Belongs here: what counts as changed, and when it is quiet enough to be read. What changed is decided by reading the
content (``files.corpus_version``), so a file that was only touched costs one look.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import xxhash

from ppl_assets.corpus.errors import CorpusError
from ppl_assets.corpus.files import VERSIONED_SETTINGS, bucket_of, list_files
from ppl_assets.sections import CorpusSection
from ppl_assets.study import Study, partition_key

GONE = "gone"
"""Stamp of a corpus that the study no longer has."""

MOVING = "moving"
"""Stamp of a corpus whose files come and go while they are listed."""


@dataclass(frozen=True)
class Stamp:
    """What a corpus partition's files look like from outside.

    Attributes:
        digest: of every file's name, size and time, and of the settings that decide which documents come out.
        modified: when the newest file was written, seconds since 1970; 0 where there is none, or for a URL.
    """

    digest: str
    modified: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What is remembered of a partition from one look to the next.

    Attributes:
        digest: of its last stamp.
        since: when it first looked like that, seconds since 1970.
        asked: digest for which an observation was last asked; empty: never.
    """

    digest: str
    since: float
    asked: str = ""


@dataclass(frozen=True)
class Look:
    """What one look at all corpora says.

    Attributes:
        changed: partitions to observe: they changed, and have been quiet for the settle time since.
        waiting: partitions that changed and are not quiet yet.
        gone: partitions that have been away for the settle time.
        memory: for the next look.
    """

    changed: list[str]
    waiting: list[str]
    gone: list[str]
    memory: dict[str, Seen]


def look(stamps: Mapping[str, str], memory: Mapping[str, Seen], now: float, settle: float) -> Look:
    """Compare how partitions look now with what is remembered.

    Args:
        stamps: digest of each partition's stamp; GONE for one that is registered and that the study no longer has.
        memory: of the last look; empty: every partition is asked for once it is quiet.
        now: seconds since 1970.
        settle: seconds without a change after which a partition is read, or given up.
    """
    found = Look([], [], [], {})
    for partition, digest in stamps.items():
        seen = memory.get(partition) or Seen("", now)
        if seen.digest != digest or digest == MOVING:
            seen = Seen(digest, now, seen.asked)
        is_quiet = digest != MOVING and now - seen.since >= settle
        if digest == GONE and is_quiet:
            found.gone.append(partition)
            continue
        if digest not in (seen.asked, GONE):
            (found.changed if is_quiet else found.waiting).append(partition)
            seen = replace(seen, asked=digest) if is_quiet else seen
        found.memory[partition] = seen
    return found


def to_json(memory: Mapping[str, Seen]) -> dict[str, dict[str, object]]:
    """What is remembered, as JSON takes it."""
    return {partition: asdict(seen) for partition, seen in memory.items()}


def from_json(stored: object) -> dict[str, Seen]:
    """The inverse; nothing where it was written by another version."""
    try:
        return {partition: Seen(**seen) for partition, seen in dict(stored or {}).items()}  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return {}


def study_stamps(study: Study) -> tuple[dict[str, Stamp], list[str]]:
    """The stamp of each corpus partition, and a sentence for each corpus that cannot be listed."""
    stamps: dict[str, Stamp] = {}
    problems = []
    for name, corpus in study.corpora.items():
        try:
            of_bucket = corpus_stamps(corpus)
        except FileNotFoundError:
            of_bucket = dict.fromkeys(range(corpus.buckets), Stamp(MOVING))
        except (CorpusError, OSError) as error:
            problems.append(f"corpus {name} is not looked at: {error}")
            continue
        stamps |= {partition_key(name, bucket, corpus.buckets): stamp for bucket, stamp in of_bucket.items()}
    return stamps, problems


def corpus_stamps(corpus: CorpusSection) -> dict[int, Stamp]:
    """The stamp of each bucket of a corpus.

    A corpus with a URL is not listed, which costs time and money at every look: its stamp is that of its settings.

    Raises:
        CorpusError: there is nothing to read.
        FileNotFoundError: a file went away meanwhile.
    """
    settings = json.dumps(
        [corpus.paths, corpus.include, corpus.exclude, *(getattr(corpus, n) for n in VERSIONED_SETTINGS)]
    )
    digests = [xxhash.xxh3_128(settings.encode()) for _ in range(corpus.buckets)]
    newest = [0] * corpus.buckets
    is_remote = any("://" in path for path in corpus.paths)
    for file in [] if is_remote else list_files(corpus.model_copy(update={"buckets": 1})):
        bucket = bucket_of(file.relative, corpus.buckets)
        digests[bucket].update(f"{file.relative}\0{file.size}\0{file.modified}\n".encode())
        newest[bucket] = max(newest[bucket], file.modified)
    return {bucket: Stamp(digest.hexdigest(), newest[bucket] / 1e9) for bucket, digest in enumerate(digests)}
