"""What two selections were made with, and where that differs: target, budget, law, model, seed, settings, code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from ppl_assets.lake import Lake, Snapshot
from ppl_assets.perplexity.candidates import current_scorer
from ppl_assets.subset.handover import recorded
from ppl_assets.subset.history import Selected, require_readable
from ppl_assets.subset.selection import BY_RANK
from ppl_assets.subset.target import SAME
from ppl_assets.tables import BASE_MODEL, FITTED_LAW, PERPLEXITY_LANDSCAPE, SELECTIONS, LakeTable

OTHERS_MOVED = "only because the others moved"

_SELECTION = ("mu_target", "sigma_target", "tokens_target", "mu", "sigma", "tokens", "chunks", "method")
_LAW = ("form", "link", "sigma_kind", "statistics", "optimum_kind", "mu_optimum", "sigma_optimum")
_MODEL = ("source", "revision", "model_id", "weights_fingerprint", "tokenizer_fingerprint")
_LANDSCAPE = ("chunks", "tokens", "noise_chunks", "mean", "deviation", "fence_low", "fence_high")


@dataclass(frozen=True)
class Side:
    """One of the two selections, as it was.

    Attributes:
        of: the selection.
        rows: the lake at its commit.
        read: the lake that it was computed from.
        selection: its row.
        said: what was recorded of it; empty where nothing was.
    """

    of: Selected
    rows: Snapshot
    read: Snapshot
    selection: dict[str, Any]
    said: dict[str, Any]

    @classmethod
    def load(cls, lake: Lake, of: Selected) -> "Side":
        """Read what a comparison needs.

        Raises:
            UnknownSelectionError: its rows were given up.
        """
        require_readable(of)
        rows = lake.snapshot(of.snapshot)
        selection = rows.only_row(SELECTIONS)
        return cls(of, rows, lake.snapshot(of.read_at), selection, recorded(selection) or {})

    @property
    def scorer(self) -> str:
        """The scorer of its perplexities."""
        return current_scorer(self.read)

    @property
    def fence(self) -> tuple[float, float]:
        """Lowest and highest perplexity that was no noise."""
        row = self.read.only_row(PERPLEXITY_LANDSCAPE, {"scope": "candidates"})
        return row["fence_low"], row["fence_high"]

    @property
    def corpora(self) -> list[str] | None:
        """Corpus partitions that could be selected from; None where that was not recorded."""
        if "sources" not in self.said:
            return None
        return [partition for source in self.said["sources"] for partition in source["partitions"]]

    @property
    def settings(self) -> dict[str, str]:
        """The study's settings, ``section.key`` to value; empty where they were not recorded."""
        return dict(_flat(self.said.get("study", {})))

    def facts(self) -> dict[str, str]:
        """Everything worth comparing, by name, in words."""
        law, landscape = {"is_chosen": True}, {"scope": "candidates"}
        found = {f"selection {name}": self.selection[name] for name in _SELECTION}
        found |= self._of_table(FITTED_LAW, "law", _LAW, law)
        found |= self._of_table(BASE_MODEL, "model", _MODEL)
        found["scorer"] = self.scorer
        found |= self._of_table(PERPLEXITY_LANDSCAPE, "candidates", _LANDSCAPE, landscape)
        found |= {f"setting {name}": value for name, value in self.settings.items()}
        found |= {f"code {name}": self.of.commit.facts.get(name) for name in ("package_version", "git_commit")}
        return {name: _in_words(value) for name, value in found.items()}

    def _of_table(
        self, table: LakeTable, name: str, columns: tuple[str, ...], where: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Columns of a table's row as it was read; nothing where it had none, as without a law."""
        rows = self.read.read(table, columns, where)
        return {f"{name} {column}": rows[column][0] for column in columns if rows.height}


def differing_facts(a: Side, b: Side) -> pl.DataFrame:
    """fact, before, after: one row a fact that differs."""
    before, after = a.facts(), b.facts()
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    rows = [(name, before.get(name, ""), after.get(name, "")) for name in names]
    return pl.DataFrame(rows, schema=["fact", "before", "after"], schema_overrides=_TEXTS, orient="row")


def reason_of_all(a: Side, b: Side) -> str:
    """Why chunks moved that have no reason of their own."""
    changed = []
    if _has_other_target(a.selection, b.selection):
        changed.append("the target")
    if a.selection["tokens_target"] != b.selection["tokens_target"]:
        changed.append("the budget")
    if a.selection["method"] != b.selection["method"] or (a.said and b.said and _sampling(a) != _sampling(b)):
        changed.append("the sampler's settings")
    return f"{' and '.join(changed)} changed" if changed else OTHERS_MOVED


_TEXTS = {"fact": pl.String, "before": pl.String, "after": pl.String}


def _has_other_target(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether other moments were aimed at; a method by rank aims at none."""
    if {a["method"], b["method"]} & set(BY_RANK):
        return False
    return any(abs(a[name] - b[name]) > SAME * abs(a[name]) for name in ("mu_target", "sigma_target"))


def _sampling(side: Side) -> dict[str, str]:
    """The settings that decide which chunks are drawn for a target and a budget."""
    drawn = {"study.seed", "selection.method", "selection.objective", "selection.repeats", "selection.unit"}
    limits = {"min_share": "0.0", "max_share": "1.0"}
    settings = side.settings
    bounds = [name for name in settings if settings[name] != limits.get(name.rpartition(".")[2], settings[name])]
    return {name: settings.get(name, "") for name in (*drawn, *bounds)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "" if value is None else str(value)


def _in_words(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return (
        "" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    )
