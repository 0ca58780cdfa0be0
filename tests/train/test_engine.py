"""The engine against a hand-written loop, and its options."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlvm_jax.models import objectives
from dlvm_jax.train import engine, optimisers, order
from dlvm_jax.train.config import TrainConfig
from tests.train.common import X, assert_same, build, init, objective


def run(trainer, steps, start=None, batch=8):
    state = trainer.init() if start is None else start
    rows = order.minibatches(len(X), batch, trainer.seeds[0], int(np.max(state.step)), steps)
    return trainer.chunk(state, trainer.put(X), rows)


def test_equals_a_hand_written_loop():
    state, metrics = run(build(ema=0.9), 20)
    key_init, key_run = jax.random.split(jax.random.key(0))
    tx, params = optax.adam(0.01), init(key_init)
    average, opt_state = params, tx.init(params)
    step = jax.jit(
        lambda p, s, k, b: (lambda g: tx.update(g, s, p))(jax.grad(lambda q: objective(q, k, b)[0])(p))
    )
    losses = []
    for t in range(20):
        batch = X[order.minibatches(64, 8, 0, t, 1)[0]]
        losses.append(objective(params, jax.random.fold_in(key_run, t), batch)[0])
        updates, opt_state = step(params, opt_state, jax.random.fold_in(key_run, t), batch)
        params = optax.apply_updates(params, updates)
        decay = min(0.9, (1 + t) / (10 + t))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, params)
    # float32 rounding in another order of operations, through 20 steps of Adam
    np.testing.assert_allclose(metrics["loss"], np.array(losses), rtol=1e-4)
    np.testing.assert_allclose(state.params["w"], params["w"], atol=1e-5)
    np.testing.assert_allclose(state.ema["w"], average["w"], atol=1e-5)
    assert int(state.step) == 20


def test_chunks_of_any_length_give_the_same_bits():
    trainer = build(ema=0.9)
    whole, _ = run(trainer, 12)
    part, _ = run(trainer, 6)
    part, _ = run(trainer, 6, part)
    assert_same(whole, part)


def test_a_second_chunk_compiles_nothing():
    traced = chex.assert_max_traces(objective, n=1)
    trainer = engine.build(traced, init, optax.adam(0.01))
    state, _ = run(trainer, 5)
    run(trainer, 5, state)


def test_seeds_trained_together_equal_seeds_trained_alone():
    trainer = build(seeds=(3, 4, 5), ema=0.9)
    rows = np.stack([order.minibatches(64, 8, seed, 0, 20) for seed in (3, 4, 5)], axis=1)
    together, metrics = trainer.chunk(trainer.init(), trainer.put(X), rows)
    assert metrics["loss"].shape == (20, 3)
    for i, seed in enumerate((3, 4, 5)):
        alone, alone_metrics = run(build(ema=0.9, seeds=(seed,)), 20)
        np.testing.assert_allclose(metrics["loss"][:, i], alone_metrics["loss"], rtol=1e-4)
        np.testing.assert_allclose(together.params["w"][i], alone.params["w"], atol=1e-5)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_training_starts_from_given_parameters(seeds):
    """With a fresh optimiser and average, and the caller's parameters stay as they are."""
    trainer = build(ema=0.9, seeds=seeds)
    rows = np.stack([order.minibatches(64, 8, seed, 0, 5) for seed in seeds], axis=1)
    rows = rows if len(seeds) > 1 else rows[:, 0]
    trained, _ = trainer.chunk(trainer.init(), trainer.put(X), rows)
    before = jax.tree.map(np.array, trained.params)
    state = trainer.init(trained.params)
    assert_same(state, trainer.init()._replace(params=before, ema=before))
    trainer.chunk(state, trainer.put(X), rows)  # consumes the state
    assert_same(trained.params, before)
    with pytest.raises(
        ValueError, match=r"of another model: v is float32\[5\] there|of another model: w is absent there"
    ):
        trainer.init({"v": np.zeros(5, np.float32)})


def test_accumulated_gradient_equals_the_whole_batch():
    def plain(params, key, batch, step=None):
        return objective(params, jax.random.key(0), batch * 0 + batch)[0] * 0 + jnp.square(
            batch @ params["w"] - batch
        ).sum(-1).mean(), {}

    results = []
    for accumulate in (1, 4):
        trainer = engine.build(plain, init, optax.sgd(0.01), accumulate=accumulate)
        results.append(run(trainer, 10)[0].params["w"])
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_micro_batches_have_their_own_randomness():
    """A loss that is the noise alone: with one key for all, the mean over micro-batches would be one micro-batch's."""

    def noise(params, key, batch, step=None):
        return jax.random.normal(key) + 0 * params["w"].sum(), {}

    _, metrics = run(engine.build(noise, init, optax.sgd(0.0), accumulate=4), 1)
    step_key = jax.random.fold_in(build().init().key, 0)
    expected = jnp.mean(jax.vmap(jax.random.normal)(jax.random.split(step_key, 4)))
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-6)


def test_an_objective_may_follow_the_step():
    def objective(params, key, batch, step=None):
        return params["w"].sum() * 0 + step, {}

    _, metrics = run(engine.build(objective, init, optax.sgd(0.0), accumulate=2), 5)
    np.testing.assert_array_equal(metrics["loss"], np.arange(5))


def test_preprocessing_draws_anew_each_step():
    raw = objectives.preprocessed(
        lambda params, key, x, step=None: (x.mean() + 0 * params["w"].sum(), {}),
        lambda key, x: jax.random.normal(key, x.shape),
    )
    _, metrics = run(engine.build(raw, init, optax.sgd(0.0)), 5)
    assert len(np.unique(metrics["loss"])) == 5


def test_clipping_bounds_the_norm_of_an_update():
    gradient = {"w": jnp.full((3,), 100.0)}
    for clip, norm in ((None, 100 * np.sqrt(3)), (0.5, 0.5)):
        tx = optimisers.make("sgd", 1.0, 10, clip=clip)
        update, _ = tx.update(gradient, tx.init(gradient), gradient)
        np.testing.assert_allclose(optax.tree.norm(update), norm, rtol=1e-6)


def test_schedules_rise_and_fall_as_they_say():
    """sgd updates under a unit gradient: linear warm-up over 4 steps, then constant, or a half cosine to 0 at step 20."""
    one = jnp.ones(())

    def sizes(**options):
        tx = optimisers.make("sgd", 2.0, 20, **options)
        state, found = tx.init(one), []
        for _ in range(20):
            update, state = tx.update(one, state, one)
            found.append(-float(update))
        return np.array(found)

    t = np.arange(20)
    np.testing.assert_allclose(sizes(), 2.0)
    np.testing.assert_allclose(sizes(warm_up=4), 2 * np.minimum(t / 4, 1), rtol=1e-6)
    cosine = np.where(t < 4, 2 * t / 4, 1 + np.cos(np.pi * (t - 4) / 16))
    np.testing.assert_allclose(sizes(warm_up=4, schedule="cosine"), cosine, rtol=1e-5, atol=1e-6)


def test_training_learns_and_the_average_is_evaluated():
    trainer = build(
        ema=0.99, optimizer=optimisers.make("adam", 0.02, 400, schedule="cosine", warm_up=10, clip=1.0)
    )
    state, metrics = run(trainer, 400)
    # the best linear denoiser leaves about 5 * 0.01 = 0.05; untrained the loss is about 5
    assert metrics["loss"][-20:].mean() < 0.1 < metrics["loss"][0]
    assert trainer.eval_params(state) is state.ema


@pytest.mark.parametrize("name", optimisers.OPTIMISERS)
@pytest.mark.parametrize("schedule", optimisers.SCHEDULES)
def test_every_optimiser_and_schedule_lowers_the_loss(name, schedule):
    staged = schedule == "stages"  # two thirds of it at a tenth of the rate
    rate = (0.3 if name == "adam-burda" else 0.01) * (5 if staged else 1)
    trainer = build(optimizer=optimisers.make(name, rate, 200, schedule=schedule, warm_up=0 if staged else 5))
    _, metrics = run(trainer, 200)
    assert metrics["loss"][-10:].mean() < 0.5 * metrics["loss"][:5].mean()


def test_adam_burda_is_that_of_the_sum_over_twenty_with_second_moments_that_start_at_one():
    """Their recursion written out for constant summed gradients, of which the smallest show epsilon.

    Theirs adds epsilon before the moments are corrected: it matters while they are near 1, where it is 1e-4 of them.  float32.
    """
    optimiser, steps = optimisers.make("adam-burda", 0.001, 20_000), 20_000
    total = np.array([30.0, 1.0, 1e-4, 1e-5])
    x, m, v = np.zeros(4), np.zeros(4), np.ones(4)
    for t in range(1, steps + 1):
        m, v = 0.99 * m + 0.01 * total, 0.999 * v + 0.001 * total**2
        x -= 0.001 * np.sqrt(1 - 0.999**t) / (1 - 0.99**t) * m / (np.sqrt(v) + 1e-4)

    def step(carry, _):
        params, state = carry
        update, state = optimiser.update(jnp.asarray(total / 20, jnp.float32), state, params)
        return (params + update, state), None

    (params, _), _ = jax.lax.scan(step, (jnp.zeros(4), optimiser.init(jnp.zeros(4))), length=steps)
    np.testing.assert_allclose(params, x, rtol=1e-3)


def test_weight_decay_is_decoupled_in_adamw_and_a_penalty_in_nvaes_adamax():
    """Recursions written out: Loshchilov & Hutter 2019 times the rate, and PyTorch's Adamax, which NVAE uses.  float32."""
    gradients = np.random.RandomState(0).randn(30, 4) * [1.0, 1e-2, 1e-3, 0.0]
    start = np.array([1.0, -2.0, 0.5, 3.0])

    def adamw(beta2, decay):
        x, m, v = start, 0.0, 0.0
        for t, g in enumerate(gradients, 1):
            m, v = 0.9 * m + 0.1 * g, beta2 * v + (1 - beta2) * g**2
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - beta2**t)) + 1e-8)
            x = x - 0.01 * (step + decay * x)
        return x

    def adamax(decay):
        x, m, u = start, 0.0, np.zeros(4)
        for t, g in enumerate(gradients, 1):
            g = g + decay * x
            m, u = 0.9 * m + 0.1 * g, np.maximum(0.999 * u, np.abs(g) + 1e-3)
            x = x - 0.01 / (1 - 0.9**t) * m / u
        return x

    for name, settings, expected in (
        ("adamw", {}, adamw(0.999, 1e-4)),
        ("adamw", {"weight_decay": 0.5}, adamw(0.999, 0.5)),
        ("adamw-vdvae", {}, adamw(0.9, 0.01)),
        ("adamw-vdvae", {"weight_decay": 0.0}, adamw(0.9, 0.0)),
        ("adamax-nvae", {}, adamax(3e-4)),
        ("adamax-nvae", {"weight_decay": 0.5}, adamax(0.5)),
    ):
        tx = TrainConfig(steps=30, eval_every=10, optimiser=name, learning_rate=0.01, **settings).optimizer()
        params = jnp.asarray(start, jnp.float32)
        state = tx.init(params)
        for g in gradients:
            update, state = tx.update(jnp.asarray(g, jnp.float32), state, params)
            params += update
        np.testing.assert_allclose(params, expected, rtol=2e-5)


def test_a_weight_decay_is_refused_where_there_is_none():
    with pytest.raises(
        ValueError, match=r"'adam' has no weight decay, got 0.1; adamax-nvae, adamw, adamw-vdvae have one"
    ):
        optimisers.make("adam", 0.1, 10, weight_decay=0.1)
    with pytest.raises(
        ValueError, match=r"weight_decay=0.1 belongs to optimiser adamax-nvae or adamw or adamw-vdvae, not"
    ):
        TrainConfig(weight_decay=0.1).check()
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -1"):
        TrainConfig(optimiser="adamw", weight_decay=-1.0).check()


def test_stages_have_the_published_rates_and_lengths():
    """Burda et al. 2016, section 5: 3^i epochs at 1e-3 10^(-i / 7), the rates rounded as in their code."""
    rate = optimisers.SCHEDULES["stages"].make(1e-3, 10 * 3280, 0)
    expected = [1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4]
    start = 0
    for stage, value in enumerate(expected):
        for step in (start, start + 10 * 3**stage - 1):
            assert float(rate(step)) == pytest.approx(value, rel=1e-6)
        start += 10 * 3**stage
    with pytest.raises(ValueError, match="has no warm-up"):
        optimisers.make("adam", 1e-3, 100, schedule="stages", warm_up=5)


def test_minibatches_in_the_order_of_the_examples():
    rows = order.minibatches(10, 4, 7, 1, 3, shuffle=False)
    np.testing.assert_array_equal(rows, [[4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]])


def test_minibatches_are_permutations_and_depend_on_seed_and_step_alone():
    rows = order.minibatches(64, 8, 7, 0, 16)
    for epoch in (rows[:8], rows[8:]):
        assert sorted(epoch.ravel()) == list(range(64))
    assert (rows[:8] != rows[8:]).any()
    np.testing.assert_array_equal(order.minibatches(64, 8, 7, 5, 6), rows[5:11])
    assert (order.minibatches(64, 8, 8, 0, 16) != rows).any()
    assert order.minibatches(10, 4, 0, 0, 4).shape == (4, 4)  # two a whole epoch, the rest left to others


@pytest.mark.parametrize("options, message", [
    ({"ema": 1.0}, r"decay lies in \[0, 1\)"),
    ({"accumulate": 0}, "accumulate must be at least 1"),
    ({"seeds": ()}, r"seeds lie between 0 and 2\^32 - 1, one or more, got \(\)"),
    ({"seeds": (0, -1)}, r"seeds lie between .*, got \(0, -1\)"),
    ({"seeds": (2**32,)}, "seeds lie between .*, got "),
])  # fmt: skip
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_impossible_batches_and_optimisers_are_refused():
    with pytest.raises(ValueError, match="between 1 and the 64 training examples, got 65"):
        order.minibatches(64, 65, 0, 0, 1)
    with pytest.raises(ValueError, match="batch of 8 does not split"):
        run(build(accumulate=3), 1)
    with pytest.raises(ValueError, match="unknown optimiser 'adm'; there are adam"):
        optimisers.make("adm", 0.1, 10)
    with pytest.raises(ValueError, match="learning rate must be positive, got nan"):
        optimisers.make("adam", float("nan"), 10)
    with pytest.raises(ValueError, match="warm-up lies between 0 and the 10 steps"):
        optimisers.make("adam", 0.1, 10, warm_up=10)
