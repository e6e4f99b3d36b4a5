"""The base model read back from the lake, and what follows from it and the study: the score policy in force."""

from ppl_assets.lake import Snapshot
from ppl_assets.perplexity.base_model import BaseModel
from ppl_assets.perplexity.device import resolve_device
from ppl_assets.perplexity.policy import ScorePolicy, attention_of, resolve_policy
from ppl_assets.study import Study
from ppl_assets.tables import BASE_MODEL


def stored_base_model(snapshot: Snapshot) -> BaseModel:
    """The base model of the lake."""
    return BaseModel(**snapshot.only_row(BASE_MODEL))


def study_policy(study: Study, base: BaseModel) -> ScorePolicy:
    """The study's score policy with every ``auto`` decided for this model and device."""
    model_attention = base.attention or "sdpa"
    if study.score.attention == "auto" and base.attention is None:  # a lake of an earlier version
        model_attention = attention_of(base.architecture)
    return resolve_policy(
        first_token=study.score.first_token,
        window_tokens=study.chunks.tokens,
        dtype=study.score.dtype,
        attention=study.score.attention,
        device=resolve_device(study.study.device),
        bos_id=base.bos_id,
        eos_id=base.eos_id,
        model_id=base.model_id,
        tokenizer_id=base.tokenizer_fingerprint,
        model_attention=model_attention,
    )


def content_versions(study: Study, snapshot: Snapshot) -> dict[str, list[str]]:
    """Data versions of chunks and scores of every corpus partition."""
    commits = [snapshot.commits(asset) for asset in ("chunks", "perplexity_scores")]
    return {key: [c[key].data_version if key in c else "" for c in commits] for key in study.corpus_partitions()}
