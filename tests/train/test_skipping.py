"""Updates that are left out: what stays as it was, what is counted, and when a run stops."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlvm_jax import data
from dlvm_jax.train import engine, loop, optimisers
from dlvm_jax.train import fit as fit_recipe
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.skipping import skip_updates
from tests.train import with_variables
from tests.train.common import X, assert_same, fit

RATE, LARGEST = 0.1, 10.0


def objective(params, key, batch, step=None):
    """Of which the gradient at w is the minibatch's mean, whose norm is the global one; the variable is their running sum."""
    w, total = params
    mean = batch.mean(0)
    return w @ mean, {"first": mean[0], "variables": total + mean}


def build(seeds=(0,), skip=LARGEST, clip=None, **options):
    """Adam, whose moments and count a skipped step must not touch; warm-up over 10 steps."""
    tx = optimisers.make("adam", RATE, 100, warm_up=10, clip=clip, skip=skip)
    start = lambda key: (jnp.array([1.0, -0.0]), jnp.zeros(2))
    return engine.build(objective, start, tx, ema=0.9, variables=True, seeds=seeds, **options)


def by_hand(gradients):
    """(w, its average, sum, first moment, updates taken) after gradients, of which the bad ones do nothing."""
    w, m, v, total, count = np.array([1.0, 0.0]), np.zeros(2), np.zeros(2), np.zeros(2), 0
    average = w
    for t, g in enumerate(np.float64(gradients)):
        if not np.linalg.norm(g) <= LARGEST:
            continue
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = RATE * min(count / 10, 1)  # of the updates taken, not of the steps
        count += 1
        w = w - rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
        decay = min(0.9, (1 + t) / (10 + t))
        average, total = decay * average + (1 - decay) * w, total + g
    return w, average, total, m, count


GOOD = np.random.RandomState(0).randn(12, 2).astype(np.float32)
BAD = {1: (30.0, 0.0), 4: (np.nan, 1.0), 5: (np.inf, 1.0), 6: (8.0, -8.0), 9: (1e30, 0.0)}
ROWS = GOOD.copy()
for place, value in BAD.items():
    ROWS[place] = value


def train(trainer, gradients):
    """One step for each gradient [steps, (seeds,) 2]."""
    return trainer.stream(trainer.init(), jnp.asarray(gradients)[..., None, :])


def test_a_skipped_step_leaves_all_as_it_was():
    """NaN, infinite, too large, and so large that its norm overflows, against updates by hand."""
    trainer = build()
    state, metrics = train(trainer, ROWS)
    w, average, total, m, count = by_hand(ROWS)
    np.testing.assert_array_equal(metrics["skipped"], [0, 1, 0, 0, 1, 2, 3, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(state.params, (w, total), rtol=1e-5)
    np.testing.assert_allclose(trainer.eval_params(state), (average, total), rtol=1e-5)
    adam, schedule = state.opt_state.inner
    np.testing.assert_allclose(adam.mu, m, rtol=1e-5)
    assert adam.count == schedule.count == count == 7
    assert (state.opt_state.in_a_row, state.opt_state.total, state.step) == (0, 5, 12)
    # all that a row of skips leaves is the same to the bit, the minus of a zero too
    before, after = train(trainer, ROWS[:4])[0], train(trainer, ROWS[:7])[0]
    assert_same(
        (before.params, before.ema, before.opt_state.inner), (after.params, after.ema, after.opt_state.inner)
    )
    first = train(build(), ROWS[1:2])[0].params[0]
    assert np.signbit(first[1])


def test_without_a_bad_gradient_nothing_changes():
    """To the bit; and the norm that is judged is that before clipping."""
    plain, skipping = (train(build(skip=skip, clip=0.5), GOOD) for skip in (None, LARGEST))
    assert_same(plain[0]._replace(opt_state=None), skipping[0]._replace(opt_state=None))
    assert_same(plain[0].opt_state, skipping[0].opt_state.inner)
    assert "skipped" not in plain[1] and not skipping[1]["skipped"].any()
    np.testing.assert_array_equal(
        train(build(clip=0.5), ROWS)[1]["skipped"] > 0, [t in BAD for t in range(12)]
    )


def test_each_seed_skips_on_its_own_and_a_micro_batch_spoils_its_step():
    both = np.stack([ROWS, GOOD], axis=1)
    state, metrics = train(build(seeds=(0, 1)), both)
    np.testing.assert_array_equal((metrics["skipped"] > 0).sum(0), [5, 0])
    for i, gradients in enumerate((ROWS, GOOD)):
        np.testing.assert_allclose(state.params[0][i], by_hand(gradients)[0], rtol=1e-5)
    trainer = build(accumulate=2)
    halves = np.stack([ROWS, GOOD], axis=1)  # a minibatch of two examples, one in each micro-batch
    state, metrics = trainer.stream(trainer.init(), jnp.asarray(halves))
    means = np.float64(halves).mean(1)
    np.testing.assert_array_equal(metrics["skipped"] > 0, ~(np.linalg.norm(means, axis=1) <= LARGEST))
    np.testing.assert_allclose(state.params[0], by_hand(means)[0], rtol=1e-5)


def run(folder, rows, steps=None, resume=False, trainer=None, every=4, **settings):
    """Examples in their order, one a step; of several seeds all take the same."""
    return fit(
        folder,
        steps or len(rows),
        every,
        config={"of": "all"},
        trainer=trainer or build(),
        data=rows,
        resume=resume,
        batch_size=1,
        shuffle=False,
        skip=LARGEST,
        **settings,
    )[1]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_log_counts_skips_and_leaves_their_metrics_out(tmp_path):
    run(tmp_path / "one", ROWS)
    log = lines(tmp_path / "one")
    assert [line["skipped"] for line in log] == [1, 3, 1]
    taken = [[t for t in range(a, a + 4) if t not in BAD] for a in (0, 4, 8)]
    np.testing.assert_allclose([line["first"] for line in log], [ROWS[t, 0].mean() for t in taken], rtol=1e-6)
    run(tmp_path / "several", ROWS, trainer=build(seeds=(0, 1)))
    assert [line["skipped"] for line in lines(tmp_path / "several")] == [[1, 1], [3, 3], [1, 1]]
    all_skipped = np.concatenate([ROWS, np.full((4, 2), np.nan, np.float32)])
    run(tmp_path / "none", all_skipped)
    assert lines(tmp_path / "none")[-1]["skipped"] == 4 and np.isnan(lines(tmp_path / "none")[-1]["loss"])


def test_a_run_that_goes_on_within_a_row_of_skips_is_the_same(tmp_path):
    """And the row is counted through: steps 4, 5 and 6 are skipped, and the first run ends after 5."""
    whole = run(tmp_path / "whole", ROWS)
    run(tmp_path / "parts", ROWS, steps=6)
    assert_same(run(tmp_path / "parts", ROWS, resume=True), whole)
    run(tmp_path / "short", ROWS, steps=6, skip_at_most=2)
    with pytest.raises(loop.NonFiniteError, match="stopped at step 6: 3 updates in a row"):
        run(tmp_path / "short", ROWS, resume=True, skip_at_most=2)


def test_more_in_a_row_than_may_be_stop_the_run_in_one_line(tmp_path):
    with pytest.raises(loop.NonFiniteError) as error:
        run(tmp_path, ROWS, skip_at_most=2)
    assert str(error.value) == (
        "training stopped at step 6: 3 updates in a row had gradients of a norm above 10.0, or not finite; "
        "the last good checkpoint is that of step 4; raise skip, lower the learning rate or check the data"
    )


def test_skipping_is_a_setting_of_fit_whose_cap_may_change(tmp_path):
    """The cap is no part of what a run is."""
    settings = {"out": tmp_path / "run", "steps": 8, "batch_size": 8, "eval_every": 4, "progress": False}
    rows = data.from_arrays(X)
    recipe = with_variables.Running()
    with pytest.raises(loop.NonFiniteError, match=r"step 5: 6 updates in a row had .* of step 4;"):
        fit_recipe(recipe, rows, skip=1e-9, skip_at_most=5, **settings)
    with pytest.raises(
        loop.NonFiniteError, match="step 7: 8 updates in a row"
    ):  # with another cap to the end, all skipped
        fit_recipe(recipe, rows, skip=1e-9, resume=True, **settings)


def test_a_loss_that_is_not_finite_stops_where_its_update_was_taken(tmp_path):
    def sick(params, key, batch, step=None):
        loss, metrics = objective(params, key, batch)
        return loss + jnp.where(step == 3, jnp.nan, 0.0), metrics

    start = lambda key: (jnp.ones(2), jnp.zeros(2))
    trainer = engine.build(sick, start, skip_updates(optax.sgd(0.1), LARGEST), variables=True)
    with pytest.raises(loop.NonFiniteError, match="stopped at step 3: loss = nan"):
        run(tmp_path, GOOD, trainer=trainer)


def test_a_largest_norm_without_limit_leaves_out_what_is_not_finite():
    tx = skip_updates(optax.sgd(1.0), np.inf)
    for gradient, update in ((1e18, -1e18), (np.inf, 0.0), (np.nan, 0.0)):
        gradient = jnp.array([gradient])
        assert tx.update(gradient, tx.init(gradient))[0] == np.float32(update)


def test_impossible_settings_are_refused():
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="skipped above a positive norm, got"):
            skip_updates(optax.sgd(1.0), bad)
        with pytest.raises(ValueError, match="skip must be "):
            TrainConfig(skip=bad).check()
    with pytest.raises(ValueError, match="skip_at_most must be at least 1, got 0"):
        TrainConfig(skip_at_most=0).check()


def test_a_short_run_that_skips_every_update_is_no_success(tmp_path):
    bad = np.full((3, 2), np.nan, np.float32)
    with pytest.raises(loop.NonFiniteError, match="stopped at step 2: 3 updates in a row"):
        run(tmp_path / "all", bad)
    run(tmp_path / "some", np.concatenate([ROWS[:1], bad]))
