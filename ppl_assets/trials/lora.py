"""Low-rank adapters: cheap trials that screen regimes, and do not give the law of full training.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. What a low-rank change of
the weights learns from more data falls behind what all weights learn, by an amount that depends on the data.
"""

from __future__ import annotations

import importlib.util

import torch
import transformers

from ppl_assets.errors import UserError

ALPHA = 2.0
"""Adapters are scaled by this, whatever their rank: peft's lora_alpha is this many times the rank."""


class AdapterError(UserError, ValueError):
    """Adapters are asked for and cannot be had."""


def add_adapters(model: transformers.PreTrainedModel, rank: int, seed: int) -> None:
    """Put an adapter beside every linear layer of the backbone; from now on only adapters are trained.

    The model computes what it did before until the first step. Random numbers come from ``seed`` alone.

    Raises:
        AdapterError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise AdapterError(
            f"trials.lora_rank = {rank} needs peft, which is not installed: pip install peft, or set it to 0"
        )
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - an optional dependency

    config = LoraConfig(r=rank, lora_alpha=ALPHA * rank, target_modules="all-linear", lora_dropout=0.0)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
