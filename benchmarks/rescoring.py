"""Time of rescoring a corpus of which one document in a hundred has changed, over that of scoring it whole.

Real assets on a real lake, as the UI runs them (their jobs, without the checks, which are steps of their own), with a
model of random weights. The corpus is scored whole; then, each time from what it was left as, one document, and one
document in a hundred are changed in place, removed, and added, and the corpus is cut and scored again. The time for one
document is the constant overhead: Dagster's events, opening the lake, reading the partition and writing it again.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np

from benchmarks.environment import device_name, note, print_figures, quiet, versions
from benchmarks.models import SHAPES, random_model
from ppl_assets.automation.instance import study_instance
from ppl_assets.definitions import build_defs
from ppl_assets.perplexity.device import resolve_device
from ppl_assets.perplexity.recipe import Recipe, train_tokenizer
from ppl_assets.resources import Platform
from ppl_assets.tables import CHUNKS, PERPLEXITY_SCORES

CHUNK_TOKENS = 256
DOCUMENT_WORDS = 700

STUDY = """
[study]
name = "rescoring"
device = "{device}"
[storage]
root = "data"
[corpora.text]
path = "text"
[corpora.held]
path = "held"
role = "test"
[held_out]
test_share = 0.0
[base_model]
source = "./model"
[chunks]
tokens = 256
near_duplicate_threshold = 1.0
[trials]
tokens = 100000
[selection]
share = 0.5
"""


@dataclass(frozen=True)
class Timed:
    """What cutting and scoring the corpus once took.

    Attributes:
        cutting: seconds of asset chunks.
        scoring: seconds of asset perplexity_scores.
        scorer: seconds of the model in it.
        chunks: chunks scored.
        of: chunks of the corpus.
    """

    cutting: float
    scoring: float
    scorer: float
    chunks: int
    of: int


class Corpus:
    """A corpus of random words, and the study that scores it."""

    def __init__(self, folder: Path, shape: str, device: str, documents: int) -> None:
        self.text, self._random = folder / "text", np.random.default_rng(0)
        self._words = np.array(["".join(self._random.choice(list("abcdefghijklmnop"), 5)) for _ in range(4_000)])
        for place, count in ((self.text, documents), (folder / "held", 3)):
            place.mkdir()
            for number in range(count):
                self.write(place / f"{number:06d}.txt")
        texts = [file.read_text() for file in sorted(self.text.iterdir())[:20]]
        train_tokenizer(Recipe(vocabulary=4_000), texts).save_pretrained(folder / "model")
        random_model(SHAPES[shape], "cpu", "float32").save_pretrained(folder / "model")
        (folder / "study.toml").write_text(STUDY.format(device=device))
        self.platform = Platform(study_path=str(folder / "study.toml"))
        self._definitions = build_defs({"platform": self.platform})
        with study_instance(self.platform.study) as instance:
            for job in ("set_test_documents_aside", "resolve_base_model"):
                self._run(instance, job, None)
            for job in ("chunk_corpus", "score_corpus"):  # the model is loaded and warm
                self._run(instance, job, "held")

    def write(self, file: Path) -> None:
        file.write_text(" ".join(self._random.choice(self._words, DOCUMENT_WORDS)))

    def change(self, how: str, count: int) -> None:
        """Change so many documents, evenly spread: in place, removed or added."""
        files = sorted(self.text.iterdir())
        chosen = [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]
        for file in chosen:
            if how == "removed":
                file.unlink()
            else:
                self.write(file if how == "in place" else file.with_name(f"{file.stem}-more.txt"))

    def timed(self) -> Timed:
        """Cut and score what is new."""
        with study_instance(self.platform.study) as instance:
            began = time.perf_counter()
            self._run(instance, "chunk_corpus", "text")
            cut = time.perf_counter()
            done = self._run(instance, "score_corpus", "text")
            ended = time.perf_counter()
        facts = done.asset_materializations_for_node("perplexity_scores")[0].metadata
        snapshot, where = self.platform.lake.snapshot(), {"corpus": "text"}
        chunks = snapshot.read(CHUNKS, ["chunk_id"], where).height
        assert chunks == snapshot.read(PERPLEXITY_SCORES, ["chunk_id"], where).height
        scorer = float(str(facts["scorer_seconds"].value)) if "scorer_seconds" in facts else 0.0
        return Timed(cut - began, ended - cut, scorer, int(str(facts["chunks_computed"].value)), chunks)

    def _run(self, instance: dg.DagsterInstance, job: str, partition: str | None) -> dg.ExecuteInProcessResult:
        resolved = self._definitions.resolve_job_def(job)
        assets = set(resolved.asset_layer.selected_asset_keys)
        bare = resolved.get_subset(asset_selection=assets, asset_check_selection=set())
        with quiet():
            return bare.execute_in_process(instance=instance, partition_key=partition)


def measure(shape: str, device: str, documents: int, share: float) -> dict[str, object]:
    """Figures of one corpus."""
    with tempfile.TemporaryDirectory() as made:
        corpus = Corpus(Path(made), shape, device, documents)
        note(f"{documents:,} documents written")
        whole = corpus.timed()
        note(f"scored whole: {whole}")
        figures: dict[str, object] = {
            "model": shape,
            "device": device_name(device),
            "documents": documents,
            "chunks": whole.of,
            "tokens": whole.of * CHUNK_TOKENS,
            "whole": vars(whole),
        }
        corpus.change("in place", 1)
        one = corpus.timed()
        figures["one_document"] = vars(one) | {"share_of_scoring": one.scoring / whole.scoring}
        for how in ("in place", "removed", "added"):
            corpus.change(how, max(1, round(share * documents)))
            again = corpus.timed()
            note(f"{how}: {again}")
            figures[f"{share:.0%} {how}"] = vars(again) | {
                "share_of_scoring": again.scoring / whole.scoring,
                "share_beyond_constant": (again.scoring - one.scoring) / whole.scoring,
            }
        return figures | {"versions": versions()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1m", choices=SHAPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--documents", type=int, default=4_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--quick", action="store_true", help="a corpus of 400 documents")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    documents = 400 if options.quick else options.documents
    figures = measure(options.model, resolve_device(options.device), documents, options.share)
    print_figures(figures, options.json)


if __name__ == "__main__":
    main()
