"""Model and optimizer of one run: one step at a time, and the whole state at any moment.

Belongs here: what a step does to the weights. Does not belong here: which chunks a step gets, and at what rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor

from ppl_assets.failures import is_out_of_memory
from ppl_assets.perplexity.errors import ModelError
from ppl_assets.perplexity.head import summed_nll
from ppl_assets.perplexity.packing import build_rows, sequence
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.trials.lora import add_adapters
from ppl_assets.trials.points import Evaluator
from ppl_assets.trials.recipe import Execution, TrialRecipe

ADAM_BETAS = (0.9, 0.95)
"""Momentum terms usual for language models; 0.95 follows the gradient's scale in short runs."""

State = dict[str, Tensor]
"""Everything that further steps depend on, on the CPU: weights in training, moments, random numbers."""


class Trainer:
    """Takes steps on a copy of the base model.

    Attributes:
        scorer: scores with the weights as they are now.
        micro_tokens: most tokens of one pass; None: whole steps.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        recipe: TrialRecipe,
        evaluate: Evaluator,
        prefix_id: int | None,
        device: str = "cpu",
        execution: Execution | None = None,
        seed: int = 0,
    ) -> None:
        """Copy the model to the device in float32, with adapters where the recipe says so, and make its optimizer.

        Raises:
            ModelError: the model cannot be scored, or cannot compute activations again.
        """
        execution = execution or Execution()
        self._accelerator = accelerator_on(device)
        self._model = copy.deepcopy(model).float().to(self._accelerator.device)
        if recipe.lora_rank:
            add_adapters(self._model, recipe.lora_rank, seed)
        self.scorer = Scorer(self._model, evaluate.policy, evaluate.row_tokens, device)
        if execution.gradient_checkpointing:
            _recompute_activations(self._model)
        self._trained = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._optimizer = self._accelerator.prepare(_adamw(list(self._trained.values()), recipe))
        self._prefix_id, self._clip, self.micro_tokens = prefix_id, recipe.max_grad_norm, execution.micro_tokens
        self._average: State = {}
        self._averaged = 0

    @property
    def model(self) -> transformers.PreTrainedModel:
        """The model with the weights as they are now."""
        return self._model

    def step(self, chunks: Sequence[np.ndarray], rate: float) -> float:
        """One optimizer step on the mean loss over all tokens of ``chunks``; NaN, and no step, where it is not finite.

        Where memory runs out the step is done again in smaller passes.

        Raises:
            ModelError: a single chunk does not fit into the device's memory.
        """
        longest = max(len(sequence(chunk, self._prefix_id)) - 1 for chunk in chunks)
        loss = self._gradients_if_they_fit(chunks)
        while loss is None:
            self._halve(longest, sum(map(len, chunks)))
            loss = self._gradients_if_they_fit(chunks)
        norm = self._accelerator.clip_grad_norm_(self._trained.values(), self._clip)
        mean, size = torch.stack([loss.double(), norm.double()]).tolist()  # the only wait for the device in a step
        if not (math.isfinite(mean) and math.isfinite(size)):
            return math.nan
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return mean

    def average(self) -> None:
        """Let the weights as they are now count in the average: 4 more bytes a parameter until it is forgotten."""
        self._averaged += 1
        with torch.no_grad():
            if self._averaged == 1:
                self._average = {name: p.detach().clone() for name, p in self._trained.items()}
            else:
                weights = [self._trained[name].detach() for name in self._average]
                torch._foreach_lerp_(list(self._average.values()), weights, 1.0 / self._averaged)

    def forget_average(self) -> None:
        """Begin another average."""
        self._average, self._averaged = {}, 0

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model has the averaged weights, where there are any; after it those in training again."""
        try:
            self._exchange()
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """Put the average where the weights are, and the weights where the average was."""
        for name, other in self._average.items():
            weight = self._trained[name]
            weight.data, self._average[name] = other, weight.data

    def gradients(self, chunks: Sequence[np.ndarray]) -> Tensor:
        """Add the gradients of the mean loss over all tokens of ``chunks``, and return that loss.

        The chunks share rows of at most ``micro_tokens`` places, in which each attends to itself alone. Every row's
        part is divided by the tokens of the whole step, so the sum is the same however the step is divided.
        """
        sequences = [sequence(chunk, self._prefix_id) for chunk in chunks]
        lengths = [len(tokens) - 1 for tokens in sequences]
        total, parts = sum(lengths), []
        self._model.train()
        for plan in self.scorer.plans(lengths, min(self.micro_tokens or total, total)):
            rows = build_rows(plan, sequences)
            targets = torch.from_numpy(rows.targets).to(self.scorer.device)  # [tokens]
            # autocast is the scorer's own, so accelerate is not asked for a second one
            hidden = self.scorer.hidden_states(rows, self.scorer.training_products)  # [tokens, hidden]
            part = summed_nll(hidden, targets, self.scorer.training_head) / total
            self._accelerator.backward(part)
            parts.append(part.detach())
        return torch.stack(parts).sum(dtype=torch.float64)

    def _gradients_if_they_fit(self, chunks: Sequence[np.ndarray]) -> Tensor | None:
        """The loss, or None, and no gradients, where memory ran out: what the attempt held is then free again."""
        try:
            return self.gradients(chunks)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._optimizer.zero_grad(set_to_none=True)
        return None

    def _halve(self, longest: int, tokens: int) -> None:
        """Lower the tokens of one pass, down to one chunk."""
        held = min(self.micro_tokens or tokens, tokens)
        if held <= longest:
            raise ModelError(
                f"training on one chunk of {longest} tokens does not fit into the memory of {self.scorer.device}; set "
                "trials.gradient_checkpointing = true, use shorter chunks, or trials.lora_rank"
            )
        self.micro_tokens = max(held // 2, longest)
        if self.device_type == "cuda":
            torch.cuda.empty_cache()

    def state(self) -> State:
        """A copy of everything that further steps depend on."""
        found: State = {f"weight.{name}": p.detach() for name, p in self._trained.items()}
        if self._averaged:
            found |= {f"average.{name}": value for name, value in self._average.items()}
            found["averaged"] = torch.tensor(self._averaged)
        for number, moments in self._optimizer.state_dict()["state"].items():
            found |= {f"moment.{number}.{name}": value for name, value in moments.items()}
        found["random.cpu"] = torch.get_rng_state()
        if self.device_type == "cuda":
            found["random.cuda"] = torch.cuda.get_rng_state(self.scorer.device)
        return {name: value.to("cpu", copy=True).contiguous() for name, value in found.items()}

    @property
    def device_type(self) -> str:
        """Type of its device, cpu or cuda."""
        return self.scorer.device.type

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Compare names and shapes of a state with those of this trainer's own.

        A parameter that never had a gradient has no moments.

        Raises:
            ValueError: it is of other weights, or of another device.
        """
        needed = {f"weight.{name}": p.shape for name, p in self._trained.items()}
        needed["random.cpu"] = torch.get_rng_state().shape
        if self.device_type == "cuda":
            needed["random.cuda"] = torch.cuda.get_rng_state(self.scorer.device).shape
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if "averaged" in state:
            needed |= {f"average.{name}": p.shape for name, p in self._trained.items()}
            needed["averaged"] = torch.Size([])
        known = dict(needed)
        for number, p in enumerate(parameters):
            moments = {"step": torch.Size([]), "exp_avg": p.shape, "exp_avg_sq": p.shape}
            known |= {f"moment.{number}.{name}": shape for name, shape in moments.items()}
        found = {name: value.shape for name, value in state.items()}
        if odd := sorted((needed.keys() - found.keys()) | {name for name in found if found[name] != known.get(name)}):
            raise ValueError(
                f"its tensors are not those of this run: {len(odd)} differ in name or shape, such as {odd[0]}"
            )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from such a copy; steps are then as they were after it was taken, to the last bit on a CPU."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(state[f"weight.{name}"])
        self.forget_average()
        if "averaged" in state:
            self._averaged = int(state["averaged"])
            self._average = {
                name: state[f"average.{name}"].to(p.device, copy=True) for name, p in self._trained.items()
            }
        moments: dict[int, State] = {}
        for key, value in state.items():
            kind, _, rest = key.partition(".")
            if kind == "moment":
                number, _, name = rest.partition(".")
                moments.setdefault(int(number), {})[name] = value.clone()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self._optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(state["random.cpu"])
        if self.device_type == "cuda":
            torch.cuda.set_rng_state(state["random.cuda"], self.scorer.device)


def accelerator_on(device: str) -> Accelerator:
    """An accelerator for one process on ``device``, without mixed precision of its own.

    Accelerate keeps its state for the whole process and refuses, or passes over, another device: that of an earlier
    run on another device is dropped.
    """
    kept = PartialState._shared_state  # noqa: SLF001 - there is no public way to ask or to begin anew
    if kept and (kept["device"].type != device or AcceleratorState._shared_state.get("_mixed_precision") != "no"):  # noqa: SLF001
        AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001
    return Accelerator(cpu=device == "cpu", mixed_precision="no")


def _adamw(parameters: Sequence[torch.nn.Parameter], recipe: TrialRecipe) -> torch.optim.AdamW:
    """AdamW with decay on matrices only; the fused kernel is 5 to 8 % of a small model's step faster."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=ADAM_BETAS, fused=True)


def _recompute_activations(model: transformers.PreTrainedModel) -> None:
    """Turn gradient checkpointing on; random numbers of dropout are the same the second time."""
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(model).__name__} cannot compute activations again; set trials.gradient_checkpointing = false and "
            "lower trials.micro_tokens"
        )
    renamed = getattr(model, "activation_checkpointing_enable", None)  # the older name leaves with transformers 6
    (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})
