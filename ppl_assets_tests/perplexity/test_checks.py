"""What the checks of perplexity_scores accept, and what they do not."""

import numpy as np
import polars as pl
import pytest

from ppl_assets.perplexity.checks import TOLERANCE, judge_against_oracle, judge_completeness
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model, tiny_model64


def sample(off=0.0):
    """Scores of tiny models' chunks of 32 and 64 tokens, of which the second is ``off``, relatively."""
    chunks = chunks_of([32, 64, 64])
    scores = Scorer(tiny_model(), policy()).score(chunks)
    return pl.DataFrame(
        {
            "chunk_id": ["a", "b", "c"],
            "tokens": [chunk.tolist() for chunk in chunks],
            "nll": scores.nll * (1 + off * np.array([0, 1, 0])),
            "n_scored": scores.n_scored,
        }
    )


@pytest.mark.parametrize("off", [0.0, 1e-6, -1e-6])
def test_scores_within_the_promise_pass(off):
    verdict = judge_against_oracle(sample(off), tiny_model64(), policy())
    assert verdict.passed, verdict.sentence
    assert verdict.worst_relative == pytest.approx(abs(off), abs=2e-7)


@pytest.mark.parametrize("off", [5e-6, -5e-6, 1e-3, float("nan")])
def test_one_score_that_is_5e_6_off_fails(off):
    verdict = judge_against_oracle(sample(off), tiny_model64(), policy())
    assert not verdict.passed
    assert "float32: 1e-06 plus 2e-05 nats" in verdict.sentence


def share(dtype, nll, off, n_scored):
    return float(TOLERANCE[dtype].shares(np.array([nll + off]), np.array([nll]), np.array([n_scored]))[0])


@pytest.mark.parametrize(
    ("nll", "off", "n_scored"),
    [(48.4, 4.9e-5, 8), (4.877, 1.78e-5, 1000), (2.947, 4.5e-6, 64)],
    ids=["short", "known_by_heart", "short_and_known_by_heart"],
)
def test_rounding_that_was_seen_where_the_nll_is_small_is_accepted_with_room_to_spare(nll, off, n_scored):
    assert off / nll > 1e-6  # the relative promise alone would refuse it
    assert share("float32", nll, off, n_scored) < 0.5


@pytest.mark.parametrize("n_scored", [32, 64, 128, 1024])
@pytest.mark.parametrize("nats_a_token", [1.0, 3.0, 8.0])
def test_5e_6_off_is_refused_at_every_length_of_ordinary_text(n_scored, nats_a_token):
    nll = n_scored * nats_a_token
    assert share("float32", nll, 5e-6 * nll, n_scored) > 1
    assert share("float32", nll, 1e-6 * nll, n_scored) < 1


@pytest.mark.parametrize(
    ("nats_a_token", "n_scored"), [(3.0, 32), (3.0, 64), (2.7, 192), (1.0, 128), (3.0, 1024), (8.0, 32)]
)
def test_a_bias_of_a_thousandth_is_refused_in_float16(nats_a_token, n_scored):
    nll = n_scored * nats_a_token
    assert share("float16", nll, 1e-3 * nll, n_scored) > 1


@pytest.mark.parametrize(
    ("nats_a_token", "n_scored", "off"), [(2.7, 192, 0.00055), (2.7, 96, 0.0008), (0.5, 60, 0.0003)]
)
def test_what_float16_was_seen_to_be_off_is_accepted_with_room_to_spare(nats_a_token, n_scored, off):
    assert share("float16", nats_a_token * n_scored, off * n_scored, n_scored) < 0.6


def test_bfloat16_is_accepted_to_a_hundredth():
    assert share("bfloat16", 300.0, 2.9, 100) < 1 < share("bfloat16", 300.0, 3.1, 100)


def chunks(ids, held_out=()):
    return pl.DataFrame({"chunk_id": ids, "split": ["test" if name in held_out else "candidate" for name in ids]})


def rows(*given):
    schema = {"chunk_id": pl.String, "nll": pl.Float64, "status": pl.String}
    return pl.DataFrame(list(given), schema=schema, orient="row")


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        ([("c", 3.0, "ok")], None),
        ([("c", None, "one_token")], None),
        ([], "1 without a score"),
        ([("c", 3.0, "ok"), ("a", 1.0, "ok")], "1 scored twice"),
        ([("c", 0.0, "ok")], "1 with an impossible score"),
        ([("c", float("inf"), "ok")], "1 with an impossible score"),
    ],
)
def test_every_chunk_has_one_score_that_is_finite_and_positive(last, sentence):
    found = judge_completeness(chunks(["a", "b", "c"]), rows(("a", 1.0, "ok"), ("b", 2.0, "ok"), *last))
    assert found.passed == (sentence is None), found.sentence
    assert found.blocks == (sentence is not None)
    assert (sentence or "") in found.sentence


@pytest.mark.parametrize(
    ("lost", "chunks_in_all", "held_out", "blocks"),
    [(1, 3, [], False), (2, 150, [], True), (7, 1000, [], False), (11, 1000, [], True), (1, 1000, ["0000"], True)],
)
def test_a_few_candidates_without_a_finite_score_are_a_warning_that_names_them(lost, chunks_in_all, held_out, blocks):
    ids = [f"{number:04}" for number in range(chunks_in_all)]
    given = [
        (name, None if number < lost else 1.0, "non_finite" if number < lost else "ok")
        for number, name in enumerate(ids)
    ]
    found = judge_completeness(chunks(ids, held_out), rows(*given))
    assert (found.passed, found.blocks) == (False, blocks)
    assert f"{lost} on which the model returned no finite number ({', '.join(ids[: min(lost, 5)])}" in found.sentence
    assert "computes them again" in found.sentence
    assert ("held-out" in found.sentence) == bool(held_out)
