"""Perplexity of chunks under the frozen model: one pass, exact whatever the batch.

PPL(x) = exp(NLL(x) / T), NLL(x) = -sum log p(x_t | x_<t), T the number of scored tokens (Liu et al., arXiv 2512.21515,
section 3). Stored: the summed NLL and T, from which everything else follows. The value equals
:func:`ppl_assets.perplexity.oracle.oracle_nll` within 1e-6 in float32.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from ppl_assets.errors import UserError
from ppl_assets.perplexity.head import ModelError, backbone_states, keeps_packed_apart, read_head, token_nll
from ppl_assets.perplexity.packing import NO_TARGET, RowPlan, TokenRows, build_rows, plan_rows, sequence

SCORER_VERSION = "1"
"""Raise it when a change here changes a score; every chunk is then rescored."""

Progress = Callable[[int, int], None]
"""Called with tokens done and tokens in all."""


class ScoringError(UserError, ValueError):
    """A chunk cannot be scored under the policy; nothing was scored."""


@dataclass(frozen=True)
class ScorePolicy:
    """Everything that decides a score besides the chunk.

    Attributes:
        first_token: what predicts a chunk's first token: a bos or eos prefix, or nothing (it is then not scored).
        prefix_id: token id of the prefix; None where ``first_token`` is unscored.
        window_tokens: longest chunk, one window each.
        dtype: weights and activations, float32 or bfloat16; softmax and sums are wider.
        attention: attention implementation.
        model_id: fingerprint of the base model.
        tokenizer_id: fingerprint of the tokenizer.
        code_version: version of this code.
    """

    first_token: Literal["bos", "eos", "unscored"]
    prefix_id: int | None
    window_tokens: int
    dtype: str
    attention: str
    model_id: str
    tokenizer_id: str
    code_version: str = SCORER_VERSION

    @property
    def scorer_id(self) -> str:
        """Fingerprint of all fields, 32 hexadecimal digits."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Scores:
    """Scores of chunks, in the order they were given; floats are NaN where ``status`` is not ok.

    Attributes:
        nll: float64 [n], summed -ln p over the scored tokens, nats.
        nll_square_sum: float64 [n], summed (ln p)^2.
        n_scored: int64 [n], tokens whose probability was taken.
        max_token_nll: float64 [n], highest -ln p of a token.
        nll_first_half: float64 [n], nll of the first ``n_scored // 2`` tokens.
        nll_second_half: float64 [n], nll of the rest.
        status: ok, empty, one_token or non_finite.
    """

    nll: np.ndarray
    nll_square_sum: np.ndarray
    n_scored: np.ndarray
    max_token_nll: np.ndarray
    nll_first_half: np.ndarray
    nll_second_half: np.ndarray
    status: list[str]

    @property
    def log_ppl(self) -> np.ndarray:
        """Mean of -ln p: nll / n_scored, nats a token; NaN where there is no score."""
        return self.nll / np.maximum(self.n_scored, 1)

    @property
    def ppl(self) -> np.ndarray:
        """exp(nll / n_scored); infinite where the exponential overflows."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_ppl)

    def mean_nll(self) -> float:
        """Summed nll over summed tokens: never a mean of chunk or batch means. NaN where a chunk is not finite."""
        scored = self.n_scored > 0
        return float(self.nll[scored].sum() / self.n_scored[scored].sum()) if scored.any() else math.nan


def bits_per_byte(nll: np.ndarray, scored_bytes: np.ndarray) -> np.ndarray:
    """Compression: nll / ln 2 / UTF-8 bytes of exactly the scored span."""
    return np.asarray(nll) / math.log(2.0) / np.asarray(scored_bytes)


def resolve_policy(
    *,
    first_token: str,
    window_tokens: int,
    dtype: str,
    attention: str,
    device: str,
    bos_id: int | None,
    eos_id: int | None,
    model_id: str,
    tokenizer_id: str,
    architecture: str = "",
) -> ScorePolicy:
    """The policy with every ``auto`` decided: bos, else eos, else unscored; bfloat16 on CUDA, else float32.

    Raises:
        ModelError: a prefix is asked for that the tokenizer does not have.
    """
    ids = {"bos": bos_id, "eos": eos_id, "unscored": None}
    if first_token == "auto":  # noqa: S105 - a policy's name
        first_token = "bos" if bos_id is not None else "eos" if eos_id is not None else "unscored"
    if first_token not in ids:
        raise ModelError(f"first_token = {first_token!r}: accepted are auto, bos, eos and unscored")
    if first_token != "unscored" and ids[first_token] is None:  # noqa: S105 - a policy's name
        raise ModelError(f"first_token = {first_token!r}, but the tokenizer has no {first_token} token; use auto")
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    if attention == "auto":  # Gemma 2 caps attention logits, which sdpa cannot
        attention = "sdpa" if getattr(getattr(transformers, architecture, None), "_supports_sdpa", True) else "eager"
    return ScorePolicy(
        first_token=cast("Literal['bos', 'eos', 'unscored']", first_token),
        prefix_id=ids[first_token],
        window_tokens=window_tokens,
        dtype=dtype,
        attention=attention,
        model_id=model_id,
        tokenizer_id=tokenizer_id,
    )


class Scorer:
    """Scores chunks with one model under one policy.

    Chunks of a frequent length are plain causal batches; odd lengths share packed rows. Either way no chunk sees
    another, and a score does not depend on what else is in the batch beyond float32 rounding.
    """

    def __init__(
        self, model: PreTrainedModel, policy: ScorePolicy, row_tokens: int = 4096, device: str = "cpu"
    ) -> None:
        """Move the model to ``device`` and check head, dtype and packing by trying them.

        Raises:
            ModelError: the model's dtype is not the policy's, or its head is not understood.
        """
        held, wanted = model.dtype, getattr(torch, policy.dtype)
        if held not in {wanted, torch.float32, torch.float64}:
            raise ModelError(
                f"the model holds {held} weights and the policy says {policy.dtype}; load it as {policy.dtype}"
            )
        self.model = model.to(device)
        self.policy, self.row_tokens = policy, row_tokens
        self.device = torch.device(device)
        self._mixed = wanted != held and wanted == torch.bfloat16  # float32 weights, bfloat16 activations
        self.head = read_head(model, wanted if self._mixed else held)
        self.packs = keeps_packed_apart(model)
        config = model.config.get_text_config()
        self.context_length = int(getattr(config, "max_position_embeddings", None) or policy.window_tokens)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])

    def score(self, chunks: Sequence[np.ndarray], progress: Progress | None = None) -> Scores:
        """Score chunks.

        Args:
            chunks: int32 [n_i] each, token ids without any prefix.
            progress: called after each pass.

        Raises:
            ScoringError: a chunk is longer than the window or context, starts with the prefix itself, or holds an id
                outside the vocabulary. Raised before anything is scored.
            ModelError: a single chunk does not fit into the device's memory.
        """
        self._check(chunks)
        sequences = [sequence(chunk, self.policy.prefix_id) for chunk in chunks]
        lengths = np.array(
            [max(0, len(tokens) - 1) if len(chunk) else 0 for tokens, chunk in zip(sequences, chunks, strict=True)]
        )
        sums = np.full((5, len(chunks)), np.nan)
        waiting = np.flatnonzero(lengths)
        total, done = int(lengths.sum()), 0
        was_training = self.model.training
        self.model.eval()
        while len(waiting):
            scored: list[int] = []
            try:
                held = [sequences[i] for i in waiting]
                for plan in self.plans(lengths[waiting], self.row_tokens):
                    rows = build_rows(plan, held)
                    items = [int(waiting[i]) for row in plan.rows for i in row]
                    sums[:, items] = _summaries(self._token_nll(rows), lengths[items], plan.packed)
                    scored += items
                    done += int(lengths[items].sum())
                    if progress:
                        progress(done, total)
            except torch.OutOfMemoryError as error:
                self._halve_rows(int(lengths.max()), error)
            waiting = np.setdiff1d(waiting, scored)
        self.model.train(was_training)
        return _scores(sums, lengths, [len(chunk) for chunk in chunks])

    def score_batches(
        self, batches: Iterable[Sequence[np.ndarray]], progress: Callable[[int], None] | None = None
    ) -> Iterator[Scores]:
        """Scores of each batch as it comes; ``progress`` gets the tokens scored so far. Memory follows the batch."""
        done = 0
        for chunks in batches:
            scores = self.score(chunks)
            done += int(scores.n_scored.sum())
            if progress:
                progress(done)
            yield scores

    def plans(self, lengths: Sequence[int] | np.ndarray, row_tokens: int) -> list[RowPlan]:
        """Passes of about ``row_tokens`` places that this model keeps apart; training uses them too."""
        one_row = self.policy.attention.startswith("flash")  # variable-length kernels read positions of one row only
        return plan_rows([int(n) for n in lengths], row_tokens, self.packs, one_row)

    @torch.inference_mode()
    def _token_nll(self, rows: TokenRows) -> np.ndarray:
        """-ln p of every target of a pass, float64 [targets], row by row."""
        inputs = torch.from_numpy(rows.inputs).to(self.device)
        targets = torch.from_numpy(rows.targets).to(self.device).reshape(-1)
        positions = None if rows.positions is None else torch.from_numpy(rows.positions).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed):
            hidden = backbone_states(self.model, inputs, positions)
        if positions is not None:
            places = torch.nonzero(targets != NO_TARGET)[:, 0]
            hidden, targets = hidden[places], targets[places]
        return token_nll(hidden, targets, self.head).double().cpu().numpy()

    def _check(self, chunks: Sequence[np.ndarray]) -> None:
        prefix = self.policy.prefix_id
        for number, chunk in enumerate(chunks):
            fed = len(chunk) if prefix is not None else len(chunk) - 1  # the last token is predicted, not fed
            if len(chunk) > self.policy.window_tokens or fed > self.context_length:
                raise ScoringError(
                    f"chunk {number} has {len(chunk)} tokens; the window is {self.policy.window_tokens} and the "
                    f"model's context {self.context_length}, prefix included: cut shorter chunks"
                )
            if len(chunk) and prefix is not None and int(chunk[0]) == prefix:
                raise ScoringError(
                    f"chunk {number} starts with token {prefix}, the {self.policy.first_token} prefix that the scorer "
                    "adds itself; encode text with add_special_tokens=False"
                )
            if len(chunk) and (int(np.min(chunk)) < 0 or int(np.max(chunk)) >= self.vocabulary):
                raise ScoringError(
                    f"chunk {number} holds ids outside 0 to {self.vocabulary - 1}; use the model's tokenizer"
                )

    def _halve_rows(self, longest: int, error: torch.OutOfMemoryError) -> None:
        """Lower the row budget after memory ran out, down to one chunk a pass."""
        if self.row_tokens <= longest:
            raise ModelError(
                f"one chunk of {longest} tokens does not fit into the memory of {self.device}; use shorter chunks"
            ) from error
        self.row_tokens = max(self.row_tokens // 2, longest)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _summaries(values: np.ndarray, lengths: np.ndarray, packed: bool) -> np.ndarray:
    """Sum, sum of squares, maximum, first and second half of each chunk's token losses, float64 [5, chunks].

    ``values`` is float64 [sum of lengths], chunk after chunk; lengths are all equal where not packed.
    """
    if packed:
        parts = np.split(values, np.cumsum(lengths)[:-1])
        return np.concatenate([_summaries(part, np.array([len(part)]), False) for part in parts], axis=1)
    table, half = values.reshape(len(lengths), -1), int(lengths[0]) // 2
    first, second = table[:, :half].sum(1), table[:, half:].sum(1)
    return np.stack([table.sum(1), (table * table).sum(1), table.max(1), first, second])


def _scores(sums: np.ndarray, lengths: np.ndarray, n_tokens: Sequence[int]) -> Scores:
    """Scores with the reason beside every one that is missing."""
    status = []
    for number, (length, tokens) in enumerate(zip(lengths, n_tokens, strict=True)):
        finite = bool(np.isfinite(sums[:, number]).all())
        status.append("empty" if tokens == 0 else "one_token" if length == 0 else "ok" if finite else "non_finite")
        if not finite:
            sums[:, number] = np.nan
    nll, squares, highest, first, second = sums
    return Scores(nll, squares, lengths.astype(np.int64), highest, first, second, status)
