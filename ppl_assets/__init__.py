"""Perplexity-aware data scaling for continual pre-training, as Dagster data assets.

The folders are the pipeline: ``corpus``, ``perplexity``, ``regimes``, ``trials``, ``law``, ``subset``. Importing
this package imports nothing heavy, so that the numeric core also runs on a bare GPU worker.
"""

import os

# Threads of torch's OpenMP spin while they wait for each other. Where anything else runs on the same cores, that
# starves the thread waited for: on 2 cores training then fell from 7,500 to under 150 tokens/s. Spinning only briefly
# costs at most a tenth of an idle machine's speed, and keeps 3,000 tokens/s on a busy one.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__version__ = "0.1.0"
