"""One small run, and how to kill it: the real loop on a real model in a second."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np

from ppl_assets.trials.checkpoints import Checkpoint
from ppl_assets.trials.points import Evaluator
from ppl_assets.trials.recipe import TrialRecipe
from ppl_assets.trials.runner import run_trial
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model

RECIPE = TrialRecipe(
    learning_rate=3e-3, warmup_share=0.1, warmup_steps=0, batch_tokens=64, tokens=1024, span=8.0, points=4
)
"""Sixteen steps, measured after 2, 4, 8 and 16."""

HELD_OUT = Evaluator(chunks_of([16, 16, 30], seed=8), chunks_of([16], seed=9), policy(), row_tokens=64)
CHUNKS = chunks_of([16] * 64)
FINGERPRINT = "f" * 32


def run(chunks=CHUNKS, recipe=RECIPE, seed=0, model=None, evaluate=HELD_OUT, **given):
    ppl = np.arange(1.0, len(chunks) + 1)
    return run_trial(model or tiny_model(), chunks, ppl, recipe, seed, evaluate, prefix_id=0, **given)


def losses(points, branch="trunk"):
    return [(point.tokens, point.test_loss, point.general_loss) for point in points if point.branch == branch]


def resumable(folder, name="gpt2", said=None, **given):
    """The run with a checkpoint in ``folder``; gpt2 has dropout, so random numbers matter."""
    checkpoint = Checkpoint(folder / "run.safetensors", FINGERPRINT, said.append if said is not None else print)
    return run(model=tiny_model(name), checkpoint=checkpoint, **given)


def die(*_given, **_named):
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls, function):
    """``function``, which kills the process at the call after so many."""
    counted = iter(range(calls))

    def counted_down(*given, **named):
        if next(counted, None) is None:
            die()
        return function(*given, **named)

    return counted_down


def killed_in_the_middle(folder, moment, call):
    """Start the run in a process of its own that ``moment``, a piece of Python, kills."""
    program = f"""
import dataclasses
from pathlib import Path
from ppl_assets.trials import checkpoints, runner, trainer
from ppl_assets_tests.trials.small import RECIPE, after, die, resumable

{textwrap.dedent(moment)}
{call.format(folder=repr(str(folder)))}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
