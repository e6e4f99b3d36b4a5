"""How fast the scorer is, against how others do it and against the machine.

    python -m benchmarks.scoring --quick          # two cores, under four minutes
    python -m benchmarks.scoring --json           # the whole table, as JSON; about half an hour on two cores
    python -m benchmarks.scoring --device cuda --model 0.5b --json

Everything is measured in one run with one set of weights. Each rival meets ours on the same chunks, one directly after
the other; who goes first alternates from repeat to repeat, and the median ratio of their times is reported. Both have
been warmed up alike. All values are compared too: a rival whose sums differ by more than rounding explains ends the
benchmark. How it is timed is in ``timing.py``, who the rivals are in ``rivals.py``, the keys are in ``report.py``.
"""

import argparse
from typing import Any

from benchmarks.environment import note, print_figures
from benchmarks.models import DTYPES, LONGEST, SHAPES, chunk_lengths, random_scorer
from benchmarks.report import report
from benchmarks.rivals import NAMES, rivals
from benchmarks.timing import Times, take_turns, warm_up

SLOW = {"sorted_padded_small_corpus", "lm_eval_batch_1"}
"""Left out by ``--quick``; the other variant of each stays."""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole table as JSON keys."""
    dtype = DTYPES[arguments.device]
    lengths = chunk_lengths(arguments.chunks, longest=LONGEST)
    scorer = random_scorer(arguments.model, arguments.device, dtype, arguments.row_tokens, arguments.compile)
    note(f"{arguments.model} on {arguments.device}: {len(lengths)} chunks, {int(lengths.sum()):,} tokens")
    times, met = Times(), []
    for group in rivals(
        arguments.model, arguments.device, dtype, lengths, arguments.evaluate_chunks, arguments.against
    ):
        for rival in group:
            warm_up(scorer, rival)
        for repeat in range(arguments.repeats):
            for number, rival in enumerate(group):
                take_turns(scorer, rival, times, ours_first=(repeat + number) % 2 == 0)
        met += group
    return report(arguments, scorer, times, met, lengths)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer chunks, one repeat")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=SHAPES, help="shape of the random model; default 42m, --quick 27m")
    parser.add_argument("--chunks", type=int, help="chunks scored; default 96 (CUDA 1,024), --quick 24")
    parser.add_argument("--repeats", type=int, help="repeats, even for as many first turns each; default 2, --quick 1")
    parser.add_argument("--row-tokens", type=int, default=None, help="tokens of one pass; default: as the device likes")
    parser.add_argument("--asset-tokens", type=int, help="tokens of the asset's corpus; 0: do not measure it")
    parser.add_argument("--against", nargs="*", choices=NAMES, help="rivals; default all, --quick without two")
    parser.add_argument("--compile", action="store_true", help="compile the model")
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.model = arguments.model or ("27m" if quick else "42m")
    cuda = arguments.device == "cuda"
    arguments.chunks = arguments.chunks or (24 if quick else 1_024 if cuda else 96)
    arguments.repeats = arguments.repeats or (1 if quick else 2)
    arguments.evaluate_chunks = min(arguments.chunks, 8 if quick else 256 if cuda else 32)
    if arguments.against is None:
        arguments.against = [name for name in NAMES if not (quick and name in SLOW)]
    arguments.asset_model = arguments.model if cuda else "27m"
    if arguments.asset_tokens is None:  # enough for Dagster's second to be a small part
        arguments.asset_tokens = 95_000 if quick else 4_000_000 if cuda else 100_000
    return arguments


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    found = measure(arguments)
    print_figures(found, arguments.json)


if __name__ == "__main__":
    main()
