"""Annealed importance sampling against exact evidence: linear-Gaussian in closed form, nonlinear decoders by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.exact import linear_gaussian
from dlvm_jax.functional import bounds, densities
from dlvm_jax.functional.annealing import adapt_step_size, ais, sigmoid_betas
from tests.functional.common import cast, checks, quadrature


def linear_problem(latent, dim, dtype, count=3):
    """Data of a linear-Gaussian model with their z, the log-prior, the log-joint, and the exact log-evidence."""
    rng = np.random.RandomState(latent)
    model = linear_gaussian.LinearGaussian(0.5 * rng.randn(dim, latent), rng.randn(dim), np.float64(-0.2))
    model = cast(model, dtype)
    x, z = linear_gaussian.sample(model, jax.random.key(0), (count,))

    def joint(z):
        mean = jnp.einsum("dm,...m->...d", model.w, z, precision="highest") + model.mean
        return prior(z) + densities.normal_log_prob(x, mean, model.log_std)

    return model, x, z, joint, linear_gaussian.log_evidence(model, x)


def prior(z):
    return densities.normal_log_prob(z, 0.0, 0.0)


@checks(ais)
@pytest.mark.parametrize(
    "latent, dim, temperatures, start, dtype",
    [
        (2, 5, 40, "prior", jnp.float32),
        (10, 12, 100, "prior", jnp.float64),
        (10, 12, 40, "encoder", jnp.float32),
    ],
)
def test_estimate_is_within_its_standard_error_of_the_exact_evidence(latent, dim, temperatures, start, dtype):
    """Four standard errors, false alarm 6e-5 for each of 3 data; standard errors small enough to mean something."""
    with jax.enable_x64(dtype is jnp.float64):
        model, x, _, joint, truth = linear_problem(latent, dim, dtype)
        if start == "prior":
            mean, log_std = jnp.zeros((3, latent), dtype), jnp.zeros((), dtype)
        else:  # a diagonal Gaussian that is off, as encoders are
            mean, log_std = linear_gaussian.posterior(model, x)[0] + 0.2, jnp.full((), -0.5, dtype)

        def run(key):
            """Step sizes from a pilot with its own draws, then the weighted run."""
            draw, adapt, anneal = jax.random.split(key, 3)
            z0 = densities.normal_sample(draw, mean, log_std, (420,))
            betas = sigmoid_betas(temperatures)
            problem = (lambda z: densities.normal_log_prob(z, mean, log_std)), joint
            steps = adapt_step_size(adapt, *problem, z0[400:], betas, leapfrog_steps=5)
            return ais(anneal, *problem, z0[:400], betas, steps, leapfrog_steps=5), steps

        result, steps = jax.jit(run)(jax.random.key(1))
        assert result.log_w.shape == (400, 3) and result.z.shape == (400, 3, latent)
        assert result.acceptance.shape == steps.shape == (temperatures, 3)
        assert {leaf.dtype for leaf in (*result, steps)} == {jnp.dtype(dtype)}
        estimate = bounds.evidence(result.log_w)
        assert (np.abs(estimate.log_evidence - truth) < 4 * estimate.standard_error).all()
        assert (estimate.standard_error < 0.2).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_expected_weight_is_the_evidence_and_in_reverse_its_inverse(reverse):
    """E[w / p(x)] = 1 at any number of temperatures: 20,000 repetitions, five standard errors (6e-7 for each of 3 data)."""
    model, x, _, joint, truth = linear_problem(2, 5, jnp.float32)
    betas, chains = sigmoid_betas(25), 20_000
    mean, tril = linear_gaussian.posterior(model, x)
    if reverse:
        z0 = densities.multivariate_normal_sample(jax.random.key(1), mean, tril, (chains,))
    else:
        z0 = jax.random.normal(jax.random.key(1), (chains, 3, 2))
    path = betas[::-1] if reverse else betas
    result = jax.jit(lambda z0: ais(jax.random.key(2), prior, joint, z0, path, 0.8, leapfrog_steps=2))(z0)
    assert 0.5 < result.acceptance.mean() < 0.95  # many are rejected: a wrong acceptance rule shows
    weight = np.exp(result.log_w + (truth if reverse else -truth), dtype=np.float64)
    error = weight.std(0) / np.sqrt(chains)
    assert (error < 0.02).all() and (np.abs(weight.mean(0) - 1) < 5 * error).all()


def test_transitions_leave_the_target_invariant():
    """From the exact posterior, at beta = 1 throughout: no weight, and the posterior's moments to five standard errors."""
    model, x, _, joint, _ = linear_problem(2, 5, jnp.float32)
    mean, tril = linear_gaussian.posterior(model, x)
    z0 = densities.multivariate_normal_sample(jax.random.key(1), mean, tril, (20_000,))
    result = jax.jit(lambda z0: ais(jax.random.key(2), prior, joint, z0, jnp.ones(4), 0.8, 3))(z0)
    np.testing.assert_array_equal(result.log_w, 0)
    assert (result.acceptance > 0.3).all() and (result.acceptance < 0.95).all()
    white = np.asarray(jax.scipy.linalg.solve_triangular(tril, (result.z - mean)[..., None], lower=True))[
        ..., 0
    ]
    old = np.asarray(jax.scipy.linalg.solve_triangular(tril, (z0 - mean)[..., None], lower=True))[..., 0]
    assert (np.abs(white.mean(0)) < 5 / np.sqrt(20_000)).all()
    assert (np.abs((white**2).mean(0) - 1) < 5 * np.sqrt(2 / 20_000)).all()
    assert (np.abs((white * old).mean(0)) < 0.8).all()  # and they do move


def bernoulli_decoder():
    """Logits of six bits from two latents."""
    rng = np.random.RandomState(5)
    first, second = 1.5 * rng.randn(2, 8), rng.randn(8, 6)
    return lambda z: jnp.tanh(z @ first) @ second


def exact_evidence(decoder, x):
    """log p(x) by Gauss-Legendre quadrature over the prior to eight deviations (120 and 160 nodes agree to 1e-6)."""
    nodes, weights = quadrature(-8.0, 8.0, 120)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 1, 2)
    log_volume = np.log(np.outer(weights, weights)).reshape(-1, 1)
    return jax.nn.logsumexp(prior(grid) + densities.bernoulli_log_prob(x, decoder(grid)) + log_volume, axis=0)


def test_nonlinear_decoder_lies_in_a_bidirectional_sandwich(x64):
    """30 simulated data.  Estimates: four standard errors of each (false alarm 2e-3 in all).

    A single chain is a lower bound forward and an upper bound in reverse: each lies on its side of the truth by five
    standard errors of the mean over the data; from 10 temperatures to 60 the gap falls like their inverse, at least by half.
    """
    decoder = bernoulli_decoder()
    z = jax.random.normal(jax.random.key(0), (30, 2))
    x = densities.bernoulli_sample(jax.random.key(1), decoder(z))
    truth = np.asarray(exact_evidence(decoder, x))

    def joint(z):
        return prior(z) + densities.bernoulli_log_prob(x, decoder(z))

    start, chains = jax.random.normal(jax.random.key(2), (220, 30, 2)), 200
    fine = sigmoid_betas(60)
    steps = jax.jit(lambda z0: adapt_step_size(jax.random.key(3), prior, joint, z0, fine, 0.5, 4))(
        start[chains:]
    )
    run = jax.jit(lambda key, z0, betas, steps: ais(key, prior, joint, z0, betas, steps, 4).log_w)
    coarse = jnp.concatenate([jnp.zeros(50), sigmoid_betas(10)])
    gaps = []
    for betas in (coarse, fine):
        log_w = run(jax.random.key(4), start[:chains], betas, steps)
        reverse = run(jax.random.key(5), jnp.broadcast_to(z, (chains, *z.shape)), betas[::-1], steps[::-1])
        for gap in (truth - log_w.mean(0), -reverse.mean(0) - truth):
            assert gap.mean() > 5 * gap.std(ddof=1) / np.sqrt(30)
            gaps.append(float(gap.mean()))
        estimate = bounds.evidence(log_w)
        assert (np.abs(estimate.log_evidence - truth) < 4 * estimate.standard_error).all()
    assert gaps[2] < 0.5 * gaps[0] and gaps[3] < 0.5 * gaps[1]


@checks(adapt_step_size)
def test_step_sizes_reach_the_wanted_acceptance_and_scale_with_the_datum(x64):
    """Targets of standard deviation s: by similarity the last step sizes are proportional to s; 400 chains leave 10 % noise."""
    scale = jnp.array([0.05, 1.0])
    betas = jnp.concatenate([jnp.zeros(1), jnp.ones(200)])

    def target(z):
        return densities.normal_log_prob(z, 0.0, jnp.log(scale)[:, None])

    z0 = jax.random.normal(jax.random.key(0), (400, 2, 3)) * scale[:, None]
    adapt = jax.jit(lambda first: adapt_step_size(jax.random.key(1), prior, target, z0, betas, first))
    run = jax.jit(lambda steps: ais(jax.random.key(2), prior, target, z0, jnp.ones(201), steps))
    for first in (0.03, 10.0):
        steps = adapt(first)
        np.testing.assert_allclose(steps[0], first, rtol=1e-12)
        late = np.asarray(steps[100:])
        np.testing.assert_allclose(late.mean(0) / scale, late.mean() / scale.mean(), rtol=0.1)
        np.testing.assert_allclose(run(steps).acceptance[100:].mean(0), 0.65, atol=0.05)


def test_impossible_states_are_rejected_without_nan():
    """Half of a Gaussian, any event shape, no batch: E[w] = 1/2, five standard deviations of 20,000 fair coins."""

    def half(z):
        return prior(z[..., 0]) + jnp.where(z[..., 0, 0] > 0, 0.0, -jnp.inf)

    z0 = jax.random.normal(jax.random.key(0), (20_000, 2, 1))
    result = ais(jax.random.key(1), lambda z: prior(z[..., 0]), half, z0, sigmoid_betas(3), 1.0, 2)
    assert result.log_w.shape == (20_000,) and not np.isnan(result.log_w).any()
    assert np.isfinite(result.acceptance).all() and np.isfinite(result.z).all()
    assert abs(float(jnp.exp(result.log_w).mean()) - 0.5) < 5 * 0.5 / np.sqrt(20_000)


@checks(sigmoid_betas)
def test_sigmoid_betas_rise_from_zero_to_one_symmetrically(x64):
    betas = np.asarray(sigmoid_betas(50))
    assert betas[0] == 0 and betas[-1] == 1 and (np.diff(betas) > 0).all()
    np.testing.assert_allclose(betas + betas[::-1], 1, atol=1e-15)
    expected = (1 / (1 + np.exp(2.0)) - 1 / (1 + np.exp(4.0))) / np.tanh(2.0)
    np.testing.assert_allclose(sigmoid_betas(4)[1], expected, rtol=1e-12)


def test_impossible_settings_are_refused():
    z0 = jnp.zeros((4, 2))
    with pytest.raises(ValueError, match="at least one temperature, got 0"):
        sigmoid_betas(0)
    for run in (ais, adapt_step_size):
        with pytest.raises(ValueError, match="at least two inverse temperatures, got shape"):
            run(jax.random.key(0), prior, prior, z0, jnp.ones(1), 0.1)
        with pytest.raises(ValueError, match="at least one leapfrog step, got 0"):
            run(jax.random.key(0), prior, prior, z0, jnp.ones(2), 0.1, leapfrog_steps=0)
