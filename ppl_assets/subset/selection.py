"""One interface to every selection: the subset that the law asks for, and the rivals it is compared with."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ppl_assets.regimes.candidates import Candidates, ChunkSource, SelectionError
from ppl_assets.regimes.documents import Documents, described, draw_documents
from ppl_assets.regimes.drawn import Drawn, Target, describe
from ppl_assets.regimes.limited import draw_limited
from ppl_assets.regimes.limits import Limits
from ppl_assets.regimes.quotas import require_budget
from ppl_assets.regimes.repeats import Repeated, repeated_in_memory
from ppl_assets.regimes.sampler import draw_tilt
from ppl_assets.subset import rivals
from ppl_assets.subset.greedy import greedy_dos

_RIVALS = {
    "random": rivals.random,
    "lowest": rivals.lowest,
    "middle": rivals.middle,
    "highest": rivals.highest,
    "gaussian": rivals.gaussian,
}

BY_RANK = {
    "random": "Taken at random",
    "lowest": "Taken from the lowest perplexity up",
    "middle": "Taken by rank around the median perplexity",
    "highest": "Taken from the highest perplexity down",
}
"""Methods that follow no target, and what they do; a study may select by them."""

SELECTIONS = ("selected", "redrawn", "tilt", "matched", "greedy_dos", *_RIVALS)
"""Names that :func:`select` knows; ``selected`` and ``redrawn`` are drawn by the method of the options."""


@dataclass(frozen=True)
class SelectionOptions:
    """How ``selected`` is drawn, the greedy objective, and what every strategy keeps to: limits, repeats."""

    method: Literal["tilt", "greedy_dos", "middle", "random", "lowest", "highest"] = "tilt"
    objective: Literal["relative", "paper"] = "relative"
    w_mu: float = 1.0
    w_sigma: float = 1.0
    limits: Limits = ()
    repeats: int = 1


def select(
    name: str, candidates: ChunkSource, target: Target, *, seed: int, options: SelectionOptions | None = None
) -> Drawn:
    """Draw a subset by its strategy's name.

    Args:
        name: one of SELECTIONS.
        candidates: N chunks; the tilt takes them in batches, every other strategy in memory.
        target: token budget, and the moments: the law's optimum for ``selected``, the test set's own for ``matched``.
            Strategies that follow no moments are still measured against them.
        seed: any integer.
        options: method, objective, limits and repeats; the defaults are the tilt, the relative J, and each chunk once.

    Returns:
        The subset; where chunks may be repeated its index has a position as often as its chunk is taken, and keys of
        further copies are hashed with the copy's number.

    Raises:
        SelectionError: unknown name, a budget below one chunk, chunks in batches for a strategy that sorts them all, or
            limits that cannot be kept.
    """
    options = options or SelectionOptions()
    if name not in SELECTIONS:
        raise SelectionError(f"selection {name!r} is not known; use one of {', '.join(SELECTIONS)}")
    require_budget(candidates, target.tokens)
    method = options.method if name in ("selected", "redrawn") else name
    offered = Repeated(candidates, options.repeats) if options.repeats > 1 else candidates
    if method in ("tilt", "matched"):
        if options.limits:
            return _once_counted(candidates, draw_limited(offered, target, options.limits, seed=seed), options.repeats)
        return _once_counted(candidates, draw_tilt(offered, target, seed=seed), options.repeats)
    if not isinstance(candidates, Candidates):
        raise SelectionError(
            f"{method} compares all {candidates.count} chunks in memory, and selection.memory_gib does not hold them; "
            'raise it or set selection.method = "tilt"'
        )
    every = repeated_in_memory(candidates, options.repeats)
    if method == "greedy_dos":
        if options.limits:
            raise SelectionError("greedy_dos picks chunk by chunk and keeps no limits of corpora; take the tilt")
        index = greedy_dos(every, target, seed, objective=options.objective, w_mu=options.w_mu, w_sigma=options.w_sigma)
    else:
        index = _RIVALS[method](candidates, target, seed, options.limits, options.repeats)
    if index.size == 0:
        raise SelectionError(
            f"{name} with a budget of {target.tokens} tokens takes no chunk: its first choice is longer than that; "
            f"give at least {candidates.longest} tokens"
        )
    return _once_counted(candidates, describe(every, every.members(index), target, status=method), options.repeats)


def select_documents(name: str, documents: Documents, target: Target, *, seed: int) -> Drawn:
    """Draw whole documents by a strategy's name; a rival takes documents by the mean perplexity of their chunks.

    Args:
        name: one of SELECTIONS but ``greedy_dos``.
        documents: M documents.
        target: token budget and moments, as for :func:`select`.
        seed: any integer.

    Raises:
        SelectionError: unknown name, or a budget that the first choice does not fit into.
    """
    if name in ("selected", "redrawn", "tilt", "matched"):
        return draw_documents(documents, target, seed=seed)
    if name not in _RIVALS:
        raise SelectionError(
            f"selection {name!r} does not draw whole documents; use selected, matched, {', '.join(_RIVALS)}"
        )
    chosen = _RIVALS[name](documents.as_candidates, target, seed)
    if chosen.size == 0:
        raise SelectionError(
            f"{name} with a budget of {target.tokens} tokens takes no document: its first choice is longer than that; "
            f"give at least {documents.as_candidates.longest} tokens"
        )
    return described(documents, chosen, target, seed, status=name)


def _once_counted(candidates: ChunkSource, drawn: Drawn, repeats: int) -> Drawn:
    """The subset at positions of the chunks themselves, with a sentence on how much of it is repetition."""
    if repeats == 1:
        return drawn
    index = drawn.index % candidates.count
    _, first, times = np.unique(index, return_index=True, return_counts=True)
    repeated = drawn.tokens - int(drawn.members.tokens[first].sum())
    sentence = (
        f"{repeated:,} of these tokens are repetitions: {np.count_nonzero(times > 1):,} of {times.size:,} chunks are "
        f"taken more than once, at most {times.max()} times. The law counts a repeated token like a new one."
    )
    message = f"{drawn.message} {sentence}" if repeated else f"{drawn.message} No chunk is taken more than once."
    return replace(drawn, members=replace(drawn.members, index=index), repeated_tokens=repeated, message=message)
