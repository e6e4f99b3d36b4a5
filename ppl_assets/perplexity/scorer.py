"""Perplexity of chunks under the frozen model: one pass, exact whatever the batch.

PPL(x) = exp(NLL(x) / T), NLL(x) = -sum log p(x_t | x_<t), T the number of scored tokens (Liu et al., arXiv 2512.21515,
section 3). Stored: the summed NLL and T, from which everything else follows. The value equals
:func:`ppl_assets.perplexity.oracle.oracle_nll` within 1e-6 in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import transformers
from torch import Tensor

from ppl_assets.failures import is_out_of_memory
from ppl_assets.perplexity.accepted import check_chunks
from ppl_assets.perplexity.ahead import ahead
from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.head import Head, backbone_states, read_head, token_nll
from ppl_assets.perplexity.packing import RowPlan, TokenRows, build_rows, fixed_width, plan_rows, sequence
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.precision import computing_in, float32_sums, inner_matrices
from ppl_assets.perplexity.probe import find_packing
from ppl_assets.perplexity.scored import StageSeconds
from ppl_assets.perplexity.scores import Scores, scores_of
from ppl_assets.perplexity.speed import DeviceClock

ROW_TOKENS = {"cpu": 2048, "cuda": 16_384}
"""Places of one pass where the study does not say: what a CPU's cache likes, and what fills a GPU."""

Progress = Callable[[int, int], None]
"""Called with tokens done and tokens in all."""


@dataclass(frozen=True)
class _Pass:
    """A forward pass that the device may still be working on.

    Attributes:
        items: the chunks in it.
        sums: float64 [4, chunks]: nll of the two halves, square sum, highest; on the host once the last moment is past.
        moments: before the backbone, between backbone and head, after the head.
    """

    items: list[int]
    sums: Tensor
    moments: tuple[float | torch.cuda.Event, ...]


class Scorer:
    """Scores chunks with one model under one policy.

    Chunks share rows in which each attends to itself alone, so no chunk sees another, and a score does not depend on
    what else is in the batch beyond rounding. A model that cannot keep them apart gets batches of equal length.

    Attributes:
        longest: places of the longest chunk that can come.
        compiled: whether the backbone is compiled.
        seconds: where the time went, of all calls so far.
        slots: places computed so far, padding included.
        tokens: places of them that hold a token.
        overflowed: chunks so far that were not finite in 16 bits; they were scored again in float32.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        policy: ScorePolicy,
        row_tokens: int | None = None,
        device: str = "cpu",
        compiled: bool = False,
        fixed_rows: bool | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Move the model to ``device`` and check head, dtype and packing by trying them.

        Args:
            model: the base model; its attention is replaced by one that goes document by document.
            policy: the policy.
            row_tokens: places of one pass; None: :data:`ROW_TOKENS`. Halved where memory runs out.
            device: cpu or cuda.
            compiled: compile the backbone; the first pass then takes about a minute.
            fixed_rows: pad rows to a few fixed widths; None: on CUDA and where compiled.
            say: told, in one sentence, what turned out otherwise than asked.

        Raises:
            ModelError: the model's dtype is not the policy's, or its head is not understood.
        """
        held, wanted = model.dtype, getattr(torch, policy.dtype)
        for dtype in {held, *(matrix.dtype for matrix in inner_matrices(model))}:
            if dtype not in {wanted, torch.float32, torch.float64}:
                raise ModelError(
                    f"the model holds {dtype} weights and the policy says {policy.dtype}; load it as {policy.dtype}"
                )
        self.model = model.to(device)
        self.policy, self.device, self._say = policy, torch.device(device), say
        self._products = wanted if wanted != held and wanted.itemsize == 2 else None  # float32 states, narrow products
        with float32_sums(), self._autocast(self.training_products):  # the range of bfloat16: a check must not overflow
            self.head = read_head(model, self._products or held)
        config = model.config.get_text_config()
        self.context_length = int(getattr(config, "max_position_embeddings", None) or policy.window_tokens)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        full = policy.window_tokens - (policy.prefix_id is None)  # places of a full chunk
        self.longest = max(1, min(full, self.context_length))
        with float32_sums():
            self._packing = packing = find_packing(model, self.longest, self.training_products)
        self.packs = packing.kept
        if not self.packs:
            plain = ", and is not compiled" if compiled else ""
            say(
                f"packed documents would not have the scores they have alone ({packing.why}): the model gets equal "
                f"lengths{plain}"
            )
        elif packing.why:
            say(f"documents are attended by length, the variable-length kernel fails ({packing.why})")
        self.compiled = compiled and self.packs
        self._backbone = torch.compile(model.base_model, dynamic=False) if self.compiled else model.base_model
        fixed = self.device.type == "cuda" or self.compiled if fixed_rows is None else fixed_rows
        self._fixed = self.packs and fixed
        # full chunks fill a row without a rest
        self.row_tokens = max(1, (row_tokens or ROW_TOKENS[self.device.type]) // self.longest) * self.longest
        self.seconds, self.slots, self.tokens, self.overflowed = StageSeconds(), 0, 0, 0
        self._clock = DeviceClock(self.device)

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
        check_chunks(chunks, self.policy, self.context_length, self.vocabulary)
        sequences = [sequence(chunk, self.policy.prefix_id) for chunk in chunks]
        lengths = np.array(
            [max(0, len(tokens) - 1) if len(chunk) else 0 for tokens, chunk in zip(sequences, chunks, strict=True)],
            dtype=np.int64,
        )
        sums = np.full((4, len(chunks)), np.nan)
        was_training = self.model.training
        self.model.eval()
        try:
            with float32_sums():
                self._fill(sums, sequences, lengths, np.flatnonzero(lengths), progress)
                if getattr(torch, self.policy.dtype).itemsize < 4:
                    self._fill_overflowed(sums, sequences, lengths)
        finally:
            self.model.train(was_training)
        return scores_of(sums, lengths, [len(chunk) for chunk in chunks])

    def _fill(
        self,
        sums: np.ndarray,
        sequences: Sequence[np.ndarray],
        lengths: np.ndarray,
        waiting: np.ndarray,
        progress: Progress | None = None,
    ) -> None:
        """Write the sums of the items ``waiting``; where memory runs out, in smaller passes."""
        total, done = int(lengths[waiting].sum()), 0
        while len(waiting):
            scored: list[int] = []
            try:
                for items, found in self._passes(sequences, lengths, waiting):
                    sums[:, items] = found
                    scored += items
                    done += int(lengths[items].sum())
                    if progress:
                        progress(done, total)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve_rows(int(lengths.max()), error)
            waiting = np.setdiff1d(waiting, scored)

    def _fill_overflowed(self, sums: np.ndarray, sequences: Sequence[np.ndarray], lengths: np.ndarray) -> None:
        """Compute in float32 what came out not finite: the greatest number of float16 is 65,504."""
        lost = np.flatnonzero((lengths > 0) & ~np.isfinite(sums).all(0))
        if not len(lost):
            return
        self.overflowed += len(lost)
        self._say(
            f"{len(lost)} of {len(lengths)} chunks overflow {self.policy.dtype} and are scored in float32; where most "
            'do, [score] dtype = "float32" spares the first try'
        )
        held = self._products, self.head, self.compiled, self._backbone
        self._products, self.head = None, replace(self.head, dtype=torch.float32)
        self.compiled, self._backbone = False, self.model.base_model
        try:
            with computing_in(self.model, torch.float32):
                self._fill(sums, sequences, lengths, lost)
        finally:
            self._products, self.head, self.compiled, self._backbone = held

    def plans(self, lengths: Sequence[int] | np.ndarray, row_tokens: int) -> list[RowPlan]:
        """Passes of at most ``row_tokens`` places that this model keeps apart; training uses them too."""
        return plan_rows([int(n) for n in lengths], row_tokens, self.packs)

    def _passes(
        self, sequences: Sequence[np.ndarray], lengths: np.ndarray, waiting: np.ndarray
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Items and sums of each pass. Rows are built while the device works, and sums fetched one pass behind."""
        held = [sequences[i] for i in waiting]
        plans = self.plans(lengths[waiting], self.row_tokens)
        began = time.perf_counter()
        running: _Pass | None = None
        for plan, rows in ahead((plan, self._built(plan, held)) for plan in plans):
            self.seconds.packing += time.perf_counter() - began
            behind, running = running, self._launch([int(waiting[i]) for i in plan.items], rows)
            if behind is not None:
                yield self._collect(behind)
            began = time.perf_counter()
        if running is not None:
            yield self._collect(running)

    def _built(self, plan: RowPlan, sequences: Sequence[np.ndarray]) -> TokenRows:
        """The arrays of a pass, in a fixed width where rows have one."""
        if not self._fixed:
            return build_rows(plan, sequences)
        filled = sum(len(sequences[item]) - 1 for item in plan.items)
        whole = -(-filled // self.row_tokens) * self.row_tokens
        width = whole if self.compiled else fixed_width(filled, self.row_tokens)
        return build_rows(plan, sequences, width, self.longest)

    @torch.inference_mode()
    def _launch(self, items: list[int], rows: TokenRows) -> _Pass:
        """Queue one forward pass."""
        began = self._clock.now()
        hidden = self.hidden_states(rows)[: len(rows.targets)]
        between = self._clock.now()
        values = token_nll(hidden, self._moved(rows.targets), self.head)
        sums = self._fetched(_sums(values.double(), self._moved(np.array(rows.lengths))))
        self.slots, self.tokens = self.slots + rows.inputs.size, self.tokens + len(rows.targets)
        return _Pass(items, sums, (began, between, self._clock.now()))

    @property
    def training_products(self) -> torch.dtype | None:
        """What a training step multiplies in: bfloat16 where scores are narrow; gradients underflow float16."""
        return torch.bfloat16 if self._products is not None else None

    @property
    def training_head(self) -> Head:
        """The head as a training step computes it."""
        return replace(self.head, dtype=self.training_products or self.head.dtype)

    def _autocast(self, products: torch.dtype | None) -> torch.autocast:
        """Matrix products in ``products``, sums and states wider; None: all in the weights' dtype."""
        return torch.autocast(self.device.type, products, enabled=products is not None)

    def hidden_states(self, rows: TokenRows, products: torch.dtype | None = None) -> Tensor:
        """Hidden states of a pass, [rows * width, hidden]; with gradients where they are enabled.

        Args:
            rows: the pass.
            products: dtype of the matrix products; None: that of scoring.
        """
        positions = None if rows.positions is None else self._moved(rows.positions)
        starts = None if rows.starts is None else self._moved(rows.starts)
        given = (self._moved(rows.inputs), positions, starts, rows.longest)
        self._packing.set_attention(self.model)  # another scorer of the same model may have set its own
        with self._autocast(products or self._products):
            if self.compiled:
                try:
                    torch._dynamo.mark_dynamic(starts, 0)  # noqa: SLF001 - the documented way to say it
                    return backbone_states(self._backbone, *given)
                except RuntimeError as error:  # no compiler, no Triton, an operation that cannot be traced
                    if is_out_of_memory(error):
                        raise
                    self.compiled, self._backbone = False, self.model.base_model
                    self._say(f"the model is not compiled, it runs as it is ({str(error).strip().splitlines()[0]})")
            return backbone_states(self._backbone, *given)

    def _moved(self, array: np.ndarray) -> Tensor:
        """The array on the device; on CUDA the copy does not wait."""
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _fetched(self, sums: Tensor) -> Tensor:
        """The sums' copy on the host; on CUDA it is queued, behind this pass and before the next."""
        if self.device.type != "cuda":
            return sums
        return torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True).copy_(sums, non_blocking=True)

    def _collect(self, done: _Pass) -> tuple[list[int], np.ndarray]:
        """Wait for a pass, not for the one behind it."""
        began, between, ended = done.moments
        self._clock.wait(ended)
        sums = done.sums.numpy()
        self.seconds.backbone += self._clock.between(began, between)
        self.seconds.head += self._clock.between(between, ended)
        return done.items, sums

    def _halve_rows(self, longest: int, error: RuntimeError) -> None:
        """Lower the row budget after memory ran out, down to one chunk a pass."""
        if self.row_tokens <= longest:
            raise ModelError(
                f"one chunk of {longest} tokens does not fit into the memory of {self.device}; use shorter chunks"
            ) from error
        self.row_tokens = max(self.row_tokens // 2, longest)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums of the token losses of each chunk, float64 [4, chunks]: first half, second half, squares, highest.

    Args:
        values: float64 [sum of lengths], chunk after chunk.
        lengths: int64 [chunks], tokens of each, at least 1.
    """
    halves = torch.stack([lengths // 2, lengths - lengths // 2], 1).reshape(-1)
    # unsafe: nobody waits for the device to have the lengths checked
    split = torch.segment_reduce(values, "sum", lengths=halves, initial=0.0, unsafe=True).reshape(-1, 2).T
    squares = torch.segment_reduce(values * values, "sum", lengths=lengths, unsafe=True)
    highest = torch.segment_reduce(values, "max", lengths=lengths, unsafe=True)
    return torch.cat([split, squares[None], highest[None]])
