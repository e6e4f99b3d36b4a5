"""What narrow matrix products cost in accuracy, emulated on any machine in float32.

    python -m benchmarks.rounding WEIGHTS.gguf TEXT.jsonl.zst --json

A narrow product rounds its two factors, adds up in float32, and rounds its result. Here every linear layer of the
backbone, and the head's factors, are rounded to a grid and computed in float32, which is what tensor cores do. Not
emulated: the rounding inside the fused attention kernel. The checkpoint's weights are first rounded to bfloat16, as
checkpoints are published, so that what is measured is the computation alone.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from ppl_assets.corpus.tokenizer import load_tokenizer
from ppl_assets.perplexity.models import load_model, resolve_base_model

BF16, FP16, TF32 = "bfloat16", "float16", "tf32"


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


def measure(weights: Path, text: Path, chunks: int, tokens: int) -> dict[str, object]:
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
            model = load_model(base)
            for parameter in model.parameters():
                parameter.data = rounded(parameter.data, BF16)
            found[name] = nats_per_token(model, ids, hold_on_grid(model, kind), kind)
    truth = found.pop("float32")
    return {
        "model": weights.name,
        "chunks": len(rows),
        "tokens_each": tokens,
        "mean_nats": round(float(truth.mean()), 4),
        "against_float32": {name: _errors(values, truth) for name, values in found.items()},
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
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.weights, given.text, given.chunks, given.tokens)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, errors in found["against_float32"].items():  # type: ignore[attr-defined]
        print(f"{name:36}", *(f"{key} {value:.1e}" for key, value in errors.items()))


if __name__ == "__main__":
    main()
