"""Divergences against Jacobians, score-matching losses against each other and the exact score, by quadrature and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from dlvm_jax.functional.diffusion import score_matching as sm
from tests.functional.common import central_difference, checks

pytestmark = pytest.mark.usefixtures("x64")

ATOMS, STD = jnp.array([-1.0, 0.4, 2.0]), 0.8  # data on three points, with noise


def nodes():
    """x_0 and eps with their weights; 60 Gauss-Hermite nodes are exact to rounding for the smooth models below."""
    z, w = np.polynomial.hermite_e.hermegauss(60)
    x0, eps = (grid.reshape(-1, 1) for grid in np.meshgrid(ATOMS, z, indexing="ij"))
    return jnp.asarray(x0), jnp.asarray(eps), np.tile(w / w.sum() / len(ATOMS), len(ATOMS))


def model(parameters):
    return lambda x: parameters[0] * x + parameters[1] * jnp.tanh(x) + parameters[2]


def field(x):
    """Mixes its event, with a Jacobian that is neither diagonal nor symmetric."""
    matrix = jnp.array([[1.0, 2.0, -0.5], [0.3, -1.0, 0.7], [0.2, 0.9, 0.4]])
    return jnp.sin(x @ matrix) + x * x[..., :1]


def probes(dim):
    return jnp.array(list(itertools.product([-1.0, 1.0], repeat=dim)))


@checks(sm.exact_divergence)
def test_exact_divergence_is_the_trace_of_the_jacobian():
    x = jnp.asarray(np.random.RandomState(0).randn(2, 4, 3))
    value, trace = sm.exact_divergence(field, x)
    expected = jax.vmap(jax.vmap(lambda row: jnp.trace(jax.jacfwd(field)(row))))(x)
    np.testing.assert_allclose(value, field(x))
    np.testing.assert_allclose(trace, expected, rtol=1e-12)
    _, whole = sm.exact_divergence(field, x, event_ndim=2)
    np.testing.assert_allclose(whole, expected.sum(1), rtol=1e-12)


@checks(sm.hutchinson_divergence)
def test_hutchinson_over_all_probes():
    """Mean and variance over the 2^D Rademacher probes, by enumeration: no chance in it."""
    x = jnp.array([0.3, -1.2, 0.8])
    values, estimates = jax.vmap(lambda v: sm.hutchinson_divergence(field, x, v))(probes(3))
    jacobian = jax.jacfwd(field)(x)
    symmetric = 0.5 * (jacobian + jacobian.T)
    np.testing.assert_allclose(values, jnp.broadcast_to(field(x), (8, 3)))
    np.testing.assert_allclose(estimates.mean(), jnp.trace(jacobian), rtol=1e-12)
    off = 2 * (jnp.square(symmetric).sum() - jnp.square(jnp.diag(symmetric)).sum())
    np.testing.assert_allclose(estimates.var(), off, rtol=1e-12)
    assert off > 0.1
    # Gaussian probes by quadrature: the estimate is a polynomial of degree 2, its square of degree 4
    z, w = np.polynomial.hermite_e.hermegauss(3)
    gaussian = jnp.asarray(np.stack(np.meshgrid(z, z, z), -1).reshape(-1, 3))
    weights = np.einsum("i,j,k->ijk", w, w, w).ravel() / (2 * np.pi) ** 1.5
    _, estimates = jax.vmap(lambda v: sm.hutchinson_divergence(field, x, v))(gaussian)
    variance = weights @ jnp.square(estimates) - (weights @ estimates) ** 2
    np.testing.assert_allclose(variance, 2 * jnp.square(symmetric).sum(), rtol=1e-10)


@checks(sm.implicit_score_matching)
def test_implicit_is_denoising_but_for_a_constant():
    x0, eps, weights = nodes()

    def losses(parameters):
        score = model(parameters)
        denoising = weights @ sm.denoising_score_matching(score, x0, eps, STD)
        implicit = weights @ sm.implicit_score_matching(score, x0 + STD * eps)
        return denoising, implicit

    constants = [
        np.subtract(*losses(np.array(c))) for c in ((0.0, 0.0, 0.0), (-0.7, 1.1, 0.2), (2.0, -3.0, 1.0))
    ]
    # the constant is half the mean square of the kernel's score, 1 / (2 sigma^2); quadrature is right to 1e-9 for tanh
    np.testing.assert_allclose(constants, 0.5 / STD**2, rtol=1e-8)


@checks(sm.sliced_score_matching)
def test_sliced_is_implicit_in_expectation_over_all_probes():
    score = lambda x: -field(x)
    x = jnp.array([0.3, -1.2, 0.8])
    each = jax.vmap(lambda v: sm.sliced_score_matching(score, x, v))(probes(3))
    np.testing.assert_allclose(each.mean(), sm.implicit_score_matching(score, x), rtol=1e-12)
    assert each.std() > 0.1


@checks(sm.denoising_score_matching)
def test_least_squares_gives_the_exact_score_of_a_gaussian():
    """The minimiser of denoising score matching over s(x) = A x + b, by its normal equations, and zero gradient there."""
    mean, covariance, std = jnp.array([0.5, -1.0]), jnp.array([[1.0, 0.6], [0.6, 0.9]]), 0.5
    z, w = np.polynomial.hermite_e.hermegauss(3)
    four = jnp.asarray(np.stack(np.meshgrid(z, z, z, z), -1).reshape(-1, 4))
    weights = jnp.asarray(np.einsum("i,j,k,l->ijkl", w, w, w, w).ravel() / (2 * np.pi) ** 2)
    x0, eps = mean + four[:, :2] @ jnp.linalg.cholesky(covariance).T, four[:, 2:]

    def loss(parameters):
        a, b = parameters
        return weights @ sm.denoising_score_matching(lambda x: x @ a.T + b, x0, eps, std)

    precision = jnp.linalg.inv(covariance + std**2 * jnp.eye(2))
    exact = (-precision, precision @ mean)
    for slope in jax.jit(jax.grad(loss))(exact):
        np.testing.assert_allclose(slope, 0, atol=1e-10)
    flat, unravel = ravel_pytree(jax.tree.map(jnp.zeros_like, exact))
    quadratic = lambda v: loss(unravel(v))
    hessian, slope = jax.jit(lambda v: (jax.hessian(quadratic)(v), jax.grad(quadratic)(v)))(flat)
    solved = unravel(-jnp.linalg.solve(hessian, slope))
    for got, wanted in zip(solved, exact, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", ["denoising", "implicit", "sliced"])
def test_gradient_against_central_differences(kind):
    x = jnp.array([[0.3, -1.2], [0.1, 0.9]])
    extra = {
        "denoising": lambda s: sm.denoising_score_matching(s, x, jnp.cos(x), 0.4),
        "implicit": lambda s: sm.implicit_score_matching(s, x),
        "sliced": lambda s: sm.sliced_score_matching(s, x, jnp.array([[1.0, -1.0], [1.0, 1.0]])),
    }
    loss = lambda parameters: extra[kind](model(parameters)).sum()
    at = jnp.array([-0.7, 1.1, 0.2])
    np.testing.assert_allclose(jax.grad(loss)(at), central_difference(loss, at), rtol=1e-7)
