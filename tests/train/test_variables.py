"""State that trains without gradient: a running mean and a power iteration beside the parameters."""

import os
import signal

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from dlvm_jax import data, train
from dlvm_jax.train import engine, export, loop, order, stream, validation
from tests.train import with_variables as toy
from tests.train.common import X, assert_same, fit


def build(objective=toy.objective, **options):
    params = lambda key: (toy.init(key), toy.variables(jax.random.fold_in(key, 1)))
    return engine.build(objective, params, optax.adam(0.01), variables=True, **options)


def chunk(trainer, steps, data=X):
    rows = np.stack([order.minibatches(len(X), 8, seed, 0, steps) for seed in trainer.seeds], axis=1)
    return trainer.chunk(trainer.init(), trainer.put(data), rows if len(trainer.seeds) > 1 else rows[:, 0])


def test_equals_a_hand_written_loop_and_the_power_iteration_finds_the_singular_vector():
    trainer = build(ema=0.9)
    state, metrics = chunk(trainer, 100)
    start = trainer.init()
    tx, (parameters, now) = optax.adam(0.01), start.params
    average, opt_state = parameters, tx.init(parameters)

    @jax.jit
    def step(parameters, now, opt_state, key, batch):
        gradient = jax.grad(lambda p: toy.objective((p, now), key, batch)[0])(parameters)
        updates, opt_state = tx.update(gradient, opt_state, parameters)
        return (
            optax.apply_updates(parameters, updates),
            toy.next_variables((parameters, now), batch)[0],
            opt_state,
        )

    for t in range(100):
        batch = X[order.minibatches(64, 8, 0, t, 1)[0]]
        key = jax.random.fold_in(start.key, t)
        parameters, now, opt_state = step(parameters, now, opt_state, key, batch)
        decay = min(0.9, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, parameters)
    close = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a, b)
    close(state.params, (parameters, now))
    close(trainer.eval_params(state), (average, now))
    assert set(metrics) == {"loss", "bound", "sigma"}
    left, sizes, _ = np.linalg.svd(state.params[0]["w"])
    assert metrics["sigma"][-1] == pytest.approx(sizes[0], rel=0.02) == pytest.approx(2, rel=0.05)
    assert abs(left[:, 0] @ np.asarray(now["left"])) > 0.99


def test_micro_batches_give_the_mean_of_their_variables_and_streams_the_same_bits():
    trainer = build(accumulate=4)
    state, _ = chunk(trainer, 10)
    mean = np.zeros(5)
    for row in order.minibatches(64, 8, 0, 0, 10):
        mean = 0.9 * mean + 0.1 * X[row].mean(0)
    np.testing.assert_allclose(state.params[1]["mean"], mean, atol=1e-6)
    rows = order.minibatches(64, 8, 0, 0, 10)
    assert_same(trainer.stream(trainer.init(), trainer.gather(X, rows))[0], state)


def test_seeds_trained_together_have_their_own_variables():
    together, _ = chunk(build(seeds=(3, 4), ema=0.9), 10)
    for i, seed in enumerate((3, 4)):
        alone, _ = chunk(build(seeds=(seed,), ema=0.9), 10)
        for x, y in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(x[i], y, atol=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "killed, options", [(True, {"ema": 0.9}), (False, {"seeds": (0, 1), "accumulate": 2})]
)
def test_a_run_that_was_cut_off_and_goes_on_equals_one_run_bit_for_bit(
    tmp_path, monkeypatch, killed, options
):
    """Killed at step 24, so that it goes on from the checkpoint of step 20; or asked to stop, which saves step 25."""
    trainer = build(**options)
    validate = validation.validator(toy.objective, X[:20], seeds=trainer.seeds)
    whole = fit(tmp_path / "whole", every=20, trainer=trainer, validate=validate)[1]
    plain, taken = stream.Pace.take, []

    def take(pace, *part):
        taken.append(1)
        if len(taken) == 25:
            if killed:
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(pace, *part)

    monkeypatch.setattr(stream.Pace, "take", take)
    monkeypatch.setattr(stream, "SECONDS", 0.0)  # one step at once
    with pytest.raises(Killed if killed else loop.Interrupted):
        fit(tmp_path / "parts", every=20, trainer=trainer, validate=validate)
    _, parts, kept = fit(tmp_path / "parts", every=20, trainer=trainer, validate=validate, resume=True)
    assert len(taken) == (65 if killed else 60)
    assert_same(whole, parts)
    assert_same(whole, kept.restore(trainer.init())[1])
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")]
    assert logs[0] == logs[1] and b"valid_sigma" in logs[0] and b"variables" not in logs[0]


def test_variables_that_are_not_finite_are_not_saved(tmp_path):
    """The loss never sees this one."""

    def sick(params, key, batch, step=None):
        return jnp.square(params[0]["w"]).sum(), {"variables": jax.tree.map(lambda x: 1e30 * x, params[1])}

    with pytest.raises(loop.NonFiniteError, match=r"step 2: largest parameter = inf; .* of step 1"):
        fit(tmp_path, steps=4, every=1, trainer=build(sick))


def test_an_objective_must_return_the_variables_of_the_next_step():
    def returning(change):
        def objective(params, key, batch, step=None):
            loss, metrics = toy.objective(params, key, batch)
            return loss, {"variables": change(metrics["variables"])}

        return objective

    cast, wide = lambda x: x.astype(jnp.bfloat16), lambda x: x[None]
    for change, line in (
        (lambda new: None, r"must be like .* this one: left is absent there, float32\[5\] here; let"),
        (lambda new: {"left": new["left"]}, "mean is absent there"),
        (lambda new: jax.tree.map(wide, new), r"left is float32\[1, 5\] there, float32\[5\] here"),
        (lambda new: jax.tree.map(cast, new), r"left is bfloat16\[5\] there, float32\[5\] here"),
    ):
        for seeds in ((0,), (0, 1)):
            with pytest.raises(ValueError, match=line) as error:
                chunk(build(returning(change), seeds=seeds), 1)
            assert "\n" not in str(error.value)


def test_variables_of_a_model_that_says_none_are_refused():
    trainer = engine.build(
        lambda params, key, batch, step=None: (params["w"].sum(), {"variables": {"mean": batch.mean(0)}}),
        toy.init,
        optax.adam(0.01),
    )
    with pytest.raises(ValueError, match=r"and the model has none; give Model\.variables"):
        chunk(trainer, 1)


def test_a_recipe_with_variables_from_fit_to_export(tmp_path):
    rows = data.from_arrays(X + 3)
    settings = {"steps": 30, "batch_size": 8, "eval_every": 15, "progress": False, "ema": 0.9}
    fitted = train.fit(toy.Running(), rows, out=tmp_path / "run", **settings)
    mean = fitted.params[1]["mean"]
    assert np.abs(mean - 3).max() < 0.5  # 0.9^30 of the way is left, and the noise of the minibatches
    np.testing.assert_array_equal(fitted.encode(X), X - mean)
    np.testing.assert_allclose(fitted.reconstruct(X), X, atol=1e-6)
    assert fitted.sample(jax.random.key(0), 3).shape == (3, 5)
    expected = fitted.log_prob(None, X)
    log_std = fitted.params[0]["log_std"]
    np.testing.assert_allclose(expected, stats.norm.logpdf(X, mean, np.exp(log_std)).sum(1), rtol=1e-4)
    assert_same(train.load(tmp_path / "run").per_seed, fitted.per_seed)
    export.save_weights(fitted, tmp_path / "w.safetensors")
    again = export.load_weights(tmp_path / "w.safetensors")
    assert_same(again.params, fitted.params)
    np.testing.assert_array_equal(again.log_prob(None, X), expected)
    export.save_sampler(fitted, tmp_path / "sampler.bin", 4)
    with open(tmp_path / "sampler.bin", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    drawn = fitted.sample(jax.random.key(5), 4)  # one operation after the other: another rounding
    np.testing.assert_allclose(program.call(np.uint32(5)), drawn, rtol=1e-6)
    tuned = train.fit(
        toy.Running(), rows, out=tmp_path / "tuned", start=fitted, **settings | {"steps": 2, "eval_every": 1}
    )
    assert (
        np.abs(tuned.params[1]["mean"] - mean).max() < 0.3
    )  # from there: from zero it would be near 2.4 below
    cost = (tmp_path / "run" / "cost.json").read_text()
    assert '"parameters": 30' in cost  # 25 and 5; variables are none
