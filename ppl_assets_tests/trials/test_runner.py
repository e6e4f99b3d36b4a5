"""One trial run: exact token counts, honest losses, the same every time, and the caller's model left alone."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppl_assets.perplexity.head import backbone_states, read_head, summed_nll
from ppl_assets.perplexity.scorer import Scorer
from ppl_assets.trials.points import Evaluator
from ppl_assets.trials.recipe import LAW_POINTS, TrialRecipe, measured_token_counts, setting_id, trial_fingerprint
from ppl_assets.trials.runner import run_trial
from ppl_assets.trials.trainer import Trainer
from ppl_assets_tests.perplexity.tiny import chunks_of, policy, tiny_model
from ppl_assets_tests.trials.small import HELD_OUT, RECIPE, losses, run


def test_two_runs_give_the_same_losses_to_the_last_bit():
    chunks = chunks_of([16] * 64)
    assert losses(run(chunks)) == losses(run(chunks))


def test_the_order_of_chunks_matters_and_the_seed_only_where_there_is_dropout():
    chunks = chunks_of([16] * 64)
    assert losses(run(chunks)) != losses(run(chunks[::-1]))
    assert losses(run(chunks)) == losses(run(chunks, seed=5))
    dropped = tiny_model("gpt2")  # its configuration has dropout 0.1
    assert losses(run(chunks, model=dropped)) == losses(run(chunks, model=dropped))
    assert losses(run(chunks, model=dropped)) != losses(run(chunks, model=dropped, seed=5))


def test_point_0_is_the_base_models_own_loss_and_the_model_is_left_alone():
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    base = Scorer(tiny_model(), policy()).score(HELD_OUT.test_chunks).mean_nll()
    points = run(chunks_of([16] * 64), model=model)
    assert (points[0].tokens, points[0].mu, points[0].sigma) == (0, None, None)
    assert points[0].test_loss == pytest.approx(base, rel=1e-6)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_losses_are_measured_at_the_planned_token_counts():
    points = run(chunks_of([16] * 100))
    assert [point.tokens for point in points] == [0, *measured_token_counts(RECIPE)] == [0, 128, 256, 512, 1024]
    assert [point.point for point in points] == list(range(5))


def test_mu_and_sigma_are_of_the_chunks_seen_so_far():
    for point in run(chunks_of([16] * 64))[1:]:
        seen = np.arange(1.0, point.tokens / 16 + 1)
        assert (point.mu, point.sigma) == pytest.approx((seen.mean(), seen.std()))
        assert (point.log_mu, point.log_sigma) == pytest.approx((np.log(seen).mean(), np.log(seen).std()))


def test_a_last_step_that_is_not_full_is_counted_exactly():
    recipe = dataclasses.replace(RECIPE, tokens=1000)
    points = run(chunks_of([10] * 120), recipe)
    assert points[-1].tokens == 1000
    assert [point.tokens for point in points[1:-1]] == [70, 200, 390]  # the chunk that reaches step 1, 3, 6


def without_dropout(model):
    model.eval()
    model.train = lambda _mode=True: model  # gpt2 and opt have some in their configuration


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_mixed_lengths_train_as_if_each_chunk_were_alone(name):
    chunks, model = chunks_of([5, 9, 9, 21, 3, 40, 17]), tiny_model(name)
    model.eval()
    trainer = Trainer(model, RECIPE, HELD_OUT, prefix_id=0)
    without_dropout(trainer._model)
    loss = float(trainer.gradients(chunks))
    ours = {key: parameter.grad for key, parameter in trainer._model.named_parameters()}
    total = sum(len(chunk) for chunk in chunks)
    alone = 0.0
    for chunk in chunks:
        tokens = torch.tensor([[0, *chunk.tolist()]])
        logits = model(input_ids=tokens[:, :-1]).logits[0]
        part = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum") / total
        part.backward()
        alone += float(part.detach())
    assert loss == pytest.approx(alone, rel=1e-5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "granite"])
def test_the_heads_gradients_are_those_of_plain_cross_entropy(name):
    model = tiny_model(name)
    ids, targets = torch.tensor([chunks_of([30])[0].tolist()]), torch.from_numpy(chunks_of([30], 1)[0]).long()
    loss = summed_nll(backbone_states(model.base_model, ids), targets, read_head(model)) / 30
    loss.backward()
    ours = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    plain = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[0], targets)
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(ours[key], parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_the_backbone_those_that_it_has_beside_a_trained_one():
    def gradients(frozen):
        model = tiny_model("qwen2")
        model.lm_head.weight.requires_grad_(not frozen)
        hidden = backbone_states(model.base_model, torch.tensor([chunks_of([30])[0].tolist()]))
        summed_nll(hidden, torch.from_numpy(chunks_of([30], 1)[0]).long(), read_head(model)).backward()
        return {key: parameter.grad for key, parameter in model.named_parameters()}

    trained, frozen = gradients(False), gradients(True)
    assert trained.pop("lm_head.weight") is not None
    assert frozen.pop("lm_head.weight") is None
    assert all(torch.equal(trained[key], frozen[key]) for key in trained)


def test_the_loss_goes_down_on_repeated_text():
    chunk = chunks_of([16], seed=4)[0]
    evaluate = Evaluator([chunk], [], policy())
    points = run([chunk] * 64, evaluate=evaluate)
    assert points[-1].test_loss < 0.5 * points[0].test_loss
    assert points[-1].general_loss is None


def test_warm_up_points_are_flagged_and_point_0_is_not():
    points = run(chunks_of([16] * 64), dataclasses.replace(RECIPE, warmup_share=0.4))
    assert [point.is_warmup for point in points] == [False, True, True, False, False]


def test_the_rate_rises_linearly_and_then_stays(monkeypatch):
    rates = []
    inner = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, chunks, rate: rates.append(rate) or inner(self, chunks, rate))
    run(chunks_of([16] * 64), dataclasses.replace(RECIPE, warmup_share=0.25))
    assert rates[:5] == pytest.approx([RECIPE.learning_rate * share for share in (0.25, 0.5, 0.75, 1.0, 1.0)])
    assert set(rates[3:]) == {RECIPE.learning_rate}


def test_a_run_that_diverges_says_so_and_invents_no_loss():
    model = tiny_model()
    points = run(chunks_of([16] * 64), dataclasses.replace(RECIPE, learning_rate=1e30), model=model)
    assert points[-1].status == "diverged"
    assert math.isnan(points[-1].test_loss)
    assert points[-1].tokens < RECIPE.tokens
    assert all(point.status == "ok" for point in points[:-1])


def test_a_loss_that_is_finite_and_far_beyond_a_guess_counts_as_diverged_and_ends_the_run():
    points = run(chunks_of([16] * 64), dataclasses.replace(RECIPE, learning_rate=1.0, warmup_share=0.0))
    assert points[-1].status == "diverged"
    assert 2.0 * points[0].test_loss < points[-1].test_loss < math.inf
    assert points[-1].tokens < RECIPE.tokens


def test_progress_counts_every_token_once_and_speed_is_recorded():
    steps = []
    points = run(chunks_of([16] * 64), progress=lambda *step: steps.append(step))
    assert [step[0] for step in steps] == list(range(64, 1025, 64))
    assert all(step[1] == 1024 for step in steps)
    assert points[-1].tokens_per_second == pytest.approx(points[-1].tokens / points[-1].seconds)
    assert (points[0].seconds, points[0].tokens_per_second) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [([16] * 10, "hold 160 tokens"), ([16] * 70 + [1], "fewer than 2 tokens")],
)
def test_chunks_that_cannot_make_the_run_are_refused(chunks, message):
    with pytest.raises(ValueError, match=message):
        run(chunks_of(chunks))


def test_a_perplexity_is_needed_for_every_chunk():
    with pytest.raises(ValueError, match="3 perplexities for 64 chunks"):
        run_trial(tiny_model(), chunks_of([16] * 64), np.ones(3), RECIPE, 0, HELD_OUT)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 400).map(lambda steps: steps * 100),
    st.integers(0, 99),
    st.floats(2.0, 64.0),
    st.integers(2, 16),
)
def test_counts_are_log_spaced_whole_steps_that_span_what_was_asked(whole, rest, span, points):
    recipe = TrialRecipe(tokens=whole + rest, batch_tokens=100, span=span, points=points)
    if recipe.tokens / 100 < span:
        with pytest.raises(ValueError, match="raise tokens to"):
            measured_token_counts(recipe)
        return
    counts = measured_token_counts(recipe)
    assert counts == sorted(set(counts))
    assert counts[-1] == recipe.tokens
    assert counts[-1] / counts[0] >= span
    assert all(count % 100 == 0 for count in counts[:-1])
    assert len(counts) <= points


def test_the_first_steps_of_a_default_run_are_at_rising_rates():
    recipe = TrialRecipe()
    rates = [recipe.rate(step * recipe.batch_tokens) / recipe.learning_rate for step in range(1, 7)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])  # two percent of 128 steps are fewer than five
    assert rates[5] == 1.0


def test_the_default_run_gives_the_law_six_measurements_after_warm_up():
    recipe = TrialRecipe()
    assert sum(not recipe.is_rising(count) for count in measured_token_counts(recipe)) >= LAW_POINTS == 6


def test_the_fingerprints_hold_all_that_must_agree():
    def fingerprint(recipe=RECIPE, test=("a", "b"), general=("c",), chunks=("x", "y"), seed=1, model="m", **changes):
        return trial_fingerprint(setting_id(model, recipe, test, general, policy(**changes)), chunks, seed)

    base = fingerprint()
    assert fingerprint(test=("b", "a")) == base  # a sum over tokens has no order
    others = [
        fingerprint(recipe=dataclasses.replace(RECIPE, learning_rate=1e-4)),
        fingerprint(test=("a",)),
        fingerprint(general=()),
        fingerprint(chunks=("y", "x")),
        fingerprint(seed=2),
        fingerprint(model="n"),
        fingerprint(window_tokens=32),
        fingerprint(recipe=dataclasses.replace(RECIPE, lora_rank=4)),
    ]
    assert len({base, *others}) == 9
    branched = dataclasses.replace(RECIPE, decay_branches=2)
    setting = setting_id("m", RECIPE, ["a"], [], policy())
    assert setting_id("m", branched, ["a"], [], policy()) == setting  # the trunk is the same run
    assert trial_fingerprint(setting, ["x"], 1, branched) != trial_fingerprint(setting, ["x"], 1, RECIPE)
