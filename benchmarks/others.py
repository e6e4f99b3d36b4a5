"""How others compute perplexity: what the scorer is compared with, in tests for its values and in scoring.py for speed.

Every function takes the same model and the same token ids, and returns the summed negative log-likelihood of each chunk
after a prefix token, float64 [chunks], in nats. Only the procedure differs.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel


def evaluate_procedure(
    model: PreTrainedModel, chunks: Sequence[np.ndarray], prefix_id: int, batch_size: int = 16
) -> np.ndarray:
    """The procedure of the perplexity measurement of Hugging Face ``evaluate``, written out by us.

    All texts are padded to the longest of them all, batches follow the file's order, all logits exist at once, and the
    loss of padding is multiplied by 0. ``evaluate`` itself fetches its module from the hub when it runs, and returns
    exp(nll / tokens) of each text and the mean of these.
    """
    device, found = model.device, []
    ids, mask = _padded(chunks, prefix_id)
    for at in range(0, len(chunks), batch_size):
        batch, attended = ids[at : at + batch_size].to(device), mask[at : at + batch_size].to(device)
        with torch.no_grad():
            logits = model(batch, attention_mask=attended).logits
        losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")
        found.append((losses * attended[:, 1:]).sum(1).double().cpu())
    return torch.cat(found).numpy()


def sorted_padded(
    model: PreTrainedModel, chunks: Sequence[np.ndarray], prefix_id: int, batch_size: int = 16
) -> np.ndarray:
    """What a careful person writes by hand: batches of chunks sorted by length, padded on the right, full logits.

    No mask is given: causal attention never looks right, and without one the fused kernels are used.
    """
    device, found = model.device, np.zeros(len(chunks))
    order = sorted(range(len(chunks)), key=lambda i: -len(chunks[i]))
    for at in range(0, len(order), batch_size):
        items = order[at : at + batch_size]
        ids, mask = (x.to(device) for x in _padded([chunks[item] for item in items], prefix_id))
        with torch.inference_mode():
            logits = model(ids[:, :-1], use_cache=False).logits.float()
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        found[items] = (losses.view(len(items), -1) * mask[:, 1:]).sum(1).double().cpu().numpy()
    return found


def _padded(chunks: Sequence[np.ndarray], prefix_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prefix and chunk in each row, padded on the right to the longest, and which places are real; int64 [n, width]."""
    ids = torch.full((len(chunks), 1 + max(len(chunk) for chunk in chunks)), prefix_id)
    mask = torch.zeros_like(ids)
    for row, chunk in enumerate(chunks):
        ids[row, 1 : 1 + len(chunk)] = torch.from_numpy(np.asarray(chunk, dtype=np.int64))
        mask[row, : 1 + len(chunk)] = 1
    return ids, mask


def lm_eval_rolling(
    model: PreTrainedModel, tokenizer: Any, batch_size: int, softmax_dtype: str | None = "float32"
) -> Any:
    """A function from chunks to summed nll: lm-eval's ``loglikelihood_rolling`` of its hf backend.

    Texts are given by number and looked up as token ids, so that it scores exactly the chunks that we score.
    """
    from lm_eval.api.instance import Instance  # noqa: PLC0415 - a tool of tests and benchmarks only
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

    class Numbered(HFLM):
        chunks: Sequence[np.ndarray] = ()

        def tok_encode(self, string: str, *_given: Any, **_named: Any) -> list[int]:
            return [int(token) for token in self.chunks[int(string)]]

    harness = Numbered(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype=softmax_dtype)

    def nll(chunks: Sequence[np.ndarray]) -> np.ndarray:
        harness.chunks = chunks
        requests = [
            Instance(request_type="loglikelihood_rolling", doc={}, arguments=(str(number),), idx=number)
            for number in range(len(chunks))
        ]
        return -np.array(harness.loglikelihood_rolling(requests, disable_tqdm=True), dtype=np.float64)

    return nll


def vllm_prompt_logprobs(
    model: PreTrainedModel, prefix_id: int, longest: int, memory: float = 0.4
) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """A function from chunks to summed nll: vLLM's ``prompt_logprobs`` of an engine with this model's weights.

    Nothing is decoded: ids go in, and of each place the log-probability of the prompt's own token comes out. One token
    has to be generated, it is ignored. Prompts that ask for log-probabilities do not use vLLM's prefix cache.

    Args:
        model: the model; it is copied by way of a temporary folder.
        prefix_id: token before each chunk.
        longest: tokens of the longest chunk.
        memory: share of the device's memory that the engine may take, beside what is held already.

    Raises:
        ImportError: vLLM cannot be imported here.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its log goes to stdout, where the figures go
    from vllm import LLM, SamplingParams, TokensPrompt  # noqa: PLC0415 - installed on few machines

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        torch.cuda.empty_cache()  # the engine wants its share to be free
        engine = LLM(
            model=folder,
            skip_tokenizer_init=True,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=longest + 2,  # with the prefix and the generated token
            gpu_memory_utilization=memory,
        )
    wanted = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)

    def nll(chunks: Sequence[np.ndarray]) -> np.ndarray:
        prompts = [TokensPrompt(prompt_token_ids=[prefix_id, *(int(token) for token in chunk)]) for chunk in chunks]
        outputs = engine.generate(prompts, wanted, use_tqdm=False)
        return np.array([_summed(output.prompt_token_ids, output.prompt_logprobs) for output in outputs])

    return nll


def _summed(tokens: Sequence[int], places: Sequence[Any]) -> float:
    """Summed nll of all tokens but the first, which nothing predicts: vLLM gives None there, then a dict a place."""
    scored = zip(tokens[1:], list(places)[1:], strict=True)
    return -sum(place[token].logprob for token, place in scored)
