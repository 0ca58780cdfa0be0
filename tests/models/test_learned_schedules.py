"""Diffusion with a learned noise schedule: where it starts, its slope, what it lowers and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import diffusion as exact
from dlvm_jax.functional.diffusion import schedules
from dlvm_jax.models import diffusion
from tests.models.test_diffusion import GAUSSIAN, perfect, row_by_row, sampler


def test_a_learned_schedule_starts_straight_between_the_usual_ends():
    """From log-SNR 13.3 to -5, as in Kingma et al. 2021."""
    schedule = diffusion.learned()
    noise = schedule.process(schedule.init(jax.random.key(0)))
    ends = [float(noise.log_snr(t)) for t in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(ends, [13.3, (13.3 - 5) / 2, -5], rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_slope_of_a_learned_schedule_is_that_of_the_log_mean_square():
    """Of one example: 2 d'/d, d' by central differences; the network's slope is that of d."""
    law, schedule = exact.gaussian(np.zeros(1), np.array([[0.01]])), diffusion.learned(-8.0, 12.0, 8)
    denoise = lambda params, x, t, context=None, key=None: (
        params["net"] * row_by_row(law, schedule.process(params["schedule"]), x, t)
    )
    model = perfect(law)._replace(
        process=lambda params: schedule.process(params["schedule"]), denoise=denoise
    )
    params = {"net": jnp.float64(0.9), "schedule": schedule.init(jax.random.key(0))}
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    objective = jax.jit(
        lambda params: diffusion.vlb_loss(model)(params, jax.random.key(1), jnp.full((1, 1), 0.07))
    )
    slope, d = jax.jit(jax.grad(objective, has_aux=True))(params)
    far = lambda sign, part: objective(
        {**params, part: jax.tree.map(lambda p, g: p + sign * 1e-5 * g, params[part], slope[part])}
    )[1]["diffusion"]
    for part, scale in (("schedule", 2 / d["diffusion"]), ("net", 1.0)):
        square = sum(jnp.sum(g**2) for g in jax.tree.leaves(slope[part]))
        assert square > 0
        assert scale * (far(1, part) - far(-1, part)) / 2e-5 == pytest.approx(float(square), rel=1e-5)


@pytest.mark.slow
def test_a_learned_schedule_descends_the_variance_of_the_bound():
    """With the exact denoiser of a narrow law the mean square falls by a quarter in 60 steps, and the bound stays."""
    law = exact.gaussian(np.zeros(1), np.array([[0.01]]))
    schedule = diffusion.learned(-8.0, 12.0, 8)
    denoise = lambda params, x, t, context=None, key=None: row_by_row(
        law, schedule.process(params["schedule"]), x, t
    )
    model = perfect(law)._replace(
        process=lambda params: schedule.process(params["schedule"]), denoise=denoise
    )
    params = {"net": {}, "schedule": schedule.init(jax.random.key(0))}
    objective, x = diffusion.vlb_loss(model), 0.1 * jax.random.normal(jax.random.key(1), (512, 1))

    def step(params, key):
        slope = jax.grad(objective, has_aux=True)(params, key, x)[0]
        return jax.tree.map(lambda p, g: p - 1.0 * g, params, slope), None

    after, _ = jax.jit(lambda params, keys: jax.lax.scan(step, params, keys))(
        params, jax.random.split(jax.random.key(2), 60)
    )
    dens = diffusion.bound_density(model, sampler)
    spread = jax.jit(lambda params: dens.terms(params, jax.random.key(3), jnp.tile(x, (40, 1)))["kl"])
    before, now = spread(params), spread(after)
    assert jnp.square(now).mean() < 0.75 * jnp.square(before).mean()
    assert abs(now.mean() - before.mean()) < 4 * before.std() / np.sqrt(20_480)


def test_a_learned_schedule_only_changes_the_variance():
    """In expectation the bound does not depend on the inside of the schedule: its gradient is zero within four errors."""
    noise = schedules.linear_log_snr(-8.0, 12.0)
    model = perfect(GAUSSIAN)
    learned = diffusion.learned(-8.0, 12.0, 4)
    assert learned.process(learned.init(jax.random.key(0))).log_snr(0.3) == pytest.approx(noise.log_snr(0.3))
    model = model._replace(
        process=lambda params: learned.process(params),
        denoise=lambda params, x, t, context=None, key=None: exact.denoiser(
            GAUSSIAN, learned.process(params), x, t
        ),
    )
    dens = diffusion.bound_density(model, sampler)
    x = jax.random.multivariate_normal(
        jax.random.key(3), jnp.array([0.5, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]]), (4000,)
    )
    slope = jax.grad(lambda params, key, x: dens.log_prob(params, key, x))
    logits, keys = {"logits": jnp.array([0.3, -0.2, 0.1, 0.0])}, jax.random.split(jax.random.key(4), 4000)
    each = jax.jit(jax.vmap(slope, (None, 0, 0)))(logits, keys, x)
    gradient = np.asarray(each["logits"], np.float64)
    assert (np.abs(gradient.mean(0)) < 4 * gradient.std(0) / np.sqrt(4000)).all()
