"""Flows on the sphere: log-determinants against autodiff, round trips, integrals, samples against densities; the reverse KL."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dlvm_jax.exact.energies import ENERGIES
from dlvm_jax.functional import divergences
from dlvm_jax.models import density, flows, objectives, scalars, sphere_flows
from dlvm_jax.models.curved import uniform_sphere
from tests.models.test_flows import moved


def _recursive():
    """Its network keeps the precision of its parameters; those of the library compute in float32."""
    angle = scalars.moebius(3)
    net = density.Net(
        lambda key: {"in": jnp.zeros(8), "out": jnp.zeros((8, angle.width))},
        lambda params, height: jnp.tanh(height * params["in"]) @ params["out"],
    )
    return sphere_flows.recursive(scalars.interval_spline(4), angle, net)


FLOWS = {
    "recursive": _recursive,
    "exponential": lambda: sphere_flows.exponential(3),
    "repeated exponential": lambda: flows.repeated(sphere_flows.exponential(2), 2),
}


def _tangents(x):
    """Two orthonormal tangents of the sphere at x, the columns of [3, 2]."""
    return np.linalg.svd(np.asarray(x)[None])[2][1:].T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FLOWS)
def test_bijection_of_the_sphere(name):
    """Log-determinant against that of the autodiff Jacobian between tangent planes; round trip; a batch is row by row."""
    flow = FLOWS[name]()
    params = moved(flow.init)
    z = np.random.RandomState(1).randn(2, 3, 3)
    z = jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True))
    x, log_det = jax.jit(flow.forward)(params, z)
    back, log_det_back = jax.jit(flow.inverse)(params, x)
    np.testing.assert_allclose(jnp.linalg.norm(x, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(back, z, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-9)
    one = z[1, 2]
    jacobian = np.asarray(jax.jit(jax.jacfwd(lambda z: flow.forward(params, z)[0]))(one))
    between = _tangents(x[1, 2]).T @ jacobian @ _tangents(one)
    np.testing.assert_allclose(log_det[1, 2], np.linalg.slogdet(between)[1], atol=1e-9)
    np.testing.assert_allclose(flow.forward(params, one)[0], x[1, 2], atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_density_on_the_sphere(name):
    """Integral one over height and longitude, and samples in cells of equal area as the density says (chi-square).

    The test of the samples has a false-alarm rate of 1e-4.
    """
    dens = flows.transformed(uniform_sphere(3), FLOWS[name]())
    params = moved(dens.init, scale=0.3)
    log_prob = jax.jit(lambda x: dens.log_prob(params, None, x))
    cells, fine = 8, 12
    middle = (np.arange(cells * fine) + 0.5) / (cells * fine)
    height, angle = np.meshgrid(2 * middle - 1, 2 * np.pi * middle - np.pi, indexing="ij")
    radius = np.sqrt(1 - height**2)
    grid = np.float32(np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1))
    mass = np.exp(np.asarray(log_prob(grid), np.float64)) * 4 * np.pi / middle.size**2
    assert (
        abs(mass.sum() - 1) < 2e-3
    )  # the midpoint rule errs by h^2; the spline is smooth to first order only
    x, stated = jax.jit(lambda key: dens.sample(params, key, shape=(10_000,)))(jax.random.key(5))
    np.testing.assert_allclose(stated, log_prob(x), atol=5e-3)
    x = np.asarray(x)
    found, _, _ = np.histogram2d(
        x[:, 2], np.arctan2(x[:, 1], x[:, 0]), bins=cells, range=[[-1, 1], [-np.pi, np.pi]]
    )
    expected = 10_000 * mass.reshape(cells, fine, cells, fine).sum((1, 3)) / mass.sum()
    kept = expected > 5
    chi = ((found - expected) ** 2 / expected)[kept].sum()
    assert chi < scipy.stats.chi2(kept.sum() - 1).ppf(1 - 1e-4)


def test_exponential_flow_needs_a_component():
    with pytest.raises(ValueError, match="at least one component, got 0"):
        sphere_flows.exponential(0)


def test_an_exponential_flow_starts_with_equal_strengths_and_widths_between_1_and_6():
    """Of 200 widths the least and the largest are within .2 of the ends; false alarms 6e-4 over seeds."""
    params = sphere_flows.exponential(200).init(jax.random.key(0))
    beta = jax.nn.softplus(params["beta"])
    assert 1 <= beta.min() < 1.2 and 5.8 < beta.max() < 6
    assert (params["alpha"] == 0).all() and params["centres"].shape == (200, 3)


def test_strengths_stay_invertible_whatever_the_raw_parameters():
    """Points of a meridian keep their order around the one centre, however far the raw parameters run."""
    flow = sphere_flows.exponential(1)
    params = {"centres": jnp.array([[0.0, 0.0, 1.0]]), "alpha": jnp.array([50.0]), "beta": jnp.array([-50.0])}
    angle = jnp.linspace(0.01, 3.13, 100)
    x, log_det = jax.jit(flow.forward)(params, jnp.stack([jnp.sin(angle), 0 * angle, jnp.cos(angle)], -1))
    assert (np.diff(np.arctan2(x[:, 0], x[:, 2])) > 0).all() and (x[:, 0] > 0).all()
    assert np.isfinite(log_det).all()


def test_spline_of_an_interval_keeps_its_ends_and_has_slopes_there():
    spline = scalars.interval_spline(3)
    ends, raw_params = jnp.array([-1.0, 1.0]), jnp.linspace(-1.0, 1.5, spline.width)
    x, log_det = spline.forward({}, ends, jnp.broadcast_to(raw_params, (2, spline.width)))
    np.testing.assert_array_equal(x, ends)
    assert (jnp.abs(log_det) > 0.1).all()
    x, log_det = spline.forward({}, 0.3 * ends, jnp.zeros((2, spline.width)))
    np.testing.assert_allclose(x, 0.3 * ends, atol=1e-6)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-6)


def test_reverse_kl_is_the_divergence_up_to_log_z():
    """Value against the closed form for Gaussians; false alarms 6e-5.  The weight beta multiplies the target alone."""
    dens = flows.transformed(density.standard_normal(1), flows.actnorm(1))
    params = moved(dens.init)
    mean = -params["flow"]["shift"] * jnp.exp(-params["flow"]["log_scale"])  # x = (z - shift) / e^log_scale
    target = lambda x: 7 - 0.5 * jnp.square(x[..., 0] - 1)  # N(1, 1), log Z = 7 + log sqrt(2 pi)
    rows, key = jnp.zeros((50_000, 1)), jax.random.key(1)
    loss, metrics = objectives.reverse_kl(dens, target)(params, key, rows)
    exact = divergences.kl_normal(mean, -params["flow"]["log_scale"], jnp.ones(1), jnp.zeros(1))
    x, log_q = dens.sample(params, key, shape=(50_000,))
    error = np.std(np.asarray(log_q - target(x))) / math.sqrt(50_000)
    assert abs(loss - (exact - 7 - 0.5 * math.log(2 * math.pi))) < 4 * error
    half, halved = objectives.reverse_kl(dens, target, 0.5)(params, key, rows)
    none = log_q.mean()
    assert loss == metrics["reverse_kl"] == halved["reverse_kl"]
    np.testing.assert_allclose(half, (loss + none) / 2, rtol=1e-5)


def test_reverse_kl_needs_an_exact_density_with_gradients():
    normal = density.standard_normal(2)
    with pytest.raises(ValueError, match="the reverse KL needs a density of kind exact, got kind 'weight'"):
        objectives.reverse_kl(normal._replace(kind="weight"), ENERGIES["U1"].log_density)
    with pytest.raises(ValueError, match="samples that carry gradients"):
        objectives.reverse_kl(normal._replace(reparameterised=False), ENERGIES["U1"].log_density)


@pytest.mark.parametrize("beta", [0.5, 6.0])
def test_an_exponential_flow_is_injective_at_the_end_of_its_range(beta):
    """All strength in potentials of one centre: points around it come nearer and do not cross, so the angle increases."""
    flow = sphere_flows.exponential(3)
    north = jnp.array([0.0, 0.0, 1.0])
    params = {
        "centres": jnp.broadcast_to(north, (3, 3)),
        "alpha": jnp.full(3, 50.0),
        "beta": jnp.full(3, jnp.log(jnp.expm1(beta))),
    }
    angle = jnp.concatenate([jnp.linspace(0.02, 0.2, 20), jnp.linspace(0.25, 3.1, 30)])
    x = jnp.stack([jnp.sin(angle), jnp.zeros_like(angle), jnp.cos(angle)], axis=-1)
    y, log_det = jax.jit(flow.forward)(params, x)
    moved = jnp.arctan2(y[:, 0], y[:, 2])  # negative on the other side of the centre
    assert (moved > 0).all() and (jnp.diff(moved) > 0).all()
    np.testing.assert_allclose(moved[0] / angle[0], 0.01, atol=0.001 + 0.2 * angle[0] ** 2 * (1 + 3 * beta))
    assert np.isfinite(log_det).all()
