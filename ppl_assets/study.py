"""One typed description of a study: what a person decides, read from ``study.toml``.

Every key can be overridden from the environment: ``PPL__SELECTION__TOKENS=500000`` sets ``[selection] tokens``.
Validation happens once, in :func:`load_study`, and every problem is one sentence that names the key, the value and
what is accepted. Nothing here imports Dagster, torch or DuckDB.
"""

import difflib
import importlib.util
import os
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ppl_assets.discovery import PARTITION_KEY, Found, find_corpora
from ppl_assets.errors import UserError
from ppl_assets.sections import (
    BaseModelSection,
    ChunksSection,
    CorpusSection,
    DiscoverySection,
    ExportSection,
    HeldOutSection,
    LandscapeSection,
    LawSection,
    RegimesSection,
    ScoreSection,
    SelectionSection,
    StorageSection,
    StrategiesSection,
    StudySection,
    TrialsSection,
)
from ppl_assets.study_rules import broken_rules

ENVIRONMENT_PREFIX = "PPL__"


class StudyError(UserError, ValueError):
    """The study cannot be used as written; the message says which key, what was given and what is accepted."""


class Study(BaseSettings):
    """A whole study; see ``study.toml`` for an annotated example."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    study: StudySection = Field(default_factory=StudySection)
    storage: StorageSection = Field(default_factory=StorageSection)
    found: ClassVar[Found] = Found()
    """Of a loaded study: which corpora were found in ``discovery.folder``, and what was passed over."""

    corpora: dict[str, CorpusSection] = Field(min_length=1)
    discovery: DiscoverySection = Field(default_factory=DiscoverySection)
    held_out: HeldOutSection = Field(default_factory=HeldOutSection)
    base_model: BaseModelSection = Field(default_factory=BaseModelSection)
    chunks: ChunksSection = Field(default_factory=ChunksSection)
    score: ScoreSection = Field(default_factory=ScoreSection)
    landscape: LandscapeSection = Field(default_factory=LandscapeSection)
    regimes: RegimesSection = Field(default_factory=RegimesSection)
    trials: TrialsSection = Field(default_factory=TrialsSection)
    law: LawSection = Field(default_factory=LawSection)
    selection: SelectionSection
    export: ExportSection = Field(default_factory=ExportSection)
    strategies: StrategiesSection = Field(default_factory=StrategiesSection)

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        for name in self.corpora:
            if not PARTITION_KEY.fullmatch(name):
                raise ValueError(
                    f"corpora.{name}: a corpus is named with a-z, 0-9, _ and - and starts with a letter or digit"
                )
        if found := list(broken_rules(self)):
            raise ValueError("\n".join(found))
        return self

    def with_role(self, role: str) -> dict[str, CorpusSection]:
        """The corpora of one role, in the order of the file."""
        return {name: corpus for name, corpus in self.corpora.items() if corpus.role == role}

    @property
    def has_target(self) -> bool:
        """Whether the study names curated target text; otherwise test documents are held out of the corpora."""
        return bool(self.with_role("test"))

    @property
    def limited_corpora(self) -> dict[str, CorpusSection]:
        """The corpora whose share of the selected tokens is limited, in the order of the file."""
        return {name: corpus for name, corpus in self.corpora.items() if corpus.min_share > 0 or corpus.max_share < 1}

    def corpus_partitions(self) -> list[str]:
        """Partition keys of the corpus assets: one a corpus, or one a bucket for a corpus that has several."""
        return [
            partition_key(name, bucket, c.buckets) for name, c in self.corpora.items() for bucket in range(c.buckets)
        ]

    def corpus_of(self, partition: str) -> tuple[str, CorpusSection, int]:
        """Name, settings and bucket number of a corpus partition.

        Raises:
            StudyError: the study has no such corpus.
        """
        for name, corpus in self.corpora.items():
            for bucket in range(corpus.buckets):
                if partition == partition_key(name, bucket, corpus.buckets):
                    return name, corpus, bucket
        raise StudyError(
            f"corpus partition {partition!r} is not in the study; it has {', '.join(self.corpus_partitions())}. "
            "Add it to study.toml, or remove the partition."
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; the file is bound by :func:`load_study`."""
        file = cls.model_config.get("toml_file")
        if not file:
            return (init_settings, env_settings)
        return (env_settings, TomlConfigSettingsSource(settings_cls, file), DiscoveredCorpora(settings_cls))


class DiscoveredCorpora(PydanticBaseSettingsSource):
    """The corpora of ``discovery.folder``, beside those that file and environment name.

    A section of the study file that has the name of one and no path gives its further settings.
    """

    def get_field_value(self, _field: Any, _name: str) -> tuple[Any, str, bool]:
        """Unused: this source gives one field."""
        return None, "", False

    def __call__(self) -> dict[str, Any]:
        """``corpora``: a path for each; what is passed over is kept in ``found`` of the class that is being made."""
        base = Path(str(self.config["toml_file"])).parent
        folder = _discovery_folder(self.current_state.get("discovery"), base)
        if folder is None:
            return {}
        if not folder.is_dir():
            raise StudyError(f"discovery.folder = {str(folder)!r} is no folder; make it, or name one that exists")
        given = self.current_state.get("corpora")
        named = {
            name: corpus for name, corpus in (given or {}).items() if isinstance(corpus, dict) and "path" in corpus
        }
        found = find_corpora(folder, _named_locations(named, base), _taken_keys(named))
        self.settings_cls.found = found  # type: ignore[attr-defined]
        return {"corpora": {name: {"path": path} for name, path in found.corpora.items()}}


def _discovery_folder(section: Any, base: Path) -> Path | None:
    """The folder that a ``[discovery]`` table names, absolute; None where it names none.

    Raises:
        StudyError: it is a URL.
    """
    given = section.get("folder") if isinstance(section, dict) else None
    if not isinstance(given, str) or not given:
        return None
    if "://" in given:
        raise StudyError(f"discovery.folder = {given!r} is a URL; name a folder of this machine, or name its corpora")
    return Path(os.path.normpath(resolve_location(given, base)))


def _named_locations(corpora: dict[str, Any], base: Path) -> Iterator[str]:
    """Normalized absolute locations of corpora as given."""
    for corpus in corpora.values():
        given = corpus["path"]
        for path in given if isinstance(given, list) else [given]:
            if isinstance(path, str) and not path.startswith(("stdlib:", "package:")) and "://" not in path:
                yield os.path.normpath(resolve_location(path, base))


def _taken_keys(corpora: dict[str, Any]) -> Iterator[str]:
    """Names and partition keys of corpora as given."""
    for name, corpus in corpora.items():
        yield name
        buckets = str(corpus.get("buckets", 1))
        yield from (partition_key(name, bucket, int(buckets)) for bucket in range(int(buckets) * buckets.isdigit()))


def discovery_folder(path: str | Path) -> Path | None:
    """The folder in which a study finds corpora; None where it names none, or cannot be read."""
    file = Path(path).resolve()
    try:
        section = dict(tomllib.loads(file.read_text("utf-8")).get("discovery") or {})
        given = {name.upper(): value for name, value in os.environ.items()}
        section |= {"folder": given[key]} if (key := f"{ENVIRONMENT_PREFIX}DISCOVERY__FOLDER") in given else {}
        return _discovery_folder(section, file.parent)
    except (OSError, ValueError, TypeError):  # load_study says what is wrong
        return None


def partition_key(name: str, bucket: int, buckets: int) -> str:
    """Partition key of a bucket of a corpus: the corpus' own name where it has only one."""
    return name if buckets == 1 else f"{name}-{bucket:03d}"


def load_study(path: str | Path) -> Study:
    """Read and validate a study file, with environment overrides.

    Relative paths in the file are taken from the file's own folder.

    Raises:
        StudyError: one sentence a problem, each naming key, value and what is accepted.
    """
    file = Path(path).resolve()
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise StudyError(f"study file {path} {what}; copy study.toml from the repository or name one that does")
    try:
        tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"study file {path} is not valid TOML: {error}") from error
    if problems := list(_variable_problems(os.environ)):
        raise StudyError("\n".join(problems))
    bound = type("Study", (Study,), {"model_config": SettingsConfigDict(**{**Study.model_config, "toml_file": file})})
    try:
        study: Study = bound()
    except ValidationError as error:
        sentences = [sentence for problem in error.errors() for sentence in _sentences(problem)]
        raise StudyError("\n".join(f"{path}: {sentence}" for sentence in sentences)) from error
    return _resolved(study, file.parent)


def _variable_problems(names: Iterable[str]) -> Iterator[str]:
    """Environment variables that look like an override and name no key: pydantic-settings passes over them."""
    for name in sorted(names):
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        given = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        if given[0] not in Study.model_fields:
            unknown, accepted = given[0], list(Study.model_fields)
        elif len(given) > 1 and given[0] != "corpora" and given[1] not in _fields_at(given[:1]):
            unknown, accepted = given[1], _fields_at(given[:1])
        else:
            continue
        yield f"environment variable {name}: unknown key {'.'.join(given)}; {_accepted(unknown, accepted)}"


def _sentences(problem: Any) -> list[str]:
    """One validation problem as sentences that name the key, the value and what is accepted."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "study"
    if problem["type"] == "extra_forbidden":
        return [f"unknown key {key}; {_accepted(location[-1], _fields_at(location[:-1]))}"]
    if problem["type"] == "missing":
        if location[-1].isdigit():
            return [f"{'.'.join(location[:-1])} = {problem['input']!r} has too few values; give one more."]
        return [f"{key} is missing; add it."]
    if problem["type"] == "too_long":
        most = problem["ctx"]["max_length"]
        return [f"{key} = {problem['input']!r} has too many values; it takes {most} at most."]
    if problem["type"] == "model_type":
        return [f"{key} = {problem['input']!r} is not accepted: it is a section of its own, [{key}], with its keys."]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return [f"{key}: {line}." if location else f"{line}." for line in message.splitlines()]
    return [f"{key} = {problem['input']!r} is not accepted: {message[0].lower()}{message[1:]}."]


def _accepted(unknown: str, accepted: Iterable[str]) -> str:
    """The nearest known key, and all that are accepted in its place."""
    known = sorted(accepted)
    near = difflib.get_close_matches(unknown, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}Accepted here: {', '.join(known)}."


def _fields_at(location: list[str]) -> list[str]:
    """The keys accepted in the table at ``location``."""
    model: type[BaseModel] = Study
    for part in location:
        if model is Study and part == "corpora":
            model = CorpusSection
        elif part in model.model_fields:
            annotation = model.model_fields[part].annotation
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return []
            model = annotation
    return list(model.model_fields)


def shown_study(file: Path) -> str:
    """How a study file is named in commands: relative to the working directory where it lies below it."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def study_option(file: Path) -> str:
    """What ``make demo`` and its like need for this study; nothing for ``study.toml`` in the working directory."""
    return "" if shown_study(file) == "study.toml" else f" STUDY={shown_study(file)}"


def resolve_location(location: str, base: Path) -> str:
    """Turn ``stdlib:``, ``package:NAME/SUB`` and relative paths into absolute ones; URLs stay as they are.

    Raises:
        StudyError: the package is not installed.
    """
    if location.startswith("stdlib:"):
        return str(Path(sysconfig.get_path("stdlib")) / location.removeprefix("stdlib:"))
    if location.startswith("package:"):
        name, _, rest = location.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise StudyError(f"{location!r}: no package {name!r} is installed; install it or name another")
        return str(Path(next(iter(spec.submodule_search_locations))) / rest)
    if "://" in location:
        return location
    return str(base / Path(location).expanduser())


def _resolved(study: Study, base: Path) -> Study:
    """The study with absolute locations, after checking that local ones exist."""
    corpora = {}
    for name, corpus in sorted(study.corpora.items(), key=lambda item: item[0] in study.found.corpora):  # those last
        paths = [resolve_location(path, base) for path in corpus.paths]
        for given, path in zip(corpus.paths, paths, strict=True):
            local = "://" not in path
            if local and not any(mark in path for mark in "*?[") and not Path(path).exists():
                raise StudyError(
                    f"corpora.{name}.path = {given!r} does not exist; name a folder, file, glob or URL that does"
                )
        corpora[name] = corpus.model_copy(update={"path": paths})
    source = study.base_model.source
    if source.endswith(".gguf") or source.startswith(("package:", ".", "/", "~")):
        source = resolve_location(source, base)
        if not Path(source).exists():
            raise StudyError(
                f"base_model.source = {study.base_model.source!r} does not exist; name a model folder or file that does"
            )
    root = Path(resolve_location(str(study.storage.root), base)).resolve()
    return study.model_copy(
        update={
            "corpora": corpora,
            "base_model": study.base_model.model_copy(update={"source": source}),
            "storage": study.storage.model_copy(update={"root": root}),
        }
    )
