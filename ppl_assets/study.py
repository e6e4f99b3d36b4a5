"""One typed description of a study: what a person decides, read from ``study.toml``.

Every key can be overridden from the environment: ``PPL__SELECTION__TOKENS=500000`` sets ``[selection] tokens``.
Validation happens once, in :func:`load_study`, and every problem is one sentence that names the key, the value and
what is accepted. Nothing here imports Dagster, torch or DuckDB.
"""

import difflib
import importlib.util
import math
import os
import sysconfig
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ppl_assets.discovery import PARTITION_KEY, Found, find_corpora
from ppl_assets.errors import UserError

ENVIRONMENT_PREFIX = "PPL__"

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class StudyError(UserError, ValueError):
    """The study cannot be used as written; the message says which key, what was given and what is accepted."""


class Section(BaseModel):
    """A table of ``study.toml``: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StudySection(Section):
    """``[study]``: identity, seed and device."""

    name: str = Field("study", pattern=PARTITION_KEY.pattern + "$", description="Short name, shown in the report.")
    seed: int = Field(20251221, ge=0, description="Every random choice derives from it.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where scoring and training run.")
    device_hour_price: float = Field(
        0.0, ge=0.0, description="What an hour of the device costs, in your currency; 0: hours alone are shown."
    )
    gpu_steps: int = Field(
        1, ge=1, le=64, description="Scoring and training steps at a time, over all runs: as many as fit the device."
    )


class StorageSection(Section):
    """``[storage]``: where the lake, the models, the exports and the Dagster history lie."""

    root: Path = Field(Path("data"), description="Folder of everything this study writes.")
    catalog: str = Field("", description="DuckLake catalog, e.g. postgres:dbname=lake; empty: SQLite under root.")
    tables: str = Field("", description="Where table files lie, e.g. s3://bucket/lake; empty: a folder under root.")
    keep_days: int = Field(
        30, ge=0, description="Age in days below which lake_maintenance keeps every snapshot of the lake."
    )
    keep_selections: Literal["all", "exported"] = Field(
        "all",
        description=(
            "Selections whose rows lake_maintenance keeps beyond that age: all, or those whose export lies on disk."
        ),
    )
    keep_runs_days: int = Field(
        90, ge=1, description="Days after which runs in the UI's history that nothing refers to are forgotten."
    )


class CorpusSection(Section):
    """``[corpora.NAME]``: where one corpus lies and how it is read."""

    path: str | list[str] = Field(
        description="Folder, file, glob or fsspec URL; stdlib: or package:NAME/SUB for what is installed."
    )
    role: Literal["candidate", "test", "general"] = Field(
        "candidate",
        description="candidate: may be selected; test: curated target text; general: sampled to measure forgetting.",
    )
    format: Literal["auto", "jsonl", "parquet", "csv", "text", "docstrings"] = Field(
        "auto", description="auto: by file name (.jsonl, .parquet, .csv, else text). docstrings: of Python files."
    )
    text_field: str = Field("text", description="Column that holds the text (JSONL, Parquet, CSV).")
    id_field: str = Field("", description="Column that names the document; empty: file and position.")
    include: list[str] = Field(default=["**"], description="Glob patterns of relative file paths to read.")
    exclude: list[str] = Field(default=[], description="Glob patterns of relative file paths to leave out.")
    sample: Share = Field(1.0, description="Share of documents kept, by a stable hash of their id.")
    max_characters: PositiveInt = Field(20_000_000, description="A longer document is rejected as over-long.")
    on_bad_row: Literal["skip", "fail"] = Field(
        "skip", description="What a bad row does: counted and skipped, or fatal."
    )
    buckets: int = Field(1, ge=1, le=512, description="Divide a big corpus into this many partitions, by file.")
    licence: str = Field("", description="Licence of the text, e.g. cc-by-4.0; stands in the export's card.")
    min_share: float = Field(
        0.0, ge=0.0, le=1.0, description="Least share of the selected tokens; buckets count together, as one corpus."
    )
    max_share: Share = Field(1.0, description="Most share of the selected tokens, likewise.")

    @property
    def paths(self) -> list[str]:
        """The given locations as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


class DiscoverySection(Section):
    """``[discovery]``: corpora that are found rather than named, and when a changed one is looked at."""

    folder: str = Field(
        "",
        description=(
            "Folder whose sub-folders and data files are corpora of role candidate, named after themselves, beside "
            "those of the study file; empty: none."
        ),
    )
    settle_seconds: float = Field(
        60.0, ge=0.0, description="A new or changed corpus is read once nothing in it has changed for so long."
    )


class HeldOutSection(Section):
    """``[held_out]``: documents set aside before anything is scored."""

    test_share: Fraction = Field(
        0.02, description="Share of candidate documents held out where no corpus is role=test."
    )
    general_share: Fraction = Field(0.05, description="Share of documents of role=general kept to measure forgetting.")
    test_tokens: PositiveInt = Field(65_536, description="Tokens of the test set on which losses are measured.")
    general_tokens: PositiveInt = Field(32_768, description="Tokens of general text on which forgetting is measured.")


class RecipeSection(Section):
    """``[base_model.recipe]``: the small language model that the pipeline pre-trains itself."""

    vocabulary: int = Field(
        4096, ge=512, le=65_536, description="Tokens of the byte-level BPE trained on general text."
    )
    hidden: int = Field(128, ge=32, description="Width of the model.")
    layers: int = Field(4, ge=1, description="Number of transformer blocks.")
    heads: int = Field(4, ge=1, description="Attention heads; divides hidden.")
    context: int = Field(1024, ge=32, description="Context length in tokens; at least chunks.tokens.")
    tokens: PositiveInt = Field(600_000, description="Tokens of pre-training.")
    learning_rate: PositiveFloat = Field(3e-3, description="Peak learning rate.")
    batch_tokens: PositiveInt = Field(2048, description="Tokens a step.")

    @model_validator(mode="after")
    def _heads_divide(self) -> "RecipeSection":
        if self.hidden % self.heads:
            raise ValueError(f"heads = {self.heads} must divide hidden = {self.hidden}")
        return self


class BaseModelSection(Section):
    """``[base_model]``: the frozen model whose perplexity is measured and whose training is continued."""

    source: str = Field(
        "recipe",
        description=(
            "recipe; a Hugging Face id; a folder (safetensors) that starts with . / or ~; or a .gguf file. "
            "package:NAME/SUB works for both; relative to the study file."
        ),
    )
    revision: str = Field("main", description="Revision of a Hugging Face id.")
    recipe: RecipeSection = Field(default_factory=RecipeSection)


class ChunksSection(Section):
    """``[chunks]``: cleaning, deduplication and chunk length."""

    tokens: int = Field(1024, ge=8, description="Chunk length: one chunk is one context window.")
    min_tokens: int = Field(
        0, ge=0, description="Shortest chunk kept; 0: only full ones, since length confounds perplexity."
    )
    near_duplicate_threshold: float = Field(
        0.8, gt=0.0, le=1.0, description="Jaccard similarity from which two documents count as one; 1: exact only."
    )
    shingle: int = Field(5, ge=1, description="Words a shingle, for near-duplicates.")
    permutations: int = Field(128, ge=16, description="MinHash permutations.")
    sample: Share = Field(
        1.0, description="Share of candidate chunks kept, by a stable hash of their id: to try a study on a big corpus."
    )
    max_tokens: PositiveInt | None = Field(
        None, description="Most candidate tokens kept a corpus partition, chosen by chunk id; empty: all."
    )

    @property
    def shortest(self) -> int:
        """Shortest chunk kept, in tokens."""
        return self.min_tokens or self.tokens


class ScoreSection(Section):
    """``[score]``: the policy under which perplexity is measured; part of every score's fingerprint."""

    first_token: Literal["bos", "eos", "unscored", "auto"] = Field(
        "auto", description="Prefix that predicts the first token; auto: bos, else eos, else unscored."
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Of the matrix products. auto: float16 on CUDA (states stay float32), float32 on CPU."
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto",
        description="Attention: torch's fused kernels, or softmax written out; auto: sdpa where the model has it.",
    )
    row_tokens: PositiveInt | None = Field(
        None, description="Tokens of one pass; empty: 2,048 on CPU, 16,384 on CUDA. Halved where memory runs out."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile the model: a minute, then 5 to 10 % faster on CPU; auto: on CUDA, from 20 M tokens.",
    )


class LandscapeSection(Section):
    """``[landscape]``: the robust fence beyond which a chunk is noise, and the histogram."""

    fence_mads: PositiveFloat = Field(
        6.0, description="Fence in log perplexity: median plus or minus this many scaled MADs."
    )
    bins: int = Field(60, ge=10, le=500, description="Histogram bins in log perplexity.")


LEAST_WIDTH = 0.2
"""Between the quantiles of a design: nearer ones give means that differ less than seeds do."""


class RegimesSection(Section):
    """``[regimes]``: the trial design."""

    grid: int = Field(3, ge=2, le=7, description="Levels a side of the grid in (ln mu, ln sigma).")
    repeats: int = Field(3, ge=0, le=16, description="Extra runs of the centre regime with other seeds: the noise.")
    inside: float = Field(0.02, gt=0.0, lt=0.5, description="Margin kept from the reachable region's boundary.")
    quantiles: tuple[float, float] = Field(
        (0.25, 0.75),
        description="Of the sorted perplexities: centres of the bands with the grid's first and last mean.",
    )

    @model_validator(mode="after")
    def _rise(self) -> "RegimesSection":
        low, high = self.quantiles
        if not (low >= 0.0 and high <= 1.0 and high - low >= LEAST_WIDTH):
            raise ValueError(
                f"quantiles = [{low:g}, {high:g}] are not two shares from 0 to 1, the second at least {LEAST_WIDTH} "
                "above the first; give for instance [0.25, 0.75]"
            )
        return self


class TrialsSection(Section):
    """``[trials]``: the continual pre-training recipe, the same in every trial."""

    tokens: PositiveInt = Field(262_144, description="Tokens of one trial run, the largest D.")
    span: float = Field(16.0, ge=2.0, description="Largest over smallest token count measured.")
    points: int = Field(7, ge=2, le=16, description="Log-spaced token counts measured in one run.")
    learning_rate: PositiveFloat = Field(5e-4, description="Constant after warm-up.")
    warmup_share: Fraction = Field(0.02, description="Share of the run's tokens over which the rate rises.")
    warmup_steps: int = Field(5, ge=0, description="Steps over which it rises at least.")
    batch_tokens: PositiveInt = Field(2048, description="Tokens a step.")
    weight_decay: float = Field(0.0, ge=0.0, description="AdamW weight decay.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient norm clip.")
    micro_tokens: PositiveInt | None = Field(
        None, description="Most tokens of one pass; empty: the whole step. Halved where memory runs out."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again instead of keeping them: less memory, a third more work."
    )
    decay_branches: int = Field(
        0, ge=0, le=16, description="Measured counts from which a branch with a falling rate is trained as well."
    )
    decay_share: Share = Field(0.2, description="Length of such a branch, as a share of the tokens before it.")
    average_share: float = Field(
        0.2,
        ge=0.0,
        le=0.5,
        description="Share of the tokens before a measurement over which weights are averaged for it; 0: no average.",
    )
    lora_rank: int = Field(
        0, ge=0, le=1024, description="Rank of adapters trained instead of the weights (needs peft); 0: the weights."
    )
    lora_learning_rate: PositiveFloat | None = Field(
        None, description="Constant rate of adapters; empty: ten times learning_rate."
    )
    # What follows decides which trials are run, not how one is: exclude keeps it out of the recipe, whose fingerprint
    # says which losses are comparable.
    mode: Literal["fixed", "sequential"] = Field(
        "fixed",
        exclude=True,
        description="fixed: the design's trials; sequential: then batches where they tell most about the optimum.",
    )
    batch: int = Field(3, ge=1, le=32, exclude=True, description="Trials proposed at a time in sequential mode.")
    max_tokens: PositiveInt | None = Field(
        None,
        exclude=True,
        description="Most tokens of all trials together, trained and evaluated; needed in sequential mode.",
    )
    max_hours: PositiveFloat | None = Field(
        None, exclude=True, description="Most device hours of all trials together, as estimated from measured speed."
    )
    stop_regret_pct: PositiveFloat = Field(
        0.1, exclude=True, description="Sequential mode ends where the 95 % bound on regret is below this, % of loss."
    )
    stop_location_pct: PositiveFloat = Field(
        5.0, exclude=True, description="Or where mean and deviation of the optimum are known this well either way, %."
    )

    @model_validator(mode="after")
    def _has_peft(self) -> "TrialsSection":
        if self.lora_rank and importlib.util.find_spec("peft") is None:
            raise ValueError(
                f"lora_rank = {self.lora_rank} needs peft, which is not installed: pip install 'ppl-assets[lora]', or "
                "take lora_rank = 0"
            )
        return self

    @model_validator(mode="after")
    def _has_an_end(self) -> "TrialsSection":
        if self.mode == "sequential" and self.max_tokens is None:
            raise ValueError(
                "mode = 'sequential' needs max_tokens, the most tokens of all trials together: without it nothing ends "
                "the trials where the optimum stays unsure; set max_tokens, or take mode = 'fixed'"
            )
        return self


LEAST_REFITS = 20
"""Fewer bootstrap refits than this give no interval worth the name."""


class LawSection(Section):
    """``[law]``: how the law is fitted and judged."""

    bootstrap: int = Field(200, ge=0, le=10_000, description="Run-level bootstrap replicates, each fully refitted.")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="Level of the intervals.")
    robust: bool = Field(False, description="Fit with Huber's loss: single wild measurements then count less.")
    target: Literal["best_form", "paper"] = Field("best_form", description="Whose optimum is the selection's target.")
    sigma: Literal["deviation", "variance"] = Field(
        "deviation", description="How sigma is read where law.target = 'paper'."
    )

    @model_validator(mode="after")
    def _enough_refits(self) -> "LawSection":
        if 0 < self.bootstrap < LEAST_REFITS:
            raise ValueError(
                f"bootstrap = {self.bootstrap} refits give no interval: take {LEAST_REFITS} or more, or 0 for none"
            )
        return self


class SelectionSection(Section):
    """``[selection]``: how much text is wanted and how it is drawn."""

    tokens: PositiveInt | None = Field(None, description="Token budget; give this or share.")
    share: float | None = Field(None, gt=0.0, description="Budget as a share of the candidate tokens; at most repeats.")
    repeats: int = Field(1, ge=1, le=100, description="Most times a chunk may be taken; 1: nothing is repeated.")
    unit: Literal["chunk", "document"] = Field(
        "chunk", description="What is selected: chunks, or whole documents, each with all its candidate chunks."
    )
    method: Literal["tilt", "greedy_dos", "middle", "random", "lowest", "highest"] = Field(
        "tilt",
        description=(
            "Sampler; greedy_dos is the paper's. The others follow no law and no target: take a rival that did better."
        ),
    )
    objective: Literal["relative", "paper"] = Field("relative", description="Greedy objective J.")
    aim: Literal["nearest_as_good", "optimum", "matched"] = Field(
        "nearest_as_good",
        description=(
            "The place as good as the law's optimum that is nearest the corpus' own moments, where the law is better "
            "than chance and tokens alone and promises little that no trial has shown; the optimum; or matched to "
            "the test set's own moments, whatever the law says."
        ),
    )

    memory_gib: float = Field(
        4.0,
        gt=0,
        exclude=True,  # it moves no result, so it belongs to no fingerprint
        description=(
            "Memory for drawing the final subset, GiB: half for its candidates, which are read in batches where they "
            "take more (24 bytes each), half for DuckDB, which spills to disk. The subset is the same."
        ),
    )

    def of_each_copy(self, tokens: int) -> int:
        """What ``tokens`` of the selection take of one copy of the candidates.

        With r copies of every chunk, what t tokens can have is what t / r tokens can have of single ones.
        """
        return max(1, tokens // self.repeats)

    @model_validator(mode="after")
    def _one_budget(self) -> "SelectionSection":
        if (self.tokens is None) == (self.share is None):
            raise ValueError(f"tokens = {self.tokens} and share = {self.share}: give exactly one of them")
        if self.share is not None and self.share > self.repeats:
            raise ValueError(
                f"share = {self.share:g} is more than the candidates repeats = {self.repeats} times: lower share, or "
                f"let chunks repeat with repeats = {math.ceil(self.share)}"
            )
        return self


class ExportSection(Section):
    """``[export]``: the files that the selection is handed over in; it is written again where one of these changes."""

    shard_tokens: PositiveInt | None = Field(
        None, description="Most tokens of one file; empty: a single file of each format."
    )


STRATEGIES = ("selected", "random", "lowest", "middle", "highest", "gaussian", "greedy_dos", "matched", "redrawn")
"""Selections that can be trained and compared; the partition keys of ``strategy_losses``."""


class StrategiesSection(Section):
    """``[strategies]``: which rivals are trained for real, and with how many seeds."""

    rivals: list[Literal["random", "lowest", "middle", "highest", "gaussian", "greedy_dos", "matched", "redrawn"]] = (
        Field(
            default=["random", "lowest", "middle", "matched", "redrawn"],
            description=(
                "Rival selections, trained beside the selected subset; redrawn: the selection's own target, drawn anew "
                "with each seed, which tells the rule from the luck of one draw."
            ),
        )
    )
    seeds: int = Field(3, ge=1, le=32, description="Training seeds a strategy.")
    tokens: PositiveInt | None = Field(None, description="Tokens each strategy trains on; default: the selection's.")
    points: int = Field(4, ge=2, le=16, description="Log-spaced token counts measured in each run.")
    downstream: list[str] = Field(
        default=[],
        description=(
            "Program and arguments run on each trained model, with {model} for its folder and {output} for the file to "
            "write a JSON object of numbers to."
        ),
    )
    lm_eval_tasks: list[str] = Field(
        default=[], description="Tasks of lm-eval (must be installed) measured on each trained model."
    )
    lm_eval_arguments: list[str] = Field(
        default=[], description='Further arguments of lm-eval, such as ["--limit", "100"].'
    )

    @model_validator(mode="after")
    def _one_measure(self) -> "StrategiesSection":
        if self.downstream and self.lm_eval_tasks:
            raise ValueError("downstream and lm_eval_tasks are both given: give one of them")
        text = " ".join(self.downstream)
        if missing := [name for name in ("{model}", "{output}") if text and name not in text]:
            raise ValueError(
                f"downstream = {self.downstream} does not name {' and '.join(missing)}: the command reads the trained "
                "model's folder and writes a JSON file, so give it both paths"
            )
        if self.lm_eval_arguments and not self.lm_eval_tasks:
            raise ValueError("lm_eval_arguments are given without lm_eval_tasks: name the tasks")
        return self

    @property
    def names(self) -> list[str]:
        """The selected subset first, then its rivals, without repeats."""
        return list(dict.fromkeys(["selected", *self.rivals]))


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
        if problems := [*_corpus_problems(self), *_limit_problems(self), *_length_problems(self)]:
            raise ValueError("\n".join(problems))
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


def _corpus_problems(study: Study) -> Iterator[str]:
    """What is wrong with the corpora taken together, one sentence each."""
    for key, times in Counter(study.corpus_partitions()).items():
        if times > 1:
            yield (
                f"corpora: two corpora have a partition {key!r}, since a corpus with buckets has partitions NAME-000, "
                "NAME-001 and so on; rename one of them"
            )
    if not study.with_role("candidate"):
        where = f", and none was found in {study.discovery.folder}" if study.discovery.folder else ""
        yield f"corpora: no corpus has role = 'candidate'{where}; at least one is needed to select from"
    if study.base_model.source == "recipe" and not study.with_role("general"):
        yield "base_model.source = 'recipe' pre-trains on general text: give a corpus with role = 'general'"
    if not study.has_target and not study.held_out.test_share:
        yield (
            f"held_out.test_share = {study.held_out.test_share:g} leaves nothing to measure the test loss on: raise "
            "it, or give a corpus with role = 'test'"
        )


def _limit_problems(study: Study) -> Iterator[str]:
    """Which limits of corpora cannot be kept by any selection, one sentence each."""
    limited, candidates = study.limited_corpora, study.with_role("candidate")
    for name, corpus in limited.items():
        if corpus.role != "candidate":
            key = "min_share" if corpus.min_share > 0 else "max_share"
            yield (
                f"corpora.{name}.{key} = {getattr(corpus, key):g} limits what is selected, and nothing is selected "
                f"from a corpus with role = {corpus.role!r}: leave it out"
            )
        if corpus.min_share > corpus.max_share:
            yield (
                f"corpora.{name}.min_share = {corpus.min_share:g} exceeds max_share = {corpus.max_share:g}: a share "
                "cannot lie between them; lower min_share, or raise max_share"
            )
    if study.selection.unit == "document":
        yield from _document_problems(study)
    least = sum(corpus.min_share for corpus in candidates.values())
    most = sum(corpus.max_share for corpus in candidates.values())
    if least > 1 + 1e-9:
        yield f"corpora: the min_share of all corpora add up to {least:g}, more than the whole selection; lower some"
    if candidates and most < 1 - 1e-9:
        yield f"corpora: the max_share of all corpora add up to {most:g}, less than the whole selection; raise some"
    if limited and "greedy_dos" in (study.selection.method, *study.strategies.rivals):
        yield (
            f"corpora.{next(iter(limited))} has a limit, and 'greedy_dos' picks chunk by chunk and keeps none: take "
            "selection.method = 'tilt' and leave greedy_dos out of strategies.rivals, or drop the limit"
        )


def _document_problems(study: Study) -> Iterator[str]:
    """What a selection of whole documents does not know, one sentence each."""
    asked = {
        f"selection.repeats = {study.selection.repeats}": study.selection.repeats > 1,
        "min_share and max_share of corpora": bool(study.limited_corpora),
        "greedy_dos": "greedy_dos" in (study.selection.method, *study.strategies.rivals),
    }
    for what, is_asked in asked.items():
        if is_asked:
            yield f"selection.unit = 'document' takes whole documents, once each, and knows no {what}: leave one out"


def _length_problems(study: Study) -> Iterator[str]:
    """Which numbers of tokens do not fit together, one sentence each."""
    chunks, trials, context = study.chunks, study.trials, study.base_model.recipe.context
    if chunks.shortest > chunks.tokens:
        yield f"chunks.min_tokens = {chunks.min_tokens} exceeds chunks.tokens = {chunks.tokens}"
    if study.base_model.source == "recipe" and chunks.tokens > context:
        yield (
            f"chunks.tokens = {chunks.tokens} exceeds base_model.recipe.context = {context}: a chunk must fit the "
            "model's context; raise context, or lower chunks.tokens"
        )
    if chunks.tokens > trials.batch_tokens:
        yield (
            f"chunks.tokens = {chunks.tokens} exceeds trials.batch_tokens = {trials.batch_tokens}: a step takes at "
            "least one chunk; raise batch_tokens, or lower chunks.tokens"
        )
    runs = {"trials.tokens": trials.tokens}
    if study.strategies.tokens is not None:
        runs["strategies.tokens"] = study.strategies.tokens
    elif study.selection.tokens is not None:
        runs["selection.tokens"] = study.selection.tokens
    warmup = max(trials.warmup_share * trials.tokens, trials.warmup_steps * trials.batch_tokens)
    if warmup > trials.tokens / 2 and trials.tokens >= trials.span * trials.batch_tokens:
        yield (
            f"trials.warmup_share = {trials.warmup_share:g} and trials.warmup_steps = {trials.warmup_steps} make the "
            f"rate rise over {warmup:,.0f} of trials.tokens = {trials.tokens:,}, and the law uses what is measured "
            "after that: lower them until it rises over at most half"
        )
    for key, tokens in runs.items():
        if tokens < trials.span * trials.batch_tokens:
            yield (
                f"{key} = {tokens} are fewer than trials.span = {trials.span:g} steps of trials.batch_tokens = "
                f"{trials.batch_tokens}: raise it to {math.ceil(trials.span * trials.batch_tokens)}, or lower "
                "batch_tokens or span"
            )


def load_study(path: str | Path) -> Study:
    """Read and validate a study file, with environment overrides.

    Relative paths in the file are taken from the file's own folder.

    Raises:
        StudyError: one sentence a problem, each naming key, value and what is accepted.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise StudyError(f"study file {path} does not exist; copy study.toml from the repository or name one that does")
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
