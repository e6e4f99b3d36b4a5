"""The dataset card of an export: what a person, and ``datasets.load_dataset``, should know of the folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from huggingface_hub import DatasetCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from ppl_assets import __version__

HUB_LICENCES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "cdla-sharing-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "lppl-1.3c",
    "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "osl-3.0", "pddl", "postgresql", "unlicense",
    "wtfpl", "zlib",
})  # fmt: skip
"""Identifiers that the Hugging Face hub knows, of licences that text comes under; any other one is ``other`` there."""

SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
    (10_000_000_000, "1B<n<10B"),
)
"""The hub's names for a number of rows below the one given."""

METHODS = {
    "tilt": "of the subsets with these moments, the one nearest to all candidates (least Kullback-Leibler divergence)",
    "greedy_dos": "chunk by chunk, each time the one that brings the moments nearest (the paper's greedy selection)",
    "middle": "by rank around the median perplexity",
    "random": "at random",
    "lowest": "from the lowest perplexity up",
    "highest": "from the highest perplexity down",
}
"""What ``selection.method`` does."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!$])")


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of perplexity over chunks."""

    mean_perplexity: float
    deviation: float


@dataclass(frozen=True)
class Source:
    """A corpus that could be selected from.

    Attributes:
        corpus: its name in the study.
        licence: of the text, in the study's words; empty where the study says nothing.
        partitions: what the rows of the export call it: its name, or one a bucket.
    """

    corpus: str
    licence: str
    partitions: list[str]


@dataclass(frozen=True)
class Description:
    """What manifest and card say of a selection beside its rows.

    Attributes:
        study: the study's settings, without its storage.
        lake_snapshot: lake snapshot of the commit that wrote the selection.
        run_id: Dagster run that wrote it.
        inputs: fingerprint of what it was computed from.
        scorer_id: fingerprint of everything that decides a perplexity.
        scorer: the policy behind it: first_token, window_tokens, dtype, attention.
        base_model: source, revision, model_id, weights_fingerprint.
        target: moments asked for.
        reached: moments of the selection.
        token_budget: tokens asked for.
        seed: the study's.
        message: how the target was chosen and what was reached, in plain words.
        sources: the corpora that could be selected from.
    """

    study: dict[str, Any]
    lake_snapshot: int
    run_id: str
    inputs: str
    scorer_id: str
    scorer: dict[str, str | int]
    base_model: dict[str, str]
    target: Moments
    reached: Moments
    token_budget: int
    seed: int
    message: str
    sources: list[Source]


class _Verbatim(str):
    """What the template writes as it is, being no data or inside a code block."""

    __slots__ = ()


def dataset_card(description: Description, selection_id: str, corpora: Mapping[str, tuple[int, int]]) -> str:
    """The card, as a Hugging Face ``README.md``: a YAML header, with which the folder loads by itself, and Markdown.

    Args:
        description: what was selected, from what and how.
        selection_id: name of the export: letters, digits, _ and -.
        corpora: chunks and tokens of the export by corpus partition.
    """
    rows = sum(chunks for chunks, _ in corpora.values())
    used = [_used(source, corpora) for source in description.sources]
    body = _environment().get_template("card.md.j2")
    return (
        f"---\n{_header(description, selection_id, rows, [row for row in used if row['chunks']])}\n---\n\n"
        + body.render(
            described=description,
            selection_id=_Verbatim(selection_id),
            base_model=_shown_model(description.base_model["source"]),
            method=METHODS[description.study["selection"]["method"]],
            chunk_tokens=description.study["chunks"]["tokens"],
            sources=used,
            rows=rows,
            tokens=sum(tokens for _, tokens in corpora.values()),
            version=__version__,
        )
        + "\n"
    )


def as_markdown(text: object) -> str:
    """Data as Markdown that shows it literally and on one line; characters that do not print become spaces."""
    if isinstance(text, _Verbatim):
        return text
    printing = "".join(character if character.isprintable() else " " for character in str(text))
    return _SPECIAL.sub(r"\\\1", " ".join(printing.split()))


def _used(source: Source, corpora: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A row of the card's table: the corpus, its licence, and what of it is in the export."""
    counts = [corpora.get(partition, (0, 0)) for partition in source.partitions]
    return {
        "corpus": source.corpus,
        "licence": source.licence,
        "chunks": sum(chunks for chunks, _ in counts),
        "tokens": sum(tokens for _, tokens in counts),
    }


def _header(description: Description, selection_id: str, rows: int, used: list[dict[str, Any]]) -> str:
    """The YAML between the card's rules."""
    licences = sorted({_hub_licence(row["licence"]) for row in used})
    return DatasetCardData(
        license=licences[0] if len(licences) == 1 else licences,
        pretty_name=f"{description.study['study']['name']}, selection {selection_id}",
        size_categories=[next((name for below, name in SIZE_CATEGORIES if rows < below), "10B<n<100B")],
        task_categories=["text-generation"],
        configs=[
            {
                "config_name": "default",
                # datasets keys its cache by the folder's name and by this record, not by the files: without what tells
                # one content from another here, a replaced folder would be answered with the old rows.
                "description": f"selection {selection_id} of inputs {description.inputs}",
                "data_files": [{"split": "train", "path": "parquet/train-*.parquet"}],
            },
        ],
    ).to_yaml()


def _hub_licence(licence: str) -> str:
    """The hub's identifier of a licence: ``unknown`` where none is given, ``other`` for one that it has no name for."""
    if not licence.strip():
        return "unknown"
    name = licence.strip().lower().replace(" ", "-")
    return name if name in HUB_LICENCES else "other"


def _shown_model(source: str) -> str:
    """A base model without the folders of the machine that it lay on."""
    if source == "recipe":
        return "a small model that the study pre-trained itself"
    return PurePath(source).name if PurePath(source).is_absolute() else source


def _environment() -> Environment:
    return Environment(  # noqa: S701 - Markdown, not HTML: finalize escapes whatever the template inserts
        loader=PackageLoader("ppl_assets.subset", "templates"),
        finalize=as_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
