"""The main losses eager, jitted, on arrays of the device and of the host, and under pmap: one value, by NumPy in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
from absl import flags
from absl.testing import parameterized

from dlvm_jax.functional import adversarial, bounds, densities, divergences, mixtures, total_correlation
from dlvm_jax.functional.diffusion import objectives, schedules, score_matching, variational
from dlvm_jax.functional.flows import circle, image, linear, orthogonal, planar, radial, spline

RNG = np.random.RandomState(0)
A, B, C, D = (np.float32(v) for v in RNG.randn(4, 5, 3))
U, V, W = (np.float32(v) for v in RNG.randn(3, 3))
BITS, GREY = np.float32(RNG.rand(5, 3) < 0.5), np.float32(RNG.rand(5, 3))
MATRIX = np.float32(np.eye(3) + 0.3 * RNG.randn(3, 3))
EDM, TIMES = schedules.edm(), np.float32([0.3, 1.0, 2.0, 4.0, 30.0])
normal = scipy.stats.norm.logpdf


def sigmoid_log(x):
    return -np.logaddexp(0, -np.float64(x))


def softmax_log(x):
    return x - scipy.special.logsumexp(x, axis=-1, keepdims=True)


def kl(mean_q, log_std_q, mean_p, log_std_p):
    ratio = (np.exp(2.0 * log_std_q) + (mean_q - mean_p) ** 2) / (2 * np.exp(2.0 * log_std_p))
    return (log_std_p - log_std_q + ratio - 0.5).sum(-1)


def kl_bernoulli(q, p):
    sides = ((sign * q, sign * p) for sign in (1, -1))
    return sum(np.exp(sigmoid_log(q)) * (sigmoid_log(q) - sigmoid_log(p)) for q, p in sides).sum(-1)


def mmd(x, y):
    kernel = lambda a, b: np.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(-1))
    within = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
    return within(kernel(x, x)) + within(kernel(y, y)) - 2 * kernel(x, y).mean()


def continuous_bound(x0):
    """Of a network that says zero, whose error does not depend on the noise."""
    zero = lambda x, *_: jnp.zeros_like(x)
    none = lambda x: jnp.zeros(len(x))
    return variational.continuous_bound(jax.random.key(0), EDM, zero, none, x0, TIMES).bound


def zero_bound(x0):
    square = (np.float64(x0) ** 2).sum(-1)
    return -(80 - 0.002) * square / TIMES**3 - square / (2 * 80**2)


def identity_spline(z):
    knots = spline.spline_knots(jnp.zeros(4), jnp.zeros(4), jnp.zeros(5), -1.0, 1.0)
    return spline.rational_quadratic(z, knots)


def moebius_slope(theta, w):
    return (1 - (w**2).sum()) / ((np.cos(theta) - w[0]) ** 2 + (np.sin(theta) - w[1]) ** 2)


# A function of arrays, the arrays, and what NumPy makes of them.
LOSSES = {
    "elbo": (lambda l, k: bounds.elbo(l, k, 4.0), (A, V), A.mean(0) - 4 * V),
    "elbo_sampled": (bounds.elbo_sampled, (A, B, C), (A + B - C).mean(0)),
    "importance_weighted": (bounds.importance_weighted, (A,), np.log(np.exp(A).mean(0))),
    "renyi": (lambda w: bounds.renyi(w, 0.5), (A,), 2 * np.log(np.exp(A / 2).mean(0))),
    "dreg": (lambda z: bounds.dreg(lambda z: -z.sum(-1), z), (A,), np.log(np.exp(-A.sum(-1)).mean())),
    "evidence": (
        lambda w: bounds.evidence(w).effective_sample_size,
        (A,),
        np.exp(A).sum(0) ** 2 / np.exp(2 * A).sum(0),
    ),
    "kl_normal": (divergences.kl_normal, (A, B, C, D), kl(A, B, C, D)),
    "kl_standard_normal": (divergences.kl_standard_normal, (A, B), kl(A, B, 0, 0)),
    "kl_bernoulli": (divergences.kl_bernoulli, (A, B), kl_bernoulli(A, B)),
    "kl_categorical": (
        lambda q, p: divergences.kl_categorical(q, p, 0),
        (A, B),
        (np.exp(softmax_log(A)) * (softmax_log(A) - softmax_log(B))).sum(-1),
    ),
    "mmd": (
        lambda x, y: divergences.mmd(x, y, lambda a, b: divergences.rbf_kernel(a, b, 1.0)),
        (A, B),
        mmd(A, B),
    ),
    "normal_log_prob": (densities.normal_log_prob, (A, B, C), normal(A, B, np.exp(C)).sum(-1)),
    "bernoulli_log_prob": (
        densities.bernoulli_log_prob,
        (BITS, A),
        (BITS * sigmoid_log(A) + (1 - BITS) * sigmoid_log(-A)).sum(-1),
    ),
    "mixture": (
        mixtures.normal_mixture_log_prob,
        (A, B, C),
        scipy.special.logsumexp(normal(A[:, None], B, np.exp(C)).sum(-1), axis=-1) - np.log(5),
    ),
    "total_correlation": (
        lambda s: total_correlation.gaussian_total_correlation(s @ s.T),
        (MATRIX,),
        0.5 * np.log(np.diag(MATRIX @ MATRIX.T)).sum() - np.linalg.slogdet(MATRIX)[1],
    ),
    "discriminator": (
        adversarial.discriminator_loss,
        (U, V),
        -sigmoid_log(U).mean() - sigmoid_log(-V).mean(),
    ),
    "denoising_loss": (
        lambda eps, x0, x_t, t: objectives.denoising_loss(
            EDM, "epsilon", eps, x0, x_t, t, objectives.weight("epsilon", EDM, t)
        ),
        (A, B, C, TIMES),
        (((C - B) / TIMES[:, None] - A) ** 2).sum(-1),
    ),
    "score_matching": (
        lambda x: score_matching.implicit_score_matching(lambda x: -x, x),
        (A,),
        0.5 * (A**2).sum(-1) - 3,
    ),
    "continuous_bound": (continuous_bound, (A,), zero_bound(A)),
    "planar": (
        lambda *p: planar.planar(*p, 0.2)[1],
        (A, V, 0.1 * W),
        np.log(1 + 0.1 * V @ W * (1 - np.tanh(A @ V + 0.2) ** 2)),
    ),
    "radial": (
        lambda z, centre: radial.radial(z, centre, 1.0, 2.0)[0],
        (A, V),
        A + 2 / (1 + np.linalg.norm(A - V, axis=-1, keepdims=True)) * (A - V),
    ),
    "householder": (lambda *p: orthogonal.householder(*p)[0], (A, V), A - 2 * np.outer(A @ V, V) / (V @ V)),
    "affine": (lambda *p: linear.affine(*p)[1], (A, B, C), C.sum(-1)),
    "lu_linear": (
        lambda z, m: linear.lu_linear(z, linear.lu_from_matrix(m))[1],
        (A, MATRIX),
        np.full(5, np.linalg.slogdet(MATRIX)[1]),
    ),
    "spline": (lambda z: identity_spline(z)[0], (A,), A),
    "moebius": (
        lambda *p: circle.moebius(*p)[1],
        (A, np.float32([0.3, -0.5])),
        np.log(moebius_slope(A, np.array([0.3, -0.5]))),
    ),
    "logit": (
        lambda x: image.logit(x, 0.05, 1)[1],
        (GREY,),
        np.log(0.9 / ((0.05 + 0.9 * GREY) * (0.95 - 0.9 * GREY))).sum(-1),
    ),
}


class Variants(chex.TestCase):
    """Every loss in five ways.  pmap runs here on the one device of the tests; on eight in test_layers.py."""

    def setUp(self):
        super().setUp()
        flags.FLAGS["chex_skip_pmap_variant_if_single_device"].value = False

    @chex.all_variants
    @parameterized.named_parameters((name, name) for name in LOSSES)
    def test_value(self, name):
        """Sums of a few terms of size ten in float32: a relative 1e-5, twenty units in the last place of a term."""
        function, arrays, expected = LOSSES[name]
        value = self.variant(function)(*arrays)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
