"""What the sections of a study must agree on, one sentence a problem."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppl_assets.study import Study


def broken_rules(study: Study) -> Iterator[str]:
    """What is wrong with the sections taken together."""
    yield from _corpus_problems(study)
    yield from _limit_problems(study)
    yield from _length_problems(study)


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
