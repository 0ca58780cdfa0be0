"""Arguments of an unexpected type, value or shape: right, NaN, or refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax import exact
from dlvm_jax.functional import (
    annealing,
    autoencoding,
    bounds,
    conditioning,
    densities,
    divergences,
    flows,
    linear_gaussian,
    mixtures,
    numerics,
    spherical,
    total_correlation,
)
from dlvm_jax.functional.linear_gaussian import LinearGaussian
from dlvm_jax.models import gaussian, ppca

MODEL = LinearGaussian(jnp.ones((4, 1)), jnp.zeros(4), jnp.float32(0))


def test_numbers_of_any_type_become_floats():
    for value in (3, True, np.uint8(3), np.array([2**33]), jnp.bfloat16(3), [1, 2], jnp.ones(2, bool)):
        assert numerics.as_wide(value).dtype == jnp.float32
    assert numerics.as_wide(np.array([2**33])) == 2.0**33  # which no 32-bit integer holds
    with jax.enable_x64(True):
        assert numerics.as_wide(jnp.ones(2, jnp.float32), 1.0, 3, jnp.arange(2))[1].dtype == jnp.float32
        assert numerics.as_wide(jnp.ones(2, jnp.float32), jnp.ones(2))[0].dtype == jnp.float64
    for value in (1j, jnp.ones(2) + 1j, jax.random.key(0), np.array(["a"])):
        with pytest.raises(ValueError, match="expected real numbers, got an array of type"):
            numerics.as_wide(value)


def test_differences_of_integers_do_not_wrap():
    u8 = lambda *v: jnp.array(v, jnp.uint8)
    assert float(autoencoding.squared_error(u8(0), u8(250))) == 62500
    assert float(autoencoding.squared_error(jnp.array([0]), jnp.array([200_000]))) == 4e10
    assert float(divergences.kl_normal(u8(3), 0.0, u8(5), 0.0)) == 2
    assert float(autoencoding.sparse_penalty(jnp.array([-128, 100], jnp.int8))) == 228
    assert float(autoencoding.soft_threshold(u8(3), jnp.uint8(5))[0]) == 0
    value = densities.normal_log_prob(u8(3), u8(5), 0.0)
    np.testing.assert_allclose(value, scipy.stats.norm.logpdf(3, 5, 1), rtol=1e-6)
    value = mixtures.normal_mixture_log_prob(u8(3, 3), u8(5, 5)[None], jnp.zeros((1, 2)))
    np.testing.assert_allclose(value, 2 * scipy.stats.norm.logpdf(3, 5, 1), rtol=1e-6)
    centres = np.array([[0.5, 0.3]])
    np.testing.assert_array_equal(
        exact.energies.torus_modes(jnp.array([1, 2]), centres),
        exact.energies.torus_modes(jnp.array([1.0, 2.0]), centres),
    )


def test_a_mask_is_a_mask_in_every_type():
    r = np.random.RandomState(0)
    x, seen = np.float32(r.randn(5, 4)), r.rand(5, 4) > 0.3
    covariance = np.ones((4, 4)) + np.eye(4)
    laws = (scipy.stats.multivariate_normal(np.zeros(k.sum()), covariance[np.ix_(k, k)]) for k in seen)
    expected = [law.logpdf(v[k]) for law, v, k in zip(laws, x, seen, strict=True)]
    step = linear_gaussian.ppca_em_step(MODEL, x, seen)
    for dtype in (bool, np.int32, np.uint8, np.float32):
        mask = jnp.asarray(seen, dtype)
        np.testing.assert_allclose(linear_gaussian.log_evidence_observed(MODEL, x, mask), expected, rtol=1e-5)
        np.testing.assert_array_equal(linear_gaussian.ppca_em_step(MODEL, x, mask).w, step.w)
    value = conditioning.gaussian_condition(jnp.zeros(2), jnp.eye(2), np.array([False, True]), jnp.ones(1))
    assert value[0].shape == (1,)


OUTSIDE = (-1.0, 0.5, 4.0, np.nan)


def test_a_value_that_a_law_cannot_have_is_nan():
    """And its neighbours keep their probability.  Bits may be grey, for a cross-entropy."""
    points = jnp.array([[v] for v in (*OUTSIDE, 1.0)])
    at = lambda function: np.asarray(jax.jit(function)(points))
    levels = {
        "categorical": lambda x: densities.categorical_log_prob(x, jnp.zeros((1, 4))),
        "logistic": lambda x: densities.discretised_logistic_log_prob(x, 0.3, -1.0, 4),
        "normal": lambda x: densities.discretised_normal_log_prob(x, 0.3, -1.0, 4),
        "mixture": lambda x: densities.discretised_logistic_mixture_log_prob(x, *3 * [jnp.zeros((1, 2))], 4),
    }
    for name, function in levels.items():
        assert np.isnan(at(function)).tolist() == [True] * 4 + [False], name
    bits = at(lambda x: densities.bernoulli_log_prob(x, jnp.zeros(1)))
    assert np.isnan(bits).tolist() == [True, False, True, True, False]
    noisy = at(lambda x: flows.image.dequantise(KEY, x, 4, event_ndim=1)[0][:, 0])
    assert np.isnan(noisy).tolist() == [True] * 4 + [False]
    model = exact.discrete.DiscreteMixture(jnp.zeros(2), jnp.zeros((2, 1)))
    for function in (exact.discrete.log_joint, exact.discrete.log_evidence, exact.discrete.posterior):
        assert np.isnan(function(model, jnp.array([2.0]))).all()
    fine = jax.grad(lambda logits: densities.categorical_log_prob(jnp.ones(1, jnp.uint8), logits))
    np.testing.assert_allclose(fine(jnp.zeros((1, 4))), [[-0.25, 0.75, -0.25, -0.25]])


COLUMN, ROW, EYE = jnp.zeros((3, 1)), jnp.zeros(3), jnp.eye(2)
FULL = jnp.array([[2.0, 1.0], [1.0, 2.0]])
KEY = jax.random.key(0)
energy = lambda z: z.sum(-1)


@pytest.mark.parametrize(
    "call, line",
    [
        (
            lambda: bounds.elbo(jnp.zeros(8), jnp.zeros(8)),
            r"log_lik is \[samples, \*batch\].*log_lik\[None\]",
        ),
        (lambda: bounds.elbo(0.0, 0.0), "samples on its first axis"),
        (lambda: bounds.elbo_sampled(COLUMN, ROW, ROW), r"all \[samples, \*batch\]"),
        (lambda: bounds.importance_weighted(0.0), "samples on its first axis"),
        (lambda: bounds.naive_evidence(jnp.float32(0)), "samples on its first axis"),
        (lambda: bounds.renyi(0.0, 0.5), "samples on its first axis"),
        (lambda: bounds.evidence(0.0), "samples on its first axis"),
        (lambda: bounds.accumulate(bounds.empty_weights((2,)), COLUMN), r"running sums of a batch \(2,\)"),
        (lambda: bounds.dreg(lambda z: z.sum(), COLUMN), "log-weights of its first axes"),
        (lambda: divergences.kl_monte_carlo(COLUMN, ROW), "log-densities of samples have one shape"),
        (lambda: divergences.kl_categorical(COLUMN, jnp.zeros((3, 4))), "as many categories"),
        (lambda: divergences.rbf_kernel(COLUMN, jnp.zeros((3, 2)), 1.0), r"samples \[N, D\] and \[P, D\]"),
        (lambda: divergences.mmd(ROW, ROW, None), r"samples \[N, D\] and \[P, D\]"),
        (
            lambda: densities.multivariate_normal_log_prob(EYE, EYE, jnp.ones(2)),
            "need a lower Cholesky factor",
        ),
        (lambda: densities.multivariate_normal_log_prob(EYE, EYE, FULL), "not lower triangular"),
        (lambda: densities.multivariate_normal_sample(KEY, EYE, FULL), "not lower triangular"),
        (lambda: divergences.kl_multivariate_normal(EYE, EYE, EYE, FULL), "not lower triangular"),
        (lambda: conditioning.gaussian_marginal(EYE, FULL, EYE, jnp.zeros(2), EYE), "not lower triangular"),
        (lambda: conditioning.gaussian_marginal(EYE, EYE, EYE, COLUMN, EYE), r"needs an offset \[m\]"),
        (lambda: conditioning.gaussian_posterior(EYE, EYE, EYE, jnp.zeros(2), EYE, ROW), r"y \[\*batch, 2\]"),
        (lambda: conditioning.gaussian_condition(EYE, EYE, [0.5], COLUMN), "a list of integers"),
        (lambda: conditioning.gaussian_condition(EYE, EYE, [0], EYE), r"need values \[\*batch, 1\]"),
        (lambda: total_correlation.gaussian_total_correlation(jnp.tril(FULL)), "not symmetric"),
        (lambda: total_correlation.total_correlation_terms(ROW, EYE, EYE, ROW), r"z is \[\*draws, B, M\]"),
        (lambda: mixtures.normal_mixture_log_prob(EYE, EYE, jnp.zeros(2)), r"means and log_stds \[K, M\]"),
        (lambda: linear_gaussian.log_evidence(MODEL, COLUMN), "vectors of 4 numbers, got shape"),
        (lambda: linear_gaussian.posterior(MODEL._replace(mean=ROW), ROW), r"w \[D, M\], mean \[D\]"),
        (
            lambda: linear_gaussian.log_evidence_observed(MODEL, jnp.ones((3, 4)), jnp.ones(4, bool)),
            r"x and observed are both \[N, D\]",
        ),
        (lambda: linear_gaussian.ppca_fit(jnp.ones((3, 4)), 1.0), "latent dimensions is an integer"),
        (lambda: autoencoding.sparse_code(ROW, EYE, 1.0), r"needs a dictionary \[D, k\]"),
        (lambda: densities.discretised_logistic_log_prob(ROW, 0.0, 0.0, 4.0), "levels is an integer"),
        (lambda: densities.normal_log_prob(ROW, 0.0, 0.0, 1.0), "event_ndim is an integer"),
        (lambda: annealing.sigmoid_betas(2.5), "temperatures is an integer"),
        (lambda: annealing.ais(KEY, energy, lambda z: z.sum(), COLUMN, [0, 1], 1.0), "has log-densities"),
        (lambda: flows.linear.permute(ROW, jnp.array([0.0, 1.0, 2.0])), "an integer for each"),
        (lambda: flows.linear.permute_inverse(ROW, jnp.array([0, 1])), "an integer for each"),
        (lambda: flows.image.dequantise(KEY, jnp.ones((1, 2, 2, 1)), 2**17), r"1 to 2\^16 levels"),
        (lambda: flows.linear.permute(ROW, jnp.array([0, 1, 1])), "each of 0 to 2 once"),
        (lambda: flows.image.space_to_depth(jnp.ones((2, 2, 1)), 2.0), "patches is an integer"),
        (
            lambda: flows.continuous.flow_matching_loss(lambda x, t: x, EYE, EYE, jnp.ones((2, 1))),
            r"t \[\*batch\]",
        ),
        (lambda: spherical.uniform_sphere_sample(KEY, 3.0), "ambient dimension is an integer"),
        (lambda: ppca.ppca((2, 2), 1).log_prob(None, None, jnp.ones((3, 4))), r"events of shape \(2, 2\)"),
        (lambda: gaussian.mixture(2, 1.5), "components is an integer"),
        (lambda: flows.orthogonal.householder_product(ROW, ROW), r"needs mirrors \[\*batch, n, D\]"),
        (lambda: flows.sylvester.sylvester(ROW, None, EYE, EYE, ROW), "r and r_tilde are"),
        (
            lambda: exact.discrete.log_joint(exact.discrete.DiscreteMixture(ROW, EYE), ROW),
            r"prior logits \[K\]",
        ),
        (lambda: exact.diffusion.gaussian(jnp.zeros(2), jnp.tril(FULL)), "not symmetric"),
        (lambda: exact.energies.ring(ROW), r"points \[\*batch, 2\]"),
    ],
)
def test_other_shapes_and_types_are_refused_in_one_line(call, line):
    with pytest.raises(ValueError, match=line) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_shapes_are_looked_at_when_traced():
    with pytest.raises(ValueError, match="need a lower Cholesky factor"):
        jax.eval_shape(densities.multivariate_normal_log_prob, EYE, EYE, jnp.ones(2))
    assert jax.eval_shape(densities.multivariate_normal_log_prob, EYE, EYE, FULL).shape == (2,)


def test_annealing_takes_integers_lists_and_mixed_precision():
    normal = lambda z: -0.5 * jnp.square(z).sum(-1)
    z = jnp.ones((4, 3, 2), int)
    run = lambda z: annealing.ais(KEY, normal, normal, z, [0, 0.5, 1], 0.5).z
    np.testing.assert_array_equal(jax.jit(run)(z), jax.jit(run)(z * 1.0))
    with jax.enable_x64(True):
        wide = lambda z: normal(z) * jnp.ones((), jnp.float64)
        assert (
            annealing.ais(KEY, normal, wide, z * jnp.float32(1), [0, 0.5, 1], 0.5).log_w.dtype == jnp.float64
        )
