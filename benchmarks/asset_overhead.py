"""Time of the whole perplexity_scores asset over that of the bare scorer.

The asset is materialized as the UI would (its job, without the checks, which are steps of their own): chunks come from
the lake, rows go back into it, Dagster writes its events. Model and imports are warm, as in a process that scores more
than one corpus. Two ratios: against the seconds that the scorer took inside the very same run, and against a run of the
scorer alone on the same chunks beside it. The machine's own noise, a tenth and more from run to run, is in the second.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np

from benchmarks.models import Shape, random_model
from ppl_assets.automation.instance import study_instance
from ppl_assets.definitions import build_defs
from ppl_assets.perplexity.device import resolve_device
from ppl_assets.perplexity.held_out import token_arrays
from ppl_assets.perplexity.loaded import cached_model
from ppl_assets.perplexity.recipe import Recipe, train_tokenizer
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.perplexity.stored import stored_base_model, study_policy
from ppl_assets.resources import CORPUS_PARTITIONS, Platform
from ppl_assets.tables import CHUNKS

CHUNK_TOKENS = 300

STUDY = """
[study]
name = "overhead"
device = "{device}"
[storage]
root = "data"
{corpora}
[held_out]
test_share = 0.0
[corpora.warm]
path = "warm"
role = "test"
[base_model]
source = "./model"
[chunks]
tokens = {chunk_tokens}
near_duplicate_threshold = 1.0
[trials]
tokens = 100000
[selection]
share = 0.5
"""


@dataclass(frozen=True)
class Overhead:
    """Seconds of one corpus: the whole asset, the scorer inside it, and the scorer alone (None: not run)."""

    asset: float
    inside: float
    alone: float | None


def asset_overhead(shape: Shape, device: str, tokens: int, repeats: int) -> list[Overhead]:
    """One corpus scored by the asset; and where repeated, others by the asset and alone, in turns.

    Args:
        shape: of the random model.
        device: cpu or cuda.
        tokens: about how many are scored at a time.
        repeats: how many corpora; with one, the scorer is not run alone.
    """
    with tempfile.TemporaryDirectory() as made:
        folder, names = Path(made), [f"text{number}" for number in range(repeats)]
        _prepare(folder, shape, device, tokens, names)
        return [_timed(folder, name, repeats > 1, bool(number % 2)) for number, name in enumerate(names)]


def _prepare(folder: Path, shape: Shape, device: str, tokens: int, names: list[str]) -> None:
    """A study with a random model, whose corpora are chunked, and only the one to warm up with is scored."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("abcdefghijklmnop"), 5)) for _ in range(4_000)])
    for name in (*names, "warm"):
        (folder / name).mkdir()
        for number in range(3 if name == "warm" else max(2, tokens // 1_500)):
            (folder / name / f"{number}.txt").write_text(" ".join(random.choice(words, 900)))
    texts = [file.read_text() for file in sorted((folder / names[0]).iterdir())[:20]]
    tokenizer = train_tokenizer(Recipe(vocabulary=4_000), texts)
    tokenizer.save_pretrained(folder / "model")
    random_model(shape, "cpu", "float32").save_pretrained(folder / "model")
    corpora = "\n".join(f'[corpora.{name}]\npath = "{name}"' for name in names)
    file = folder / "study.toml"
    file.write_text(STUDY.format(device=device, chunk_tokens=CHUNK_TOKENS, corpora=corpora))
    with study_instance(Platform(study_path=str(file)).study) as instance:
        instance.add_dynamic_partitions(CORPUS_PARTITIONS.name or "", [*names, "warm"])
        _run(folder, instance, "set_test_documents_aside", None)
        _run(folder, instance, "resolve_base_model", None)
        for name in (*names, "warm"):
            _run(folder, instance, "chunk_corpus", name)
        _run(folder, instance, "score_corpus", "warm")


def _run(folder: Path, instance: dg.DagsterInstance, job: str, partition: str | None) -> dg.ExecuteInProcessResult:
    definitions = build_defs({"platform": Platform(study_path=str(folder / "study.toml"))})
    resolved = definitions.resolve_job_def(job)
    if job == "score_corpus":
        asset = {dg.AssetKey("perplexity_scores")}
        resolved = resolved.get_subset(asset_selection=asset, asset_check_selection=set())
    return resolved.execute_in_process(instance=instance, partition_key=partition)


def _timed(folder: Path, name: str, also_alone: bool, alone_first: bool) -> Overhead:
    """Seconds of this corpus."""
    platform = Platform(study_path=str(folder / "study.toml"))
    alone = _alone(platform, name) if also_alone and alone_first else None
    with study_instance(platform.study) as instance:
        began = time.perf_counter()
        done = _run(folder, instance, "score_corpus", name)
        asset = time.perf_counter() - began
    inside = done.asset_materializations_for_node("perplexity_scores")[0].metadata["scorer_seconds"].value
    if also_alone and not alone_first:
        alone = _alone(platform, name)
    return Overhead(asset, float(str(inside)), alone)


def _alone(platform: Platform, name: str) -> float:
    """Seconds of the scorer alone on this corpus' chunks."""
    snapshot, study = platform.lake.snapshot(), platform.study
    base = stored_base_model(snapshot)
    policy, device = study_policy(study, base), resolve_device(study.study.device)
    scorer = Scorer(cached_model(base, device, policy.dtype, policy.attention), policy, study.score.row_tokens, device)
    chunks = token_arrays(snapshot.read(CHUNKS, ["tokens"], {"corpus": name})["tokens"])
    began = time.perf_counter()
    scorer.score(chunks)
    return time.perf_counter() - began
