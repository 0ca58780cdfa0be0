"""Autoencoders whose optimum is known: principal components, soft thresholds, Tweedie's posterior mean."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from dlvm_jax import nets
from dlvm_jax.functional import autoencoding
from dlvm_jax.models import autoencoder, density

RNG = np.random.RandomState(0)


def no_parameters(apply):
    return density.Net(lambda key: {}, lambda params, x: apply(x))


def linear(rows, columns):
    """A matrix as a `Net`."""
    return density.Net(lambda key: 0.5 * jax.random.normal(key, (rows, columns)), lambda w, x: x @ w)


def minimise(objective, params):
    """L-BFGS to convergence in float64; returns (params, loss)."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    value = jax.jit(jax.value_and_grad(lambda p: objective(unravel(p))[0]))
    found = scipy.optimize.minimize(
        lambda p: tuple(np.asarray(v, np.float64) for v in value(p)),
        flat,
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000},
    )
    return unravel(jnp.asarray(found.x)), found.fun


def images(n=6):
    return jnp.asarray(np.random.RandomState(1).rand(n, 4, 4, 1), jnp.float32)


def small(latent=3):
    encoder = density.from_linen(nets.MLP((8,), (latent,), 3), (1, 4, 4, 1))
    decoder = density.from_linen(nets.MLP((8,), (4, 4, 1)), (1, latent))
    return autoencoder.autoencoder(encoder, decoder, 3)


def test_linear_autoencoder_reaches_principal_components(x64):
    """Error of PCA, the sum of the eigenvalues left out, and its subspace; L-BFGS stops at a gradient of 1e-10."""
    x = RNG.randn(60, 6) @ np.diag([3, 2, 1.5, 1, 0.7, 0.5]) @ np.linalg.qr(RNG.randn(6, 6))[0]
    x -= x.mean(0)
    model = autoencoder.autoencoder(linear(6, 2), linear(2, 6))
    objective = autoencoder.reconstruction(model)
    params, loss = minimise(lambda p: objective(p, None, x), model.init(jax.random.key(0)))
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    assert loss == pytest.approx(values[:4].sum(), abs=1e-9)
    best = x @ axes[:, 4:] @ axes[:, 4:].T
    np.testing.assert_allclose(model.decode(params, model.encode(params, x)), best, atol=1e-4)


def test_tied_linear_sparse_autoencoder_has_the_soft_threshold_solution(x64):
    """E(x) = a W'x, D(z) = W z, W orthonormal: the gains separate, a_j = S(1) at lambda E|c_j| / (2 E c_j^2), c = W'x."""
    w = np.linalg.qr(RNG.randn(6, 4))[0]
    x = RNG.randn(50, 6) * np.array([2, 1.5, 1, 0.8, 0.6, 0.4])
    weight = 0.9
    gains = density.Net(lambda key: jnp.full(4, 0.5), lambda a, x: a * (x @ w))
    model = autoencoder.autoencoder(gains, no_parameters(lambda z: z @ w.T))
    objective = autoencoder.reconstruction(
        model, penalty=lambda encode, x: autoencoding.sparse_penalty(encode(x)), weight=weight
    )
    params, _ = minimise(lambda p: objective(p, None, x), model.init(jax.random.key(0)))
    c = x @ w
    threshold = weight * np.abs(c).mean(0) / (2 * np.square(c).mean(0))
    expected = autoencoding.soft_threshold(1.0, threshold)
    assert (expected > 0.1).all() and (expected < 0.9).all()
    np.testing.assert_allclose(params["encoder"], expected, atol=1e-7)


def test_free_codes_under_a_fixed_orthonormal_decoder_approach_the_sparse_code(x64):
    """An encoder that is a free table of codes, trained by the objective, against the closed form.

    A subgradient at a kink that holds the minimum is below 2 lambda, so descent with step s rattles within 2 s lambda =
    1.8e-4 of it; it converges geometrically elsewhere.
    """
    w = np.linalg.qr(RNG.randn(6, 4))[0]
    x = RNG.randn(10, 6)
    table = density.Net(lambda key: jnp.zeros((10, 4)), lambda z, x: z)
    model = autoencoder.autoencoder(table, no_parameters(lambda z: z @ w.T))
    objective = autoencoder.reconstruction(
        model, penalty=lambda encode, x: autoencoding.sparse_penalty(encode(x)), weight=0.9
    )
    gradient = jax.grad(lambda p: 10 * objective(p, None, x)[0])

    def descend(z, _):
        return z - 1e-4 * gradient({"encoder": z, "decoder": {}})["encoder"], None

    codes, _ = jax.lax.scan(descend, jnp.zeros((10, 4)), length=100_000)
    expected = autoencoding.sparse_code(x, w, 0.9)
    assert (expected == 0).any() and (expected != 0).any()
    np.testing.assert_allclose(codes, expected, atol=1.8e-4)


WEIGHTS, MEANS, STDS, NOISE = (
    np.array([0.3, 0.5, 0.2]),
    np.array([-2.0, 0.5, 2.5]),
    np.array([0.3, 0.6, 0.2]),
    0.7,
)


def log_marginal(y):
    """log p_s(y) of the mixture under Gaussian noise."""
    variance = STDS**2 + NOISE**2
    terms = jnp.log(WEIGHTS) - 0.5 * jnp.square(y[..., None] - MEANS) / variance - 0.5 * jnp.log(variance)
    return jax.nn.logsumexp(terms - 0.5 * np.log(2 * np.pi), axis=-1)


def posterior_mean(y):
    """E[x | y] by responsibilities, without the score."""
    variance = STDS**2 + NOISE**2
    log_r = jnp.log(WEIGHTS) - 0.5 * jnp.square(y[..., None] - MEANS) / variance - 0.5 * jnp.log(variance)
    each = (MEANS * NOISE**2 + y[..., None] * STDS**2) / variance
    return jnp.sum(jax.nn.softmax(log_r) * each, axis=-1)


def tweedie(y):
    return y + NOISE**2 * jax.vmap(jax.grad(lambda y: log_marginal(y[None])[0]))(y)


def test_the_oracle_of_denoising_is_itself_right(x64):
    y = jnp.linspace(-5, 5, 41)
    np.testing.assert_allclose(tweedie(y), posterior_mean(y), rtol=1e-11, atol=1e-12)


def mixture_draws(n):
    rng = np.random.RandomState(2)
    component = rng.choice(3, n, p=WEIGHTS)
    return MEANS[component] + STDS[component] * rng.randn(n)


def corrupt(key, x):
    return autoencoding.gaussian_corruption(key, x, NOISE)


def bumps(y):
    """Twenty directions in which a denoiser can be wrong: Gaussian bumps along the line."""
    return jnp.exp(-2 * jnp.square(y - jnp.linspace(-4, 4, 20)))


def test_denoising_loss_is_stationary_at_tweedie_and_nowhere_else(x64):
    """D(z) = r(z) + sum_j t_j h_j(z): at t = 0 the gradient is a mean of independent terms.

    200,000 draws in 100 batches: each of 20 standardised gradients below 4.5, false alarm 20 x 7e-6 (Gaussian; 100 batches
    make the estimated standard error right to 7 per cent).  The same with r the identity is off by tens of them.
    """
    x = mixture_draws(200_000).reshape(100, 2000, 1)
    keys = jax.random.split(jax.random.key(0), 100)

    def standardised(r):
        decoder = density.Net(
            lambda key: jnp.zeros(20), lambda t, z: r(z[..., 0])[..., None] + (bumps(z) @ t)[..., None]
        )
        model = autoencoder.autoencoder(no_parameters(lambda x: x), decoder)
        objective = autoencoder.reconstruction(model, corrupt=corrupt)
        gradient = jax.jit(jax.grad(lambda p, key, x: objective(p, key, x)[0]))
        params = model.init(jax.random.key(1))
        each = np.stack([gradient(params, k, b)["decoder"] for k, b in zip(keys, x, strict=True)])
        return np.abs(each.mean(0)) / (each.std(0, ddof=1) / 10)

    assert standardised(tweedie).max() < 4.5
    assert standardised(lambda y: y).max() > 30


@pytest.mark.slow
def test_trained_denoiser_approaches_tweedie(x64):
    """The best denoiser in the span of bumps and a line: the objective is quadratic there, one Newton step minimises it.

    Of 100,000 draws the coefficients are right to about sqrt(20 * 0.4 / 100,000) = .01 where there are data, and the span
    itself to .02.
    """
    x = mixture_draws(100_000)[:, None]
    features = lambda y: jnp.concatenate([bumps(y), y, jnp.ones_like(y)], axis=-1)
    decoder = density.Net(lambda key: jnp.zeros(22), lambda t, z: (features(z) @ t)[..., None])
    model = autoencoder.autoencoder(no_parameters(lambda x: x), decoder)
    objective = autoencoder.reconstruction(model, corrupt=corrupt)

    def loss(t):
        return objective({"encoder": {}, "decoder": t}, jax.random.key(0), x)[0]

    start = jnp.zeros(22)
    best = start - jnp.linalg.solve(jax.hessian(loss)(start), jax.grad(loss)(start))
    params = {"encoder": {}, "decoder": best}
    y = jnp.linspace(-3, 3.5, 50)[:, None]
    np.testing.assert_allclose(model.decode(params, y)[:, 0], posterior_mean(y[:, 0]), atol=0.05)
    exact = jnp.square(posterior_mean(corrupt(jax.random.key(0), x)[:, 0]) - x[:, 0]).mean()
    assert float(loss(best)) == pytest.approx(float(exact), abs=2e-3)


def test_objective_is_a_mean_of_both_terms_over_examples():
    model, x = small(), images()
    params = model.init(jax.random.key(0))
    error = autoencoding.squared_error(x, model.decode(params, model.encode(params, x)), 3)
    sparse = autoencoder.reconstruction(
        model, penalty=lambda encode, x: autoencoding.sparse_penalty(encode(x)), weight=0.3
    )
    loss, metrics = sparse(params, None, x)
    l1 = jnp.abs(model.encode(params, x)).sum(-1)
    assert float(loss) == pytest.approx(float((error + 0.3 * l1).mean()), rel=1e-5)
    assert float(metrics["squared_error"]) == pytest.approx(float(error.mean()), rel=1e-5)
    assert float(metrics["penalty"]) == pytest.approx(float(l1.mean()), rel=1e-5)
    twice = sparse(params, None, jnp.concatenate([x, x]))[0]
    assert float(twice) == pytest.approx(float(loss), rel=1e-5)


def test_penalty_and_target_see_the_right_images():
    """The encoder and the penalty see the corrupted images, the error is against the clean ones."""
    model = autoencoder.autoencoder(no_parameters(lambda x: x), no_parameters(lambda z: z))
    objective = autoencoder.reconstruction(
        model, corrupt=lambda key, x: x + 2, penalty=lambda encode, x: encode(x).sum(-1), weight=10.0
    )
    _, metrics = objective(model.init(jax.random.key(0)), None, jnp.ones((5, 3)))
    assert float(metrics["squared_error"]) == 12 and float(metrics["penalty"]) == 9


def test_dictionary_has_atoms_of_norm_one_whatever_its_parameters():
    net = autoencoder.dictionary(5, (4, 4, 1))
    params = net.init(jax.random.key(0))
    scaled = {**params, "atoms": 100 * params["atoms"]}
    atoms = net.apply(scaled, jnp.eye(5)).reshape(5, -1)
    np.testing.assert_allclose(jnp.linalg.norm(atoms, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(net.apply(params, jnp.eye(5)).reshape(5, -1), atoms, rtol=1e-4, atol=1e-6)
    assert net.apply(params, jnp.ones((2, 3, 5))).shape == (2, 3, 4, 4, 1)


def test_outlier_score_is_the_reconstruction_error():
    model, x = small(), images()
    params = model.init(jax.random.key(0))
    decoded = np.asarray(model.decode(params, model.encode(params, x)))
    expected = np.square(decoded - x).reshape(6, -1).sum(1)
    np.testing.assert_allclose(autoencoder.outlier_score(model, params, x), expected, rtol=1e-5)


def test_interpolation_is_a_straight_line_of_codes_with_both_ends():
    model, x = small(), images()
    params = model.init(jax.random.key(0))
    path = autoencoder.interpolate(model, params, x[:2], x[2:4], 5)
    assert path.shape == (5, 2, 4, 4, 1)
    z0, z1 = model.encode(params, x[:2]), model.encode(params, x[2:4])
    for i, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        np.testing.assert_allclose(path[i], model.decode(params, z0 + t * (z1 - z0)), atol=1e-5)
    with pytest.raises(ValueError, match="at least its 2 ends, got n=1"):
        autoencoder.interpolate(model, params, x[:2], x[2:4], 1)


def largest(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_classifier_gradient_reaches_the_encoder_only_when_fine_tuning():
    model, x, labels = small(), images(), jnp.array([0, 1, 2, 0, 1, 2])
    classifier = autoencoder.classifier(model, density.from_linen(nets.MLP((), (3,)), (1, 3)))
    params = classifier.init(jax.random.key(0))
    assert set(params) == {"encoder", "head"}, "the decoder is thrown away"
    gradients, values = {}, {}
    for fine_tune in (False, True):
        objective = autoencoder.classification(classifier, fine_tune)
        value = jax.value_and_grad(lambda p, objective=objective: objective(p, None, (x, labels))[0])
        values[fine_tune], gradients[fine_tune] = value(params)
    assert largest(gradients[False]["encoder"]) == 0
    assert all(largest(leaf) > 0 for leaf in jax.tree.leaves(gradients[True]["encoder"]))
    assert values[False] == values[True] and largest(gradients[False]["head"]) > 0
    for frozen, tuned in zip(
        jax.tree.leaves(gradients[False]["head"]), jax.tree.leaves(gradients[True]["head"]), strict=True
    ):
        np.testing.assert_array_equal(frozen, tuned)


def test_classifier_starts_from_the_autoencoders_encoder():
    model, x = small(), images()
    head = density.from_linen(nets.MLP((), (3,)), (1, 3))
    classifier = autoencoder.classifier(model, head)
    trained = model.init(jax.random.key(5))
    params = {**classifier.init(jax.random.key(0)), "encoder": trained["encoder"]}
    expected = head.apply(params["head"], model.encode(trained, x))
    np.testing.assert_array_equal(classifier.logits(params, x), expected)


def test_classification_loss_and_accuracy():
    logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
    identity = autoencoder.autoencoder(no_parameters(lambda x: x), no_parameters(lambda z: z))
    classifier = autoencoder.classifier(identity, no_parameters(lambda z: z))
    labels = jnp.array([0.0, 1.0, 2.0])  # validation hands all arrays over as floats
    loss, metrics = autoencoder.classification(classifier, True)(
        classifier.init(jax.random.key(0)), None, (logits, labels)
    )
    expected = np.mean(
        [np.log(1 + 2 * np.exp(-2)), np.log(1 + 2 * np.exp(-1)), 3 + np.log(1 + 2 * np.exp(-3))]
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(2 / 3)
