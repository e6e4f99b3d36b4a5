"""The sections of ``study.toml``: every key with its type, its bounds, its default and what it means.

Belongs here: what one section alone decides. What several must agree on is in ``study_rules.py``, how they are read in
``study.py``.
"""

import importlib.util
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from ppl_assets.discovery import PARTITION_KEY

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


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
