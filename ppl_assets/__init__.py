"""Perplexity-aware data scaling for continual pre-training, as Dagster data assets.

The folders are the pipeline: ``corpus``, ``perplexity``, ``regimes``, ``trials``, ``law``, ``subset``. Importing
this package imports nothing heavy, so that the numeric core also runs on a bare GPU worker.
"""

__version__ = "0.1.0"
