"""A lake with made-up rows, written the way the assets write it: no model, no training, a commit takes 30 ms."""

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from ppl_assets.lake import Lake, Provenance
from ppl_assets.tables import TABLES

_ANY = {"string": "x", "int64": 1, "double": 1.0, "bool": False}
_ANY |= {"list<item: string>": [], "list<item: int32>": [1], "list<item: double>": [1.0]}


def rows(name: str, *given: Mapping[str, Any]) -> pl.DataFrame:
    """Rows of a table; what is not given is empty where that is allowed, else any value of the column's type."""
    columns = TABLES[name].columns
    made = [{c.name: one.get(c.name, None if c.nullable else _ANY[str(c.type)]) for c in columns} for one in given]
    return pl.DataFrame(made, schema=pl.Schema(TABLES[name].schema))


class SmallLake:
    """Writes the tables that a selection is made from, and selections."""

    def __init__(self, lake: Lake, scorer: str = "scorer-1") -> None:
        self.lake = lake
        self.scorer = scorer
        self.runs = 0
        self.perplexities: dict[str, float] = {}
        self.documents: dict[str, str] = {}

    @classmethod
    def reopened(cls, lake: Lake) -> "SmallLake":
        """Go on with what :func:`small_lake` made."""
        made = cls(lake)
        made.perplexities = dict(lake.snapshot().read(TABLES["perplexity_scores"], ["chunk_id", "ppl"]).iter_rows())
        made.documents = dict(lake.snapshot().read(TABLES["chunks"], ["chunk_id", "doc_id"]).iter_rows())
        made.runs = int(lake.query("SELECT count(*) FROM lake.lineage").item())
        return made

    def write(
        self,
        asset: str,
        tables: Mapping[str, pl.DataFrame],
        partition: str = "",
        reads: tuple[str, ...] = (),
        **more: str,
    ) -> int:
        """One commit of an asset; it read ``reads`` at the newest snapshot."""
        self.runs += 1
        run, now = f"run-{self.runs}", self.lake.snapshot().number
        writes = [
            self.lake.stage(TABLES[name], frame, (partition or None) if TABLES[name].partition == "corpus" else None)
            for name, frame in tables.items()
        ]
        version = more.pop("version", run)
        made = Provenance(asset, partition, run, "1", run, version, dict.fromkeys(reads, now), more)
        return self.lake.commit(writes, made)

    def corpus(self, corpus: str, split: str = "candidate", **documents: str) -> int:
        """Chunks of a corpus: document to its chunk ids, divided by spaces; ``id:split`` where it is another one."""
        made = [
            {
                "chunk_id": name,
                "corpus": corpus,
                "doc_id": f"{corpus}/{document}",
                "split": other or split,
                "text": name,
            }
            for document, names in documents.items()
            for name, _, other in (entry.partition(":") for entry in names.split())
        ]
        chunks = rows("chunks", *({**one, "source": f"{one['doc_id']}.txt", "n_tokens": 10} for one in made))
        self.documents |= {one["chunk_id"]: one["doc_id"] for one in made}
        number = self.write("chunks", {"chunks": chunks}, corpus, ("base_model",))
        self.score(corpus, {one["chunk_id"]: self.perplexities.get(one["chunk_id"], 5.0) for one in made})
        return number

    def score(self, corpus: str, perplexities: Mapping[str, float]) -> int:
        """Perplexities of a corpus' chunks under the scorer in force."""
        self.perplexities |= perplexities
        made = [
            {"chunk_id": name, "corpus": corpus, "scorer_id": self.scorer, "ppl": ppl, "n_tokens": 10, "status": "ok"}
            for name, ppl in perplexities.items()
        ]
        scores = {"perplexity_scores": rows("perplexity_scores", *made)}
        reads = ("base_model", "chunks", "perplexity_scores")
        return self.write("perplexity_scores", scores, corpus, reads, scorer_id=self.scorer)

    def landscape(self, low: float = 1.0, high: float = 100.0) -> int:
        """The noise fence, under the scorer in force."""
        scope = {"scope": "candidates", "scorer_id": self.scorer, "fence_low": low, "fence_high": high}
        return self.write("perplexity_landscape", {"perplexity_landscape": rows("perplexity_landscape", scope)})

    def model(self, source: str = "model-1") -> int:
        """The base model."""
        return self.write("base_model", {"base_model": rows("base_model", {"source": source, "model_id": source})})

    def law(self, form: str = "quadratic") -> int:
        """A fitted law."""
        made = rows("fitted_law", {"form": form, "is_chosen": True, "optimum_kind": "interior_bowl"})
        return self.write("fitted_law", {"fitted_law": made}, reads=("trial_losses",))

    def select(
        self,
        name: str,
        chunks: str,
        settings: Mapping[str, Any] | None = None,
        corpora: tuple[str, ...] = ("a", "b"),
        **more: Any,
    ) -> int:
        """A selection of these chunks, in this order; ``corpus/chunk`` where it is not of corpus a."""
        places = [place.rpartition("/")[::2] for place in chunks.split()]
        members = [
            {"selection_id": name, "rank": rank, "chunk_id": chunk, "corpus": corpus or "a", "n_tokens": 10,
             "doc_id": self.documents[chunk], "scorer_id": self.scorer, "ppl": self.perplexities[chunk]}
            for rank, (corpus, chunk) in enumerate(places)
        ]  # fmt: skip
        said = {"study": settings, "sources": [{"corpus": "a", "licence": "", "partitions": corpora}]}
        row = {
            "selection_id": name, "method": "tilt", "mu_target": 5.0, "sigma_target": 2.0, "tokens_target": 40,
            "tokens": 10 * len(members), "chunks": len(members), "exported_snapshot": self.lake.snapshot().number,
            "described": None if settings is None else json.dumps(said), "is_reachable": True, **more,
        }  # fmt: skip
        tables = {"final_subset": rows("final_subset", *members), "selections": rows("selections", row)}
        reads = ("chunks", "perplexity_scores", "perplexity_landscape", "fitted_law", "base_model")
        return self.write("final_subset", tables, reads=reads, version=name)


def small_lake(lake: Lake) -> SmallLake:
    """A lake with a model, two corpora, a landscape, a law and a first selection ``first`` of chunks c1 and c2."""
    made = SmallLake(lake)
    made.model()
    made.corpus("a", d1="c1 c2", d2="c3 c4", d3="t1:test")
    made.corpus("b", d1="e1 e2")
    made.landscape()
    made.law()
    made.select("first", "c1 c2")
    return made
