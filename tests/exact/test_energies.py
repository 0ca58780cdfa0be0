"""Targets without data: normaliser, entropy and distance from the uniform law by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dlvm_jax.exact import energies
from tests.functional.common import checks, quadrature


def grid(domain):
    """Points and weights: trapezoids on circles, Gauss-Legendre elsewhere; the plane and the strip end where the density does."""
    circle = np.linspace(-np.pi, np.pi, 80, endpoint=False), np.full(80, 2 * np.pi / 80)
    first, second = {
        "torus": (circle, circle),
        "sphere": (quadrature(-1, 1, 60), circle),
        "plane": (quadrature(-8, 8, 200), quadrature(-8, 8, 200)),
        "strip": (quadrature(-4, 4, 120), quadrature(-10, 10, 250)),
        "box": (quadrature(-4, 4, 120), quadrature(-4, 4, 120)),
    }[domain]
    points = np.stack(np.meshgrid(first[0], second[0], indexing="ij"), -1).reshape(-1, 2)
    if domain == "sphere":
        height, angle = points.T
        radius = np.sqrt(1 - height**2)
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)
    return jnp.asarray(points), np.outer(first[1], second[1]).ravel()


def mass(energy, domain):
    points, weights = grid(domain)
    log_density = np.asarray(jax.jit(energy.log_density)(points))
    return log_density, weights, np.log(weights @ np.exp(log_density))


def test_targets_lie_where_their_centres_do(x64):
    """Their values, not only their constants, which a mirror image shares: by SciPy's von Mises and Fisher laws."""
    random = np.random.RandomState(0)
    theta, centres = (
        random.uniform(-np.pi, np.pi, (6, 2)),
        np.array([[0.21, 2.85], [1.89, 6.18], [3.77, 1.56]]),
    )
    laws = scipy.stats.vonmises(1.0, loc=centres).logpdf(theta[:, None]).sum(-1)
    expected = (
        scipy.special.logsumexp(laws, axis=-1) - np.log(3) + 2 * np.log(2 * np.pi * scipy.special.iv(0, 1))
    )
    target = energies.ENERGIES["torus multimodal"].log_density
    np.testing.assert_allclose(target(theta), expected, rtol=1e-9)
    one = scipy.stats.vonmises(1.0, loc=[4.18, 5.96]).logpdf(theta).sum(-1) + 2 * np.log(
        2 * np.pi * scipy.special.iv(0, 1)
    )
    np.testing.assert_allclose(energies.ENERGIES["torus unimodal"].log_density(theta), one, rtol=1e-9)
    np.testing.assert_allclose(energies.torus_correlated(theta), np.cos(theta.sum(-1) - 1.94), rtol=1e-9)
    x = random.randn(6, 3)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    latitude, longitude = np.array([[0.7, -1.0, 0.6, -0.7], [1.5, 1.0, 5.0, 4.0]])
    centres = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], -1
    )
    laws = [scipy.stats.vonmises_fisher(centre, 10.0).logpdf(x) for centre in centres]
    expected = scipy.special.logsumexp(laws, axis=0) + np.log(4 * np.pi * np.sinh(10) / 10)
    np.testing.assert_allclose(energies.sphere_modes(x), expected, rtol=1e-9)


@checks(
    energies.torus_modes,
    energies.torus_correlated,
    energies.sphere_modes,
    energies.ring,
    energies.wave,
    energies.waves,
)
@pytest.mark.usefixtures("x64")
def test_log_partitions_are_right():
    """Closed forms to 1e-9, which is what the rules reach; and the figures known for them, to their printed digits."""
    known = {
        "torus unimodal": 4.147583,
        "torus multimodal": 4.147583,
        "torus correlated": 3.911668,
        "sphere modes": 10.921586,
        "U1": 1.877502,
        "U2": 2.08209,
        "U3": 2.64171,
    }
    for name, energy in energies.ENERGIES.items():
        log_density, weights, log_partition = mass(energy, energy.domain)
        assert log_density.shape == weights.shape
        assert energy.log_partition == pytest.approx(log_partition, abs=1e-9), name
        assert name not in known or energy.log_partition == pytest.approx(known[name], abs=6e-6)


@pytest.mark.usefixtures("x64")
def test_gaps_between_the_bands_are_those_of_the_paper():
    """U3 and U4, written out; on the strip their mass does not depend on the gap."""
    t, y = np.random.RandomState(0).uniform(-2, 2, (2, 20))
    height = y - np.sin(np.pi * t / 2)
    for name, gap, widths in (
        ("U3", 3 * np.exp(-0.5 * ((t - 1) / 0.6) ** 2), (0.35, 0.35)),
        ("U4", 3 / (1 + np.exp(-(t - 1) / 0.3)), (0.4, 0.35)),
    ):
        bands = np.exp(-0.5 * (height / widths[0]) ** 2) + np.exp(-0.5 * ((height + gap) / widths[1]) ** 2)
        found = energies.ENERGIES[name].log_density(np.stack([t, y], -1))
        np.testing.assert_allclose(found, np.log(bands), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_on_the_box_a_part_of_the_fourth_is_cut_off():
    for name, log_partition in {"U1": 1.87750, "U2": 2.08209, "U3": 2.64171, "U4": 2.68457}.items():
        assert mass(energies.ENERGIES[name], "box")[2] == pytest.approx(log_partition, abs=6e-6), name


@pytest.mark.usefixtures("x64")
def test_entropies_and_what_a_flow_that_does_nothing_reaches():
    """Entropy of p; KL of the uniform law from p and its effective sample size in per cent, which any flow must beat."""
    for name, entropy, kl, size in (
        ("torus unimodal", 3.254803, 0.4718, 49.4),
        ("torus multimodal", 3.602380, 0.0798, 87.5),
        ("torus correlated", 3.465279, 0.2359, 70.3),
        ("sphere modes", 1.870906, 1.0625, 39.7),
    ):
        energy = energies.ENERGIES[name]
        log_density, weights, _ = mass(energy, energy.domain)
        log_p = log_density - energy.log_partition
        uniform = weights / weights.sum()
        assert -(weights * np.exp(log_p)) @ log_p == pytest.approx(entropy, abs=1e-6)
        assert uniform @ (-np.log(weights.sum()) - log_p) == pytest.approx(kl, abs=6e-5)
        ratio = np.exp(log_p)
        assert 100 * (uniform @ ratio) ** 2 / (uniform @ ratio**2) == pytest.approx(size, abs=0.06)


def test_correlated_angles_are_each_uniform_alone():
    theta, weights = grid("torus")
    p = weights * np.exp(np.asarray(energies.torus_correlated(theta)))
    np.testing.assert_allclose(p.reshape(80, 80).sum(0) / p.sum(), 1 / 80, rtol=1e-5)


def test_float32_values_and_gradients_are_finite_everywhere():
    """At the origin of the plane, on the seam, far out; and as many torus dimensions as the centres have."""
    points = jnp.array([[0.0, 0.0], [jnp.pi, -jnp.pi], [1e3, -1e3], [1.0, 0.0]])
    for name, energy in energies.ENERGIES.items():
        x = jnp.eye(3) if energy.domain == "sphere" else points
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(energy.log_density)))(x)
        assert value.dtype == jnp.float32 and np.isfinite(value).all() and np.isfinite(slope).all(), name
    three = energies.torus_modes(jnp.zeros((5, 3)), jnp.zeros((2, 3)))
    np.testing.assert_allclose(three, 3.0, rtol=1e-6)
    named = energies.ring, energies.wave, energies.sphere_modes
    assert [energies.ENERGIES[name].log_density for name in ("U1", "U2", "sphere modes")] == list(named)
    far_apart = energies.waves(jnp.array([0.5, 0.0]), lambda t: 100 + 0 * t, (0.4, 0.35))
    assert float(far_apart) == pytest.approx(float(energies.wave(jnp.array([0.5, 0.0]))), rel=1e-6)
