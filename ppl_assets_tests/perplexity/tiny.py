"""Tiny random models of several architectures, and chunks to score with them."""

import copy
from functools import cache

import numpy as np
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ppl_assets.perplexity.policy import ScorePolicy

VOCABULARY, CONTEXT = 97, 64
TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
WIDE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # random weights of the usual 0.02 would give every token nearly the same probability
    **TOKEN_IDS,
}


@cache
def _model(name: str) -> PreTrainedModel:
    return random_model(name, 7)


def random_model(name: str, weights: int, hidden: int = 32, layers: int = 2) -> PreTrainedModel:
    """A float32 model of this architecture whose weights are drawn with the seed ``weights``."""
    torch.manual_seed(weights)
    wide = {**WIDE, "hidden_size": hidden, "num_hidden_layers": layers}
    match name:
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**wide, tie_word_embeddings=True))
        case "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**wide))
        case "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**wide, head_dim=8))
        case "gemma2":  # caps attention and logits, and every other layer sees a window
            model = Gemma2ForCausalLM(
                Gemma2Config(
                    **wide, head_dim=8, sliding_window=8, final_logit_softcapping=5.0, attn_implementation="eager"
                )
            )
        case "mistral":  # every layer sees a window
            model = MistralForCausalLM(MistralConfig(**wide, sliding_window=8))
        case "granite":  # divides its logits
            model = GraniteForCausalLM(GraniteConfig(**wide, logits_scaling=4.0))
        case "mixtral":  # experts
            model = MixtralForCausalLM(MixtralConfig(**wide, num_local_experts=4))
        case "qwen2_moe":  # a window of which its attention is not told
            model = Qwen2MoeForCausalLM(
                Qwen2MoeConfig(
                    **wide,
                    use_sliding_window=True,
                    sliding_window=16,
                    max_window_layers=2,
                    num_experts=4,
                    moe_intermediate_size=16,
                    shared_expert_intermediate_size=16,
                )
            )
        case "phi3":  # its rotations stretch with the longest document of a pass
            model = Phi3ForCausalLM(
                Phi3Config(
                    **wide,
                    original_max_position_embeddings=32,
                    rope_parameters={
                        "rope_type": "longrope",
                        "rope_theta": 10_000.0,
                        "short_factor": [1.0] * (hidden // 8),
                        "long_factor": [4.0] * (hidden // 8),
                    },
                )
            )
        case "bloom":  # attends in a way of its own, with biases
            model = BloomForCausalLM(
                BloomConfig(
                    vocab_size=VOCABULARY,
                    hidden_size=hidden,
                    n_layer=layers,
                    n_head=4,
                    initializer_range=0.3,
                    **TOKEN_IDS,
                )
            )
        case "opt":  # takes no positions
            model = OPTForCausalLM(
                OPTConfig(
                    vocab_size=VOCABULARY,
                    hidden_size=hidden,
                    ffn_dim=48,
                    num_hidden_layers=layers,
                    num_attention_heads=4,
                    max_position_embeddings=CONTEXT,
                    init_std=0.3,
                    bos_token_id=0,
                    eos_token_id=0,
                    pad_token_id=1,
                )
            )
        case _:
            model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=VOCABULARY,
                    n_embd=hidden,
                    n_layer=layers,
                    n_head=4,
                    n_positions=CONTEXT,
                    initializer_range=0.3,
                    **TOKEN_IDS,
                )
            )
    return model.float().eval()


def tiny_model(name: str = "llama") -> PreTrainedModel:
    """A fresh float32 copy; the same weights every time."""
    return copy.deepcopy(_model(name))


@cache
def tiny_model64(name: str = "llama") -> PreTrainedModel:
    """The same weights in float64, for the oracle."""
    model = tiny_model(name)
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # grouped products of experts know no float64
    return model.double()


def policy(prefix: int | None = 0, **changes: object) -> ScorePolicy:
    """A float32 policy with a bos prefix, or none."""
    given = {
        "first_token": "unscored" if prefix is None else "bos",
        "prefix_id": prefix,
        "window_tokens": CONTEXT,
        "dtype": "float32",
        "attention": "sdpa",
        "model_id": "model",
        "tokenizer_id": "tokenizer",
    }
    return ScorePolicy(**{**given, **changes})


def chunks_of(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Random chunks without token 0, the prefix."""
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCABULARY, length).astype(np.int32) for length in lengths]
