"""Every lake table, declared once: columns, types, units. Writes are checked against it.

Belongs here: names, types and the sentence that explains a column. Does not belong here: how a table is stored
(``lake.py``) or computed (the stage folders).
"""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """A column: its name, its Arrow type, what it holds, and whether a row may leave it empty."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False


@dataclass(frozen=True)
class LakeTable:
    """A table of the lake.

    Attributes:
        name: its name, the same as the asset that writes it or a companion of it.
        partition: the column whose value a write replaces; empty where the whole table is replaced.
        columns: its columns in order.
    """

    name: str
    partition: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema that every write must match."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])


_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

TEST_DOCUMENTS = LakeTable(
    "test_documents",
    "",
    (
        Column("doc_id", _TEXT, "Document: corpus, file and position or id."),
        Column("corpus", _TEXT, "Corpus partition the document comes from."),
        Column("split", _TEXT, "test: domain loss is measured on it. general: forgetting is."),
        Column("text_hash", _TEXT, "128-bit hash of the normalized text."),
        Column("text", _TEXT, "The normalized text."),
        Column("characters", _INT, "Length of the normalized text."),
    ),
)

BASE_MODEL = LakeTable(
    "base_model",
    "",
    (
        Column("model_id", _TEXT, "Fingerprint of weights, configuration and tokenizer together."),
        Column("source", _TEXT, "What the study asked for."),
        Column("path", _TEXT, "Local folder or GGUF file that is loaded."),
        Column("revision", _TEXT, "Revision, recipe fingerprint or file hash."),
        Column("weights_fingerprint", _TEXT, "Hash of the weights' bytes."),
        Column("tokenizer_fingerprint", _TEXT, "Hash of the serialized tokenizer."),
        Column("architecture", _TEXT, "Model class."),
        Column("parameters", _INT, "Number of parameters."),
        Column("vocabulary", _INT, "Tokens in the vocabulary."),
        Column("context_length", _INT, "Context window in tokens."),
        Column("bos_id", _INT, "Beginning-of-sequence token, where the tokenizer has one.", nullable=True),
        Column("eos_id", _INT, "End-of-sequence token, where the tokenizer has one.", nullable=True),
        Column("attention", _TEXT, "Attention that ``auto`` is for this model class.", nullable=True),
    ),
)

CHUNKS = LakeTable(
    "chunks",
    "corpus",
    (
        Column("chunk_id", _TEXT, "Hash of the chunk's text and token ids: the same content has the same id."),
        Column("corpus", _TEXT, "Corpus partition."),
        Column("split", _TEXT, "candidate: may be selected; test: target text; general: to measure forgetting."),
        Column("doc_id", _TEXT, "Document the chunk was cut from."),
        Column("source", _TEXT, "File, relative to the corpus."),
        Column("position", _INT, "Number of the chunk in its document, from 0."),
        Column("text", _TEXT, "The chunk's text."),
        Column("tokens", pa.list_(pa.int32()), "Token ids, without any prefix."),
        Column("n_tokens", _INT, "Length in tokens."),
        Column("n_bytes", _INT, "Length of the text in UTF-8 bytes."),
        Column("first_token_bytes", _INT, "UTF-8 bytes of the first token, for bits per byte where it is not scored."),
        Column("tokenizer_id", _TEXT, "Fingerprint of the tokenizer."),
    ),
)

REJECTED_ROWS = LakeTable(
    "rejected_rows",
    "corpus",
    (
        Column("corpus", _TEXT, "Corpus partition."),
        Column("source", _TEXT, "File, relative to the corpus."),
        Column("position", _INT, "Line or row, from 1; empty where the whole file is meant.", nullable=True),
        Column(
            "reason",
            _TEXT,
            "invalid_utf8, invalid_json, missing_field, null_text, not_text, over_long, binary_file, ...",
        ),
        Column("detail", _TEXT, "One sentence."),
    ),
)

CLEANING_COUNTS = LakeTable(
    "cleaning_counts",
    "corpus",
    (
        Column("corpus", _TEXT, "Corpus partition."),
        Column(
            "outcome",
            _TEXT,
            "kept, empty, exact_duplicate, near_duplicate, near_test, held_out, too_short, rejected, ...",
        ),
        Column("documents", _INT, "Documents with this outcome."),
        Column("characters", _INT, "Their characters."),
    ),
)

PERPLEXITY_SCORES = LakeTable(
    "perplexity_scores",
    "corpus",
    (
        Column("chunk_id", _TEXT, "The chunk."),
        Column("corpus", _TEXT, "Corpus partition."),
        Column("scorer_id", _TEXT, "Fingerprint of model, tokenizer and policy; see table scorers."),
        Column("n_tokens", _INT, "Tokens of the chunk."),
        Column("n_scored", _INT, "Tokens whose probability was taken."),
        Column("scored_bytes", _INT, "UTF-8 bytes of exactly the scored span."),
        Column("nll", _REAL, "Sum of -ln p over the scored tokens, in nats.", nullable=True),
        Column("nll_square_sum", _REAL, "Sum of (ln p)^2 over the scored tokens.", nullable=True),
        Column("ppl", _REAL, "exp(nll / n_scored).", nullable=True),
        Column("log_ppl", _REAL, "nll / n_scored, in nats.", nullable=True),
        Column("bits_per_byte", _REAL, "nll / ln 2 / scored_bytes.", nullable=True),
        Column("max_token_nll", _REAL, "Highest -ln p of a token.", nullable=True),
        Column("nll_first_half", _REAL, "nll of the first half of the scored tokens.", nullable=True),
        Column("nll_second_half", _REAL, "nll of the second half.", nullable=True),
        Column("status", _TEXT, "ok, or why there is no score: empty, one_token, non_finite."),
    ),
)

SCORERS = LakeTable(
    "scorers",
    "scorer_id",
    (
        Column("scorer_id", _TEXT, "Fingerprint of model_id to code_version."),
        Column("model_id", _TEXT, "Base model."),
        Column("tokenizer_id", _TEXT, "Tokenizer."),
        Column("first_token", _TEXT, "bos, eos or unscored."),
        Column("prefix_id", _INT, "Token id of the prefix.", nullable=True),
        Column("window_tokens", _INT, "Chunk length: one chunk, one window."),
        Column("dtype", _TEXT, "Of the matrix products; softmax and sums are at least float32."),
        Column("attention", _TEXT, "Attention implementation."),
        Column("code_version", _TEXT, "Version of the scoring code."),
        # Facts of the latest run that computed something; no part of scorer_id (perplexity/scorer_facts.py says why).
        Column("device", _TEXT, "Kind of device it ran on: cpu or cuda.", nullable=True),
        Column(
            "shares_rows",
            _FLAG,
            "Whether documents shared rows; otherwise the model's own attention took batches of equal length.",
            nullable=True,
        ),
        Column("torch_version", _TEXT, "Version of torch.", nullable=True),
        Column("transformers_version", _TEXT, "Version of transformers.", nullable=True),
        Column("package_version", _TEXT, "Version of this package.", nullable=True),
        Column("tokens_per_second", _REAL, "Speed of that run, reading and writing included.", nullable=True),
    ),
)

PERPLEXITY_LANDSCAPE = LakeTable(
    "perplexity_landscape",
    "",
    (
        Column("scope", _TEXT, "candidates, test, general, or corpus:NAME."),
        Column("scorer_id", _TEXT, "Scorer of these figures."),
        Column("chunks", _INT, "Chunks that count."),
        Column("tokens", _INT, "Their tokens."),
        Column("noise_chunks", _INT, "Chunks beyond the fence, set aside."),
        Column("unscored_chunks", _INT, "Chunks without a score."),
        Column("duplicate_chunks", _INT, "Chunks whose text another corpus already holds."),
        Column("fence_low", _REAL, "Lowest perplexity that counts."),
        Column("fence_high", _REAL, "Highest perplexity that counts."),
        Column("mean", _REAL, "Mean perplexity (mu)."),
        Column("variance", _REAL, "Variance of perplexity."),
        Column("deviation", _REAL, "Standard deviation of perplexity (sigma)."),
        Column("log_mean", _REAL, "Mean log perplexity, nats."),
        Column("log_deviation", _REAL, "Standard deviation of log perplexity."),
        Column("quantiles", pa.list_(_REAL), "Perplexity at 0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100 %."),
    ),
)

LANDSCAPE_HISTOGRAM = LakeTable(
    "landscape_histogram",
    "",
    (
        Column("scope", _TEXT, "As in perplexity_landscape."),
        Column("log_low", _REAL, "Lower edge of the bin, log perplexity."),
        Column("log_high", _REAL, "Upper edge of the bin."),
        Column("chunks", _INT, "Chunks in the bin, noise included."),
        Column("tokens", _INT, "Their tokens."),
    ),
)

REACHABLE_REGION = LakeTable(
    "reachable_region",
    "",
    (
        Column("share", _REAL, "Share of the candidates that the subset takes."),
        Column("mu", _REAL, "Mean perplexity."),
        Column("sigma_low", _REAL, "Least standard deviation reachable at this mean."),
        Column("sigma_high", _REAL, "Greatest standard deviation reachable at this mean."),
    ),
)

_REGIME_COLUMNS = (
    Column("trial", _TEXT, "Trial: partition key of trial_losses."),
    Column("regime", _TEXT, "Place in the design: grid-IJ, centre, an anchor's name, next-IJ or place-N."),
    Column("mu_target", _REAL, "Mean perplexity asked for."),
    Column("sigma_target", _REAL, "Standard deviation asked for."),
    Column("mu", _REAL, "Mean perplexity drawn."),
    Column("sigma", _REAL, "Standard deviation drawn."),
    Column("tokens", _INT, "Tokens drawn."),
    Column("chunks", _INT, "Chunks drawn."),
    Column("seed", _INT, "Seed of the draw and of training."),
    Column("objective", _REAL, "Relative distance J of the draw from its target."),
    Column("kl_nats", _REAL, "Kullback-Leibler divergence of its perplexities from the corpus'."),
    Column("prefix_error", _REAL, "Largest relative moment error over the measured prefixes."),
    Column("steady_tokens", _INT, "From this many tokens on, every prefix is within 1 % of the whole.", nullable=True),
    Column("subset_hash", _TEXT, "Hash of chunk ids in order."),
)

_MEMBER_COLUMNS = (
    Column("trial", _TEXT, "Trial."),
    Column("rank", _INT, "Place in the training order, from 0."),
    Column("chunk_id", _TEXT, "Chunk."),
    Column("corpus", _TEXT, "Corpus partition of the chunk."),
    Column("n_tokens", _INT, "Tokens of the chunk."),
    Column("ppl", _REAL, "Perplexity of the chunk."),
)

_PROPOSAL_COLUMNS = (
    Column("batch", _INT, "Number of the proposal, from 1."),
    Column("design_version", _TEXT, "Data version of regime_partitions that it adds to; under another it is void."),
)

REGIMES = LakeTable("regimes", "", _REGIME_COLUMNS)

REGIME_PARTITIONS = LakeTable("regime_partitions", "", _MEMBER_COLUMNS)

PROPOSED_REGIMES = LakeTable("proposed_regimes", "", (*_REGIME_COLUMNS, *_PROPOSAL_COLUMNS))

NEXT_TRIALS = LakeTable("next_trials", "", (*_MEMBER_COLUMNS, *_PROPOSAL_COLUMNS))

SEQUENTIAL_STEPS = LakeTable(
    "sequential_steps",
    "",
    (
        Column("step", _INT, "Number of the decision, from 1."),
        Column("status", _TEXT, "fixed, waiting, propose, regret_reached, location_reached, budget_spent, refused."),
        Column("sentence", _TEXT, "What was decided and why, in plain words."),
        Column("trials", _INT, "Trials of the design and of all proposals, this one included."),
        Column("tokens", _INT, "Their tokens, trained and evaluated."),
        Column("proposed", _INT, "Trials proposed by this decision."),
        Column("mu", _REAL, "Mean perplexity recommended.", nullable=True),
        Column("mu_low", _REAL, "Lower end of the plausible optima.", nullable=True),
        Column("mu_high", _REAL, "Upper end.", nullable=True),
        Column("sigma", _REAL, "Standard deviation recommended.", nullable=True),
        Column("sigma_low", _REAL, "Lower end of the plausible optima.", nullable=True),
        Column("sigma_high", _REAL, "Upper end.", nullable=True),
        Column("regret_pct", _REAL, "Mean loss given away by the recommended point, % of loss.", nullable=True),
        Column("regret_bound_pct", _REAL, "Its 95 % bound.", nullable=True),
        Column("forms", _TEXT, "The plausible forms with their weights."),
        Column("design_version", _TEXT, "Data version of regime_partitions that was decided on."),
    ),
)

TRIAL_LOSSES = LakeTable(
    "trial_losses",
    "trial_fingerprint",
    (
        Column("trial", _TEXT, "Trial."),
        Column("trial_fingerprint", _TEXT, "Hash of setting, subset, order and seed: the same is never trained twice."),
        Column(
            "setting_id", _TEXT, "Hash of base model, recipe, test set and policy: rows that share it are comparable."
        ),
        Column("seed", _INT, "Training seed."),
        Column("point", _INT, "Number of the measurement, 0 before any training."),
        Column("tokens", _INT, "Tokens seen (D)."),
        Column("mu", _REAL, "Mean perplexity of what was seen.", nullable=True),
        Column("sigma", _REAL, "Its standard deviation.", nullable=True),
        Column("test_loss", _REAL, "Held-out domain loss, nats a token."),
        Column("general_loss", _REAL, "Held-out general loss, nats a token.", nullable=True),
        Column("is_warmup", _FLAG, "Measured while the learning rate still rose: not used in the fit."),
        Column("seconds", _REAL, "Training seconds so far, evaluation excluded."),
        Column("tokens_per_second", _REAL, "Training speed so far."),
        Column("status", _TEXT, "ok or diverged."),
        Column("log_mu", _REAL, "Mean of ln perplexity of what was seen.", nullable=True),
        Column("log_sigma", _REAL, "Its standard deviation.", nullable=True),
        Column("branch", _TEXT, "trunk, or decay: a branch with a falling rate, not used in the fit.", nullable=True),
        Column("micro_tokens", _INT, "Most tokens of one pass by then; empty: whole steps.", nullable=True),
        Column("screening", _FLAG, "Adapters were trained, not the weights.", nullable=True),
    ),
)

FITTED_LAW = LakeTable(
    "fitted_law",
    "",
    (
        Column(
            "form", _TEXT, "d_only, no_interaction, paper, scale_free or quadratic; with log_ before it in log moments."
        ),
        Column("link", _TEXT, "paper: L = E + exp(-g) D^-a; anchored: starts at the base model's own loss."),
        Column("sigma_kind", _TEXT, "How sigma is read: deviation or variance."),
        Column("status", _TEXT, "converged, e_at_bound, e_near_min, ill_conditioned, refused."),
        Column("reason", _TEXT, "One sentence on the status."),
        Column("points", _INT, "Observations used."),
        Column("runs", _INT, "Trial runs they come from."),
        Column("set_aside", _INT, "Observations set aside as transient or diverged."),
        Column("base_loss", _REAL, "L0: test loss of the base model before any training, nats a token.", nullable=True),
        Column("floor_loss", _REAL, "E, nats a token.", nullable=True),
        Column("floor_low", _REAL, "Lower end of E's interval.", nullable=True),
        Column("floor_high", _REAL, "Upper end of E's interval.", nullable=True),
        Column("token_exponent", _REAL, "aD.", nullable=True),
        Column("coefficient_names", pa.list_(_TEXT), "Names of the linear coefficients."),
        Column("coefficients", pa.list_(_REAL), "Their values, E excluded."),
        Column("coefficients_low", pa.list_(_REAL), "Lower ends of their intervals."),
        Column("coefficients_high", pa.list_(_REAL), "Upper ends of their intervals."),
        Column("rms_pct", _REAL, "Root mean square residual, % of loss.", nullable=True),
        Column("loo_median_pct", _REAL, "Median absolute leave-one-run-out error, % of loss.", nullable=True),
        Column("loo_p90_pct", _REAL, "Its 90th percentile.", nullable=True),
        Column("loo_max_pct", _REAL, "Its maximum.", nullable=True),
        Column(
            "loo_regime_largest_pct",
            _REAL,
            "Error of left-out regimes at the largest token count, root mean square, % of loss.",
            nullable=True,
        ),
        Column("aicc", _REAL, "Corrected Akaike information criterion.", nullable=True),
        Column("aicc_weight", _REAL, "Akaike weight among forms of the same link.", nullable=True),
        Column("condition_number", _REAL, "Of the scaled inner problem.", nullable=True),
        Column("is_chosen", _FLAG, "The form whose optimum is the target."),
        Column("choice_reason", _TEXT, "Why it was chosen, or not."),
        Column("optimum_kind", _TEXT, "interior_bowl, weak_bowl, boundary, saddle, flat or refused."),
        Column("optimum_sentence", _TEXT, "What that means here, in plain words."),
        Column("mu_optimum", _REAL, "Mean perplexity at the optimum.", nullable=True),
        Column("mu_low", _REAL, "Lower end of its interval.", nullable=True),
        Column("mu_high", _REAL, "Upper end of its interval.", nullable=True),
        Column("sigma_optimum", _REAL, "Standard deviation at the optimum.", nullable=True),
        Column("sigma_low", _REAL, "Lower end of its interval.", nullable=True),
        Column("sigma_high", _REAL, "Upper end of its interval.", nullable=True),
        Column("predicted_loss", _REAL, "Predicted test loss at the optimum and the selection budget.", nullable=True),
        Column("predicted_low", _REAL, "Lower end of its interval.", nullable=True),
        Column("predicted_high", _REAL, "Upper end of its interval.", nullable=True),
        Column(
            "regret_bound_pct", _REAL, "95 % bound on the loss given away by this optimum, % of loss.", nullable=True
        ),
        Column("noise_pct", _REAL, "Seed noise measured by repeats, % of loss.", nullable=True),
        Column(
            "statistics",
            _TEXT,
            "raw: mu and sigma are moments of PPL; log: geometric mean and deviation, exp of the moments of ln PPL.",
            nullable=True,
        ),
        Column(
            "loo_rank",
            _REAL,
            "Spearman's correlation of left-out runs' last losses with those predicted.",
            nullable=True,
        ),
        Column("loo_pairwise", _REAL, "Share of pairs of left-out runs ordered as predicted.", nullable=True),
        Column(
            "largest_median_pct",
            _REAL,
            "Median error at the largest token count, fitted without it, % of loss.",
            nullable=True,
        ),
        Column("largest_max_pct", _REAL, "Its maximum.", nullable=True),
        Column("largest_rank", _REAL, "Spearman's correlation there.", nullable=True),
        Column(
            "equal_share", _REAL, "Share of the region searched that cannot be told from the optimum.", nullable=True
        ),
        Column("equal_mu_low", _REAL, "Least mean perplexity that cannot be told from the optimum.", nullable=True),
        Column("equal_mu_high", _REAL, "Greatest one.", nullable=True),
        Column(
            "equal_sigma_low", _REAL, "Least standard deviation that cannot be told from the optimum.", nullable=True
        ),
        Column("equal_sigma_high", _REAL, "Greatest one.", nullable=True),
        Column("equal_regret_pct", _REAL, "Largest 95 % bound on regret among those places, % of loss.", nullable=True),
        Column("as_good_mu", _REAL, "Chosen row: mean of the place as good that is nearest the corpus.", nullable=True),
        Column("as_good_sigma", _REAL, "Its standard deviation.", nullable=True),
        Column("as_good_cost_pct", _REAL, "Predicted loss there over the optimum's, less one, %.", nullable=True),
        Column("further_mu", _REAL, "Mean of the trial that would settle an optimum on the edge.", nullable=True),
        Column("further_sigma", _REAL, "Its standard deviation.", nullable=True),
        Column(
            "loo_run_pct", _REAL, "Mean leave-one-run-out error, % of loss: what the choice rests on.", nullable=True
        ),
        Column("loo_regime_pct", _REAL, "The same where a regime is left out with all its repeats.", nullable=True),
        Column("refits_failed", _INT, "Bootstrap refits dropped because they did not come to rest.", nullable=True),
        Column(
            "across_forms", _TEXT, "Chosen row: the forms within one standard error of it, itself first.", nullable=True
        ),
        Column("across_mu_low", _REAL, "Least lower end of these forms' intervals of mu_optimum.", nullable=True),
        Column("across_mu_high", _REAL, "Greatest upper end.", nullable=True),
        Column("across_sigma_low", _REAL, "Least lower end of their intervals of sigma_optimum.", nullable=True),
        Column("across_sigma_high", _REAL, "Greatest upper end.", nullable=True),
        Column(
            "across_equal_share",
            _REAL,
            "Share of the region that at least one of them cannot tell from its optimum.",
            nullable=True,
        ),
    ),
)

LAW_FINDINGS = LakeTable(
    "law_findings",
    "",
    (
        Column("name", _TEXT, "What was checked."),
        Column("passed", _FLAG, "Whether all is well."),
        Column("severity", _TEXT, "error where the selection should not be trusted, warn where it is read with care."),
        Column("sentence", _TEXT, "What was found, in plain words."),
    ),
)

SELECTIONS = LakeTable(
    "selections",
    "",
    (
        Column("selection_id", _TEXT, "Hash of target, budget, sampler, members and where they come from."),
        Column("method", _TEXT, "Sampler."),
        Column("mu_target", _REAL, "Mean perplexity aimed at."),
        Column("sigma_target", _REAL, "Standard deviation aimed at."),
        Column("tokens_target", _INT, "Token budget."),
        Column("mu", _REAL, "Mean perplexity reached."),
        Column("sigma", _REAL, "Standard deviation reached."),
        Column("tokens", _INT, "Tokens selected."),
        Column("chunks", _INT, "Chunks selected."),
        Column("objective", _REAL, "Relative distance J from the target."),
        Column("kl_nats", _REAL, "Divergence of its perplexities from the corpus'."),
        Column("is_reachable", _FLAG, "Whether the optimum could be reached at this budget."),
        Column("message", _TEXT, "What was reached, in plain words."),
        Column("export_path", _TEXT, "Folder of the export."),
        Column("exported_snapshot", _INT, "Lake snapshot that the export was written from."),
        Column("is_known_kind", _FLAG, "Whether third moment and divergence are those of trials.", nullable=True),
        Column("kind", _TEXT, "Both, beside those of trials drawn at its place; empty: no spread.", nullable=True),
        Column(
            "described",
            _TEXT,
            "What card and manifest say of it, a JSON object, so that it can be exported again as it was.",
            nullable=True,
        ),
        Column(
            "content_id",
            _TEXT,
            "The same hash without where members come from, which training does not see; empty: it is selection_id.",
            nullable=True,
        ),
    ),
)

FINAL_SUBSET = LakeTable(
    "final_subset",
    "",
    (
        Column("selection_id", _TEXT, "Selection; see table selections."),
        Column("rank", _INT, "Place in the training order, from 0."),
        Column("chunk_id", _TEXT, "Chunk."),
        Column("corpus", _TEXT, "Corpus partition."),
        Column("doc_id", _TEXT, "Document."),
        Column("source", _TEXT, "File, relative to the corpus."),
        Column("n_tokens", _INT, "Tokens of the chunk."),
        Column("ppl", _REAL, "Perplexity of the chunk under the base model."),
        Column("scorer_id", _TEXT, "Scorer that measured it."),
    ),
)

STRATEGY_LOSSES = LakeTable(
    "strategy_losses",
    "strategy",
    (
        Column("strategy", _TEXT, "selected, or a rival."),
        Column("trial_fingerprint", _TEXT, "Hash of setting, subset, order and seed."),
        Column("setting_id", _TEXT, "Hash of base model, recipe, test set and policy."),
        Column("seed", _INT, "Training seed; strategies that share it are paired."),
        Column("point", _INT, "Number of the measurement."),
        Column("tokens", _INT, "Tokens seen."),
        Column("mu", _REAL, "Mean perplexity of what was seen.", nullable=True),
        Column("sigma", _REAL, "Its standard deviation.", nullable=True),
        Column("test_loss", _REAL, "Held-out domain loss, nats a token."),
        Column("general_loss", _REAL, "Held-out general loss, nats a token.", nullable=True),
        Column("predicted_loss", _REAL, "What the law said before this was trained.", nullable=True),
        Column("seconds", _REAL, "Training seconds so far."),
        Column("tokens_per_second", _REAL, "Training speed so far."),
        Column("status", _TEXT, "ok or diverged."),
        Column("log_mu", _REAL, "Mean of ln perplexity of what was seen.", nullable=True),
        Column("log_sigma", _REAL, "Its standard deviation.", nullable=True),
        Column("micro_tokens", _INT, "Most tokens of one pass by then; empty: whole steps.", nullable=True),
        Column("downstream", _TEXT, "Further measures at the end, a JSON object of numbers by name.", nullable=True),
        Column("downstream_command", _TEXT, "The command that took them.", nullable=True),
    ),
)

SELECTION_REPORT = LakeTable(
    "selection_report",
    "",
    (
        Column("selection_id", _TEXT, "Selection the report is about."),
        Column("path", _TEXT, "The HTML page."),
        Column("headline", _TEXT, "Its first paragraph."),
        Column(
            "gain_vs_random", _REAL, "Test loss of random minus that of the selection, nats a token.", nullable=True
        ),
        Column("gain_low", _REAL, "Lower end of its 95 % interval.", nullable=True),
        Column("gain_high", _REAL, "Upper end of its 95 % interval.", nullable=True),
    ),
)

PAST_COMMITS = LakeTable(
    "past_commits",
    "",
    (
        Column("number", _INT, "Lake snapshot that the commit made; it can no longer be read."),
        Column("time", pa.timestamp("us", tz="UTC"), "When it was made."),
        Column("author", _TEXT, "Who made it.", nullable=True),
        Column("message", _TEXT, "Asset and partition.", nullable=True),
        Column("extra_info", _TEXT, "Its lineage, a JSON object."),
    ),
)
"""Kept when ``lake_maintenance`` expires a snapshot: what the view ``lineage`` goes on to show."""

TABLES: dict[str, LakeTable] = {
    table.name: table
    for table in (
        TEST_DOCUMENTS,
        BASE_MODEL,
        CHUNKS,
        REJECTED_ROWS,
        CLEANING_COUNTS,
        PERPLEXITY_SCORES,
        SCORERS,
        PERPLEXITY_LANDSCAPE,
        LANDSCAPE_HISTOGRAM,
        REACHABLE_REGION,
        REGIMES,
        REGIME_PARTITIONS,
        PROPOSED_REGIMES,
        NEXT_TRIALS,
        SEQUENTIAL_STEPS,
        TRIAL_LOSSES,
        FITTED_LAW,
        LAW_FINDINGS,
        SELECTIONS,
        FINAL_SUBSET,
        STRATEGY_LOSSES,
        SELECTION_REPORT,
        PAST_COMMITS,
    )
}
"""All tables by name."""
