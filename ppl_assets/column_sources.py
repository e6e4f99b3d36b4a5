"""Which columns each column of an asset's table is computed from, as Dagster's column lineage shows it.

Belongs here: sources across assets, column by column. Does not belong here: what a column holds (``tables.py``), which
commit was read (the lake's own lineage). ``raw_corpus`` has no columns of ours; ``text`` and ``id`` stand for the
fields of its documents.
"""

from collections.abc import Mapping

from ppl_assets import tables
from ppl_assets.tables import LakeTable

_CHUNK = ("chunks.chunk_id",)
_CORPUS = ("chunks.corpus",)
_LENGTH = ("chunks.n_tokens",)
_LOSS_INPUTS = ("base_model.path", "chunks.tokens", "test_documents.text")
_SCORE = ("chunks.tokens", "base_model.weights_fingerprint", "base_model.bos_id", "base_model.eos_id")
_PERPLEXITY = ("perplexity_scores.ppl",)
_SCORER = ("perplexity_scores.scorer_id",)
_LAW = ("trial_losses.tokens", "trial_losses.mu", "trial_losses.sigma", "trial_losses.test_loss")
_SPREAD = ("perplexity_landscape.mean", "perplexity_landscape.deviation", "perplexity_landscape.quantiles")
_OPTIMUM = ("fitted_law.mu_optimum", "fitted_law.sigma_optimum", "fitted_law.as_good_mu", "fitted_law.as_good_sigma")
_SELECTION = ("final_subset.selection_id",)

_FIT = """
status floor_loss floor_low floor_high token_exponent coefficients coefficients_low coefficients_high rms_pct
loo_median_pct loo_p90_pct loo_max_pct loo_run_pct loo_regime_pct loo_regime_largest_pct loo_rank loo_pairwise
largest_median_pct largest_max_pct largest_rank aicc aicc_weight condition_number is_chosen
"""
"""Columns of ``fitted_law`` that say what was fitted and how well."""

_FOUND = """
optimum_kind optimum_sentence mu_optimum mu_low mu_high sigma_optimum sigma_low sigma_high predicted_loss predicted_low
predicted_high regret_bound_pct equal_share as_good_mu as_good_sigma as_good_cost_pct
"""
"""Columns of ``fitted_law`` that say where the optimum lies."""

_Sources = tuple[str, ...]
"""Columns of other assets, each as ``asset.column``."""

_SAID: Mapping[LakeTable, tuple[tuple[str, _Sources], ...]] = {
    tables.TEST_DOCUMENTS: (
        ("doc_id", ("raw_corpus.id",)),
        ("split text_hash text characters", ("raw_corpus.text",)),
    ),
    tables.BASE_MODEL: (
        ("model_id path revision weights_fingerprint", ("raw_corpus.text", "test_documents.text_hash")),
        ("tokenizer_fingerprint vocabulary bos_id eos_id", ("raw_corpus.text", "test_documents.text_hash")),
    ),
    tables.CHUNKS: (
        ("chunk_id text", ("raw_corpus.text", "base_model.tokenizer_fingerprint")),
        ("tokens n_tokens n_bytes first_token_bytes", ("raw_corpus.text", "base_model.tokenizer_fingerprint")),
        ("position", ("raw_corpus.text", "base_model.tokenizer_fingerprint")),
        ("doc_id", ("raw_corpus.id",)),
        ("split", ("raw_corpus.text", "test_documents.split", "test_documents.text_hash")),
        ("tokenizer_id", ("base_model.tokenizer_fingerprint",)),
    ),
    tables.PERPLEXITY_SCORES: (
        ("chunk_id", _CHUNK),
        ("corpus", _CORPUS),
        ("n_tokens", _LENGTH),
        ("scorer_id", ("base_model.model_id", "base_model.tokenizer_fingerprint")),
        ("n_scored", ("chunks.tokens", "base_model.bos_id", "base_model.eos_id")),
        ("scored_bytes", ("chunks.n_bytes", "chunks.first_token_bytes")),
        ("bits_per_byte", (*_SCORE, "chunks.n_bytes", "chunks.first_token_bytes")),
        ("nll nll_square_sum ppl log_ppl max_token_nll nll_first_half nll_second_half status", _SCORE),
    ),
    tables.PERPLEXITY_LANDSCAPE: (
        ("scope", ("chunks.corpus", "chunks.split")),
        ("scorer_id", _SCORER),
        ("chunks unscored_chunks duplicate_chunks", ("chunks.chunk_id", "chunks.split", "perplexity_scores.status")),
        ("tokens", ("chunks.n_tokens", "chunks.split", "perplexity_scores.status")),
        ("noise_chunks fence_low fence_high mean variance deviation quantiles", ("chunks.split", *_PERPLEXITY)),
        ("log_mean log_deviation", ("chunks.split", "perplexity_scores.log_ppl")),
    ),
    tables.REGIME_PARTITIONS: (
        ("trial", _SPREAD),
        ("rank", (*_SPREAD, *_PERPLEXITY)),
        ("chunk_id", (*_CHUNK, *_SPREAD, *_PERPLEXITY)),
        ("corpus", _CORPUS),
        ("n_tokens", _LENGTH),
        ("ppl", _PERPLEXITY),
    ),
    tables.TRIAL_LOSSES: (
        ("trial", ("regime_partitions.trial",)),
        ("trial_fingerprint", ("base_model.model_id", "regime_partitions.chunk_id", "regime_partitions.rank")),
        ("setting_id", ("base_model.model_id", "test_documents.text_hash")),
        ("tokens", ("regime_partitions.n_tokens",)),
        ("mu sigma log_mu log_sigma", ("regime_partitions.ppl", "regime_partitions.rank")),
        ("test_loss general_loss status", (*_LOSS_INPUTS, "regime_partitions.chunk_id", "regime_partitions.rank")),
    ),
    tables.FITTED_LAW: (
        ("points runs set_aside", ("trial_losses.is_warmup", "trial_losses.status", "trial_losses.setting_id")),
        ("base_loss", ("trial_losses.test_loss", "trial_losses.point")),
        ("noise_pct", ("trial_losses.test_loss", "trial_losses.seed")),
        (_FIT, _LAW),
        (_FOUND, (*_LAW, *_SPREAD[:2])),
    ),
    tables.NEXT_TRIALS: (
        ("trial batch", ("fitted_law.mu_optimum", "fitted_law.sigma_optimum", "trial_losses.test_loss")),
        ("rank", _PERPLEXITY),
        ("chunk_id", (*_CHUNK, *_PERPLEXITY, "fitted_law.mu_optimum", "fitted_law.sigma_optimum")),
        ("corpus", _CORPUS),
        ("n_tokens", _LENGTH),
        ("ppl", _PERPLEXITY),
        ("design_version", ("regime_partitions.trial", "regime_partitions.chunk_id")),
    ),
    tables.FINAL_SUBSET: (
        ("selection_id", (*_CHUNK, *_PERPLEXITY, *_OPTIMUM, *_CORPUS, "chunks.doc_id", "chunks.source")),
        ("rank", (*_CHUNK, *_PERPLEXITY, *_OPTIMUM)),
        ("chunk_id", (*_CHUNK, *_PERPLEXITY, *_OPTIMUM)),
        ("corpus", _CORPUS),
        ("doc_id", ("chunks.doc_id",)),
        ("source", ("chunks.source",)),
        ("n_tokens", _LENGTH),
        ("ppl", _PERPLEXITY),
        ("scorer_id", _SCORER),
    ),
    tables.STRATEGY_LOSSES: (
        ("trial_fingerprint", ("base_model.model_id", "final_subset.chunk_id", "final_subset.rank")),
        ("setting_id", ("base_model.model_id", "test_documents.text_hash")),
        ("tokens", ("final_subset.n_tokens", *_LENGTH)),
        ("mu sigma log_mu log_sigma", ("final_subset.ppl", *_PERPLEXITY)),
        ("test_loss general_loss downstream status", (*_LOSS_INPUTS, "final_subset.chunk_id", "final_subset.rank")),
        ("predicted_loss", ("fitted_law.coefficients", "fitted_law.floor_loss", "fitted_law.token_exponent")),
    ),
    tables.SELECTION_REPORT: (
        ("selection_id", _SELECTION),
        ("path", _SELECTION),
        ("headline gain_vs_random gain_low gain_high", (*_SELECTION, "strategy_losses.test_loss")),
    ),
}

COLUMN_SOURCES: Mapping[str, Mapping[str, _Sources]] = {
    table.name: {column: sources for columns, sources in said for column in columns.split()}
    for table, said in _SAID.items()
}
"""By table and column; a column that is not named comes from settings, a seed, a clock or the machine alone."""
