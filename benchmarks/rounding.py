"""What narrow matrix products cost in accuracy, emulated on any machine in float32.

    python -m benchmarks.rounding WEIGHTS.gguf TEXT.jsonl.zst --json

A narrow product rounds its two factors, adds up in float32, and rounds its result. Here every linear layer of the
backbone, and the head's factors, are rounded to a grid and computed in float32, which is what tensor cores do. Not
emulated is what autocast rounds between the products: the gate's activation and its product with the other half,
queries and keys once more after their rotation, and the inside of the attention kernel. So the scorer itself is
measured too, in float16 on the CPU, which takes 40 to 100 times as long as float32 and gets few, short chunks; beside
it stands what is emulated for the same chunks. The checkpoint's weights are first rounded to bfloat16, as checkpoints
are published, so that what is measured is the computation alone.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.perplexity.models import BaseModel, load_model, resolve_base_model
from ppl_assets.perplexity.policy import ScorePolicy
from ppl_assets.perplexity.precision import narrow_products
from ppl_assets.perplexity.scorer import Scorer

BF16, FP16, TF32 = "bfloat16", "float16", "tf32"

AS_THE_SCORER = "float16 products, float32 states"
"""The kind that emulates the scorer's default on CUDA."""


@dataclass(frozen=True)
class Kind:
    """Grids of a computation; "" does not round.

    Attributes:
        factors: of both factors of a product.
        results: of a product's result.
        states: of norms, embeddings and of what a layer hands on.
    """

    factors: str
    results: str = ""
    states: str = ""


KINDS = {
    "bfloat16 everywhere": Kind(BF16, BF16, BF16),
    "bfloat16 products, float32 states": Kind(BF16, BF16),
    "float16 everywhere": Kind(FP16, FP16, FP16),
    "float16 products, float32 states": Kind(FP16, FP16),
    "tf32 products, float32 states": Kind(TF32),
}


def rounded(values: Tensor, grid: str) -> Tensor:
    """Float32 values on a coarser grid, ties to even."""
    if grid == TF32:  # ten bits of mantissa: the last thirteen go
        bits = values.contiguous().view(torch.int32)
        return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    return values.to(getattr(torch, grid)).float() if grid else values


def hold_on_grid(model: PreTrainedModel, kind: Kind) -> Tensor:
    """Make a float32 model round as ``kind`` does; returns the head's weight, rounded."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.weight.data = rounded(module.weight.data, kind.factors)
            module.register_forward_pre_hook(lambda _m, given: (rounded(given[0], kind.factors), *given[1:]))
            module.register_forward_hook(lambda _m, _given, out: rounded(out, kind.results))
        elif isinstance(module, torch.nn.Embedding) or type(module).__name__.endswith(("RMSNorm", "DecoderLayer")):
            module.register_forward_hook(lambda _m, _given, out: rounded(out, kind.states))
    return rounded(model.get_output_embeddings().weight.data, kind.factors)


@torch.inference_mode()
def nats_per_token(model: PreTrainedModel, ids: Tensor, head: Tensor, kind: Kind, batch: int = 8) -> np.ndarray:
    """Mean loss of each row of ``ids`` [chunks, 1 + tokens], float64 [chunks]."""
    found = []
    for rows in ids.split(batch):
        hidden = rounded(model.base_model(rows[:, :-1], use_cache=False).last_hidden_state, kind.factors)
        logits = (hidden @ head.T).double().flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten(), reduction="none")
        found.append(losses.view(len(rows), -1).mean(1))
    return torch.cat(found).numpy()


def rounded_model(base: BaseModel) -> PreTrainedModel:
    """The model in float32, its weights rounded to bfloat16."""
    model = load_model(base)
    for parameter in model.parameters():
        parameter.data = rounded(parameter.data, BF16)
    return model


def scorers_nats(base: BaseModel, ids: Tensor, dtype: str) -> np.ndarray:
    """Mean loss of each row of ``ids`` [chunks, 1 + tokens] as the scorer computes it on the CPU, float64 [chunks]."""
    model, chunks = rounded_model(base), ids[:, 1:].numpy().astype(np.int32)
    if dtype != "float32":
        narrow_products(model, getattr(torch, dtype))
    policy = ScorePolicy("bos", int(ids[0, 0]), chunks.shape[1], dtype, "sdpa", base.model_id, "")
    return Scorer(model, policy, row_tokens=chunks.shape[1]).score(list(chunks)).log_ppl


def measure(weights: Path, text: Path, chunks: int, tokens: int, own_chunks: int, own_tokens: int) -> dict[str, Any]:
    """Errors of every kind against float32, in nats a token and relative to the mean and variance of perplexity.

    Rank disagreement is one less Spearman's correlation.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = resolve_base_model(str(weights), "main", None, Path(folder), None)
        tokenizer, exact = load_tokenizer(base.path), Kind("")
        texts = pl.scan_ndjson(text).select("text").collect()["text"].gather_every(97)
        encoded = (tokenizer.encode(one, add_special_tokens=False)[:tokens] for one in texts)
        rows = [[base.bos_id, *ids] for ids in encoded if len(ids) == tokens][:chunks]
        ids, found = torch.tensor(rows), {}
        for name, kind in {"float32": exact, **KINDS}.items():
            model = rounded_model(base)
            found[name] = nats_per_token(model, ids, hold_on_grid(model, kind), kind)
        few, kind = ids[:own_chunks, : 1 + own_tokens], KINDS[AS_THE_SCORER]
        model = rounded_model(base)
        emulated = nats_per_token(model, few, hold_on_grid(model, kind), kind)
        plain, own = (scorers_nats(base, few, dtype) for dtype in ("float32", FP16))
    truth = found.pop("float32")
    return {
        "model": weights.name,
        "chunks": len(rows),
        "tokens_each": tokens,
        "mean_nats": round(float(truth.mean()), 4),
        "against_float32": {name: _errors(values, truth) for name, values in found.items()},
        "float16 as the scorer computes it, on CPU": {
            "chunks": len(few),
            "tokens_each": few.shape[1] - 1,
            "scorer": _errors(own, plain),
            "emulated": _errors(emulated, plain),
        },
        "torch": torch.__version__,
    }


def _errors(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    apart, ppl, true_ppl = np.abs(found - truth), np.exp(found), np.exp(truth)
    errors = {
        "max_nats": apart.max(),
        "median_nats": np.median(apart),
        "mean_of_ppl": abs(ppl.mean() / true_ppl.mean() - 1.0),
        "variance_of_ppl": abs(ppl.var() / true_ppl.var() - 1.0),
        "rank_disagreement": 1.0 - spearmanr(ppl, true_ppl).statistic,
    }
    return {name: float(f"{value:.2g}") for name, value in errors.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path, help="a .gguf file or a model folder")
    parser.add_argument("text", type=Path, help="JSON lines with a field text")
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=192, help="tokens a chunk")
    parser.add_argument("--own-chunks", type=int, default=4, help="chunks that the scorer itself computes in float16")
    parser.add_argument("--own-tokens", type=int, default=96, help="tokens of each")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.weights, given.text, given.chunks, given.tokens, given.own_chunks, given.own_tokens)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    few = found["float16 as the scorer computes it, on CPU"]
    shown = {**found["against_float32"], **{f"few chunks, {name}": few[name] for name in ("scorer", "emulated")}}
    for name, errors in shown.items():
        print(f"{name:36}", *(f"{key} {value:.1e}" for key, value in errors.items()))


if __name__ == "__main__":
    main()
