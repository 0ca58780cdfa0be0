"""Regularised objectives on a linear Gaussian VAE whose every term is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from dlvm_jax.functional import total_correlation as correlation
from dlvm_jax.models import density, regularised
from dlvm_jax.models.vae import Parts, vae
from dlvm_jax.train import validation
from tests.functional.test_total_correlation import quadrature_terms
from tests.models.test_vae import exact_posterior, small_parts

RNG = np.random.RandomState(0)
W, NOISE = RNG.randn(3, 2), 0.6
X = jnp.asarray(RNG.randn(8, 3), jnp.float32)


def linear_parts():
    """q(z|x) = N(A x, e^(2 s)), p(x|z) = N(W z, 0.6^2), p(z) = N(0, I), A and s trained."""

    def encode(params, x):
        mean = x @ params["a"].T
        return jnp.stack([mean, jnp.broadcast_to(params["log_std"], mean.shape)], axis=-1)

    def init(key):
        return {"a": jnp.array([[0.9, 0.2, 0.0], [0.6, 0.2, -0.1]]), "log_std": jnp.array([-1.0, -0.3])}

    decode = density.Net(lambda key: {}, lambda params, z: (z @ jnp.asarray(W.T, z.dtype))[..., None])
    return Parts(
        density.standard_normal(2),
        density.conditional(density.Net(init, encode), density.normal(), (2,)),
        density.conditional(decode, density.fixed_normal(NOISE), (3,)),
    )


PARTS = linear_parts()
PARAMS = PARTS.init(jax.random.key(0))
MEAN = np.asarray(X) @ np.asarray(PARAMS["posterior"]["a"]).T
LOG_STD = np.asarray(PARAMS["posterior"]["log_std"])


def expected_log_lik():
    """E log N(x | W z, s^2) over z ~ q: the square of the residual of the mean, and W^T W times the posterior variance."""
    residual = ((np.asarray(X) - MEAN @ W.T) ** 2).sum(1)
    spread = (W**2 @ np.exp(2 * LOG_STD)).sum()
    return np.mean(-1.5 * np.log(2 * np.pi * NOISE**2) - (residual + spread) / (2 * NOISE**2))


def unit_kl():
    return (0.5 * (MEAN**2 + np.exp(2 * LOG_STD) - 1) - LOG_STD).mean(0)


def repeated(objective, count=4000, batch=X):
    """Loss and metrics of many keys: means and standard errors."""
    keys = jax.random.split(jax.random.key(1), count)
    loss, metrics = jax.jit(jax.vmap(lambda key: objective(PARAMS, key, batch)))(keys)
    values = {"loss": loss, **metrics}
    return {name: (float(v.mean()), float(v.std() / np.sqrt(count))) for name, v in values.items()}


def near(found, truth):
    """Within five standard errors, false alarm 6e-7, and rounding."""
    return abs(found[0] - truth) < 5 * found[1] + 2e-5


def test_free_bits_equal_the_hand_calculation():
    units = unit_kl()
    assert units[0] > 0.5 > units[1] + 0.05  # one unit above the free nats, one below
    found = repeated(regularised.free_bits(*PARTS, nats=0.5, beta=2.0))
    assert near(found["reconstruction"], expected_log_lik())
    assert near(found["kl"], units.sum())
    assert near(found["bound"], expected_log_lik() - units.sum())
    assert near(found["loss"], 2 * (units[0] + 0.5) - expected_log_lik())


def test_free_bits_of_nothing_are_the_elbo():
    key = jax.random.key(3)
    loss, metrics = regularised.free_bits(*PARTS, nats=0.0)(PARAMS, key, X)
    assert float(loss) == pytest.approx(-float(metrics["bound"]), abs=1e-5)
    found = repeated(regularised.free_bits(*PARTS, nats=0.0))
    model = vae(*PARTS)
    bound = jax.vmap(lambda k: model.log_prob(PARAMS, k, X).mean())(jax.random.split(key, 4000))
    assert abs(found["bound"][0] - bound.mean()) < 5 * (found["bound"][1] + bound.std() / np.sqrt(4000))


def test_free_bits_stop_the_gradient_of_a_unit_below():
    """Without the data term (W = 0) the second unit's log_std feels nothing, the first's that of its KL."""
    parts = PARTS._replace(
        decoder=density.conditional(
            density.Net(lambda key: {}, lambda params, z: jnp.zeros((*z.shape[:-1], 3, 1))),
            density.fixed_normal(1.0),
            (3,),
        )
    )
    objective = regularised.free_bits(*parts, nats=0.5)
    gradient = jax.grad(lambda p: objective(p, jax.random.key(0), X)[0])(PARAMS)["posterior"]["log_std"]
    np.testing.assert_allclose(gradient, [np.exp(2 * LOG_STD[0]) - 1, 0], atol=1e-6)


def inverse_multiquadratic_mmd(mean_x, covariance_x, scale):
    """Squared MMD of N(mean, covariance) and N(0, I) under C / (C + r^2), a mixture of Gaussian kernels, by quadrature.

    C / (C + r^2) = integral of C e^(-t (C + r^2)) over t > 0, and E e^(-t |d|^2) of a Gaussian d is closed.
    """
    identity = np.eye(len(mean_x))

    def mean_kernel(mean, covariance):
        def integrand(t):
            shrunk = identity + 2 * t * covariance
            square = mean @ np.linalg.solve(shrunk, mean)
            return scale * np.exp(-t * (scale + square)) / np.sqrt(np.linalg.det(shrunk))

        return scipy.integrate.quad(integrand, 0, np.inf)[0]

    same = mean_kernel(0 * mean_x, 2 * covariance_x) + mean_kernel(0 * mean_x, 2 * identity)
    return same - 2 * mean_kernel(mean_x, covariance_x + identity)


def test_info_equals_closed_forms():
    """New Gaussian data for each key: q(z) = N(A m, A A^T + S) exactly, and the batch's MMD is unbiased for its closed form.

    The scale of the kernel is twice the dimension of the latent space.
    """
    objective = regularised.info(*PARTS, kl_weight=0.3, mmd_weight=5.0)
    shift = jnp.array([1.0, 0.0, 0.5])

    def one(key):
        key_x, key = jax.random.split(key)
        loss, metrics = objective(PARAMS, key, shift + jax.random.normal(key_x, (8, 3)))
        expected = 0.3 * metrics["kl"] + 5.0 * metrics["mmd"] - metrics["reconstruction"]
        return {**metrics, "difference": loss - expected}

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 20_000))
    a = np.asarray(PARAMS["posterior"]["a"])
    covariance = a @ a.T + np.diag(np.exp(2 * LOG_STD))
    truth = inverse_multiquadratic_mmd(a @ np.asarray(shift), covariance, 4.0)
    error = found["mmd"].std() / np.sqrt(20_000)
    assert abs(found["mmd"].mean() - truth) < 5 * error and error < 0.05 * truth
    assert (found["mmd"] < 0).any()  # the U-statistic is not clamped
    assert np.abs(found["difference"]).max() < 1e-4


def test_info_reports_the_elbo_and_is_chosen_by_its_own_loss():
    found = repeated(regularised.info(*PARTS, kl_weight=0.0, mmd_weight=0.0))
    assert near(found["kl"], unit_kl().sum()) and near(found["reconstruction"], expected_log_lik())
    assert near(found["loss"], -expected_log_lik())  # what is left without either weight
    assert near(found["elbo"], expected_log_lik() - unit_kl().sum())
    values = validation.validator(regularised.info(*PARTS, kl_weight=0.0, mmd_weight=5.0), np.asarray(X))(
        PARAMS
    )
    assert values["score"] == values["loss"] and "bound" not in values


def test_total_correlation_of_the_whole_set_equals_quadrature():
    objective = regularised.total_correlation(*PARTS, beta=4.0, examples=len(X))
    found = repeated(objective, 20_000)
    truth = quadrature_terms(MEAN, np.broadcast_to(LOG_STD, MEAN.shape))
    names = ("mutual_information", "total_correlation", "dimension_wise_kl")
    for name, value in zip(names, truth, strict=True):
        assert near(found[name], value), name
    assert truth[1] > 20 * found["total_correlation"][1]
    assert near(found["kl"], unit_kl().sum())
    assert near(found["loss"], unit_kl().sum() + 3 * truth[1] - expected_log_lik())
    assert near(found["bound"], expected_log_lik() - unit_kl().sum())


def test_total_correlation_counts_the_training_examples():
    """The same draw under other weights; beta weighs nothing but the total correlation, and one beta is the ELBO."""
    key = jax.random.key(5)
    values = {}
    for beta, examples in ((1.0, 8), (1.0, 1000), (6.0, 1000)):
        values[beta, examples] = regularised.total_correlation(*PARTS, beta=beta, examples=examples)(
            PARAMS, key, X
        )
    loss, metrics = values[6.0, 1000]
    assert float(loss) == pytest.approx(float(5 * metrics["total_correlation"] - metrics["bound"]), abs=1e-4)
    assert float(values[1.0, 1000][0]) == pytest.approx(-float(metrics["bound"]), abs=1e-4)
    assert float(values[1.0, 8][1]["bound"]) == pytest.approx(float(metrics["bound"]), abs=1e-4)
    z_mean = jnp.asarray(MEAN)
    weights = correlation.stratified_log_weights(8, 1000)
    key_z, _ = jax.random.split(key)
    z = z_mean + jnp.exp(LOG_STD) * jax.random.normal(key_z, z_mean.shape)
    terms = correlation.total_correlation_terms(
        z, z_mean, jnp.broadcast_to(LOG_STD, z_mean.shape), jnp.zeros(8), weights
    )
    assert float(terms.total_correlation.mean()) == pytest.approx(
        float(metrics["total_correlation"]), abs=1e-5
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda parts: regularised.free_bits(*parts, nats=0.1),
        lambda parts: regularised.info(*parts, kl_weight=0.5, mmd_weight=10.0),
        lambda parts: regularised.total_correlation(*parts, beta=6.0, examples=100),
    ],
)
def test_gradients_of_networks_are_finite(make):
    parts = small_parts()
    params = Parts(*parts).init(jax.random.key(0))
    x = (jax.random.uniform(jax.random.key(1), (10, 4)) < 0.5).astype(jnp.float32)
    gradient = jax.jit(jax.grad(lambda p: make(parts)(p, jax.random.key(2), x)[0]))(params)
    leaves = jax.tree.leaves(gradient)
    assert all(np.isfinite(g).all() for g in leaves) and any(np.abs(g).max() > 0 for g in leaves)


def test_impossible_objectives_are_refused():
    prior, posterior, decoder = PARTS
    full = exact_posterior(None)
    for make in (
        lambda q, p: regularised.free_bits(p, q, decoder, nats=0.1),
        lambda q, p: regularised.total_correlation(p, q, decoder, beta=2.0, examples=8),
    ):
        with pytest.raises(ValueError, match="needs a diagonal Gaussian posterior"):
            make(full, prior)
        with pytest.raises(ValueError, match="needs a diagonal Gaussian prior"):
            make(posterior, prior._replace(normal=None))
    with pytest.raises(ValueError, match="at least 0 nats, got -1"):
        regularised.free_bits(*PARTS, nats=-1)
    with pytest.raises(ValueError, match=r"at least 0, got 1\.0 and -2\.0"):
        regularised.info(*PARTS, kl_weight=1.0, mmd_weight=-2.0)
    with pytest.raises(ValueError, match="carry no gradient"):
        regularised.info(
            prior, posterior._replace(reparameterised=False), decoder, kl_weight=1.0, mmd_weight=1.0
        )
    objective = regularised.total_correlation(*PARTS, beta=2.0, examples=8)
    with pytest.raises(ValueError, match="use a VAE without a context"):
        objective(PARAMS, jax.random.key(0), (X, X))
    with pytest.raises(ValueError, match=r"2 <= batch <= examples, got 1 and 8"):
        objective(PARAMS, jax.random.key(0), X[:1])
