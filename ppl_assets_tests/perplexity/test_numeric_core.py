"""The numeric core runs where only torch, transformers, numpy and scipy are."""

import subprocess
import sys

BLOCKED = ["dagster", "polars", "duckdb", "pydantic", "pydantic_settings", "pyarrow", "rensa"]
CORE = [
    "ppl_assets.perplexity.packing",
    "ppl_assets.perplexity.head",
    "ppl_assets.perplexity.scorer",
    "ppl_assets.perplexity.oracle",
    "ppl_assets.perplexity.landscape",
    "ppl_assets.trials.runner",
    "benchmarks.trials",
]


def test_the_numeric_core_imports_without_the_platform():
    program = f"""
import importlib, sys
for name in {BLOCKED}:
    sys.modules[name] = None  # an import of it raises
for name in {CORE}:
    importlib.import_module(name)
from transformers import LlamaConfig, LlamaForCausalLM
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported", done.stderr
