r"""Maps of the matter in the universe whose posterior over cosmological parameters is known: log-normal fields.

theta = (Omega_m, sigma_8, w_0): the share of matter, the size of its fluctuations today, dark energy's equation of state.

The logarithm of a map is a Gaussian field on a periodic grid.  Its Fourier modes are independent, so that the likelihood is
exact, and with it the posterior on a grid of parameters.

What is simple here: the spectrum is the linear one, without baryons, of a flat universe with h = 0.7 and n_s = 0.96, and it is
that of the Gaussian field.  This is the mean along the line of sight of a periodic box of a fixed comoving size at redshift 1.
Nothing is added to it: no noise, no telescope.

w_0 enters by the growth of fluctuations alone.  A map then knows Omega_m and the amplitude sigma_8 D(Omega_m, w_0), and all
(sigma_8, w_0) of equal amplitude are equally likely: along these curves the posterior is the prior.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.exact.simulators import Simulator, uniform_prior
from dlvm_jax.functional.numerics import as_wide, draw_normal
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["cosmology", "growth", "matter_power"]

HUBBLE, TILT, REDSHIFT = 0.7, 0.96, 1.0  # h, n_s, and when the map is seen
PIXEL, DEPTH = 8.0, 64.0  # of the map, Mpc / h
LOW, HIGH = (0.1, 0.6, -1.5), (0.5, 1.0, -0.5)  # of the prior
TERMS = 200  # of the series of the growth
LOG_K = np.linspace(math.log(1e-4), math.log(20.0), 300)  # of the integral of sigma_8


def growth(omega_m: Numeric, w_0: Numeric, redshift: float = REDSHIFT) -> Array:
    r"""How large linear fluctuations were at a redshift, as a share of today's, in a flat universe of matter and dark energy.

    $D = \frac{d(a)}{d(1)},\ d(a) = a\,\Omega^{-c}\,{}_2F_1\big(-c,\tfrac12-c;1-\tfrac52c;1-\Omega\big),\
        c = \tfrac1{3w_0},\ \Omega = \frac{\Omega_m}{\Omega_m+(1-\Omega_m)a^{-3w_0}},\ a = \tfrac1{1+z}$

    omega_m: share of matter today, above 0.05: below, 200 terms of the series are too few;  w_0: the equation of state, below 0
    Shapes: both broadcast.
    Source: Silveira, Waga 1994 (the solution, here by Pfaff's transformation, whose series converges).

    >>> round(float(growth(0.3, -1.0)), 4)
    0.6118
    """
    omega_m, w_0 = as_wide(omega_m, w_0)
    c, n = (1 / (3 * w_0))[..., None], jnp.arange(TERMS)

    def size(a):
        share = omega_m / (omega_m + (1 - omega_m) * a ** (-3 * w_0))
        ratios = (n - c) * (n + 0.5 - c) / ((n + 1 - 2.5 * c) * (n + 1)) * (1 - share)[..., None]
        return a * share ** -c[..., 0] * (1 + jnp.cumprod(ratios, -1).sum(-1))

    return size(1 / (1 + redshift)) / size(1.0)


def _shape(k, omega_m):
    """The power spectrum but for its size."""
    q = k / (omega_m * HUBBLE)
    transfer = jnp.log1p(2.34 * q) / (2.34 * q)
    return (
        k**TILT * transfer**2 / jnp.sqrt(1 + 3.89 * q + (16.1 * q) ** 2 + (5.46 * q) ** 3 + (6.71 * q) ** 4)
    )


def matter_power(k: Array, omega_m: Numeric, sigma_8: Numeric) -> Array:
    r"""The power spectrum of cold dark matter's linear fluctuations today, in (Mpc / h)^3.

    $P(k)\propto k^{n_s}T^2(k),\ T = \frac{\ln(1+2.34q)}{2.34q}\big(1+3.89q+(16.1q)^2+(5.46q)^3+(6.71q)^4\big)^{-1/4},\
        q = \frac k{\Omega_mh},\quad
        \sigma_8^2 = \int\frac{k^3P(k)}{2\pi^2}\Big(\frac{3(\sin y-y\cos y)}{y^3}\Big)^2d\ln k,\ y = 8k$

    k: wave numbers above 0, h / Mpc;  omega_m: share of matter
    sigma_8: standard deviation of the mean over balls of radius 8 Mpc / h
    Shapes: all broadcast.
    Source: Bardeen, Bond, Kaiser, Szalay 1986, equation G3.

    >>> round(float(matter_power(0.1, 0.3, 0.8)))
    5365
    """
    k, omega_m, sigma_8 = as_wide(k, omega_m, sigma_8)
    nodes = np.exp(LOG_K)
    y = 8 * nodes
    window = 3 * (np.sin(y) - y * np.cos(y)) / y**3
    weights = jnp.asarray(nodes**3 * window**2 * (LOG_K[1] - LOG_K[0]) / (2 * np.pi**2), k.dtype)
    variance = (_shape(jnp.asarray(nodes, k.dtype), omega_m[..., None]) * weights).sum(-1)
    return jnp.square(sigma_8) / variance * _shape(k, omega_m)


def cosmology(size: int = 64, cells: int = 96) -> Simulator:
    r"""Log-normal maps of matter, with the posterior of the parameters on a grid.

    $x_p = e^{g_p-v/2},\ g = \sum_k\sqrt{\lambda_k}\,z_k\,e_k,\quad \lambda_k = \frac{D^2P(|k|)}{\ell\,a^2},\
        v = \tfrac1{N^2}\sum_k\lambda_k$

    z are standard normal, e_k the orthonormal Fourier modes of the grid, a its pixels' side and l the depth of the box.
    The mean of a map differs from one to another, as in a larger universe: its mode k = 0 has the power of the longest wave.
    A pixel has mean 1, two have covariance $e^{\xi(r)}-1$, where $\xi(r) = \frac1{N^2}\sum_k\lambda_k\cos(k\cdot r)$.

    size: pixels of a side, N
    cells: of the grid of the posterior, along each parameter; it is uniform in a cell
    Shapes: theta (Omega_m, sigma_8, w_0) [*batch, 3], x [*batch, N^2], row by row.
    Source: Coles, Jones 1991 (log-normal fields).

    >>> cosmology(8).simulate(jax.random.key(0), jnp.array([[0.3, 0.8, -1.0]])).shape
    (1, 64)
    """
    prior, pixels = uniform_prior(LOW, HIGH), size**2
    waves = 2 * np.pi * np.fft.fftfreq(size, PIXEL)
    k = np.hypot(waves[:, None], waves)
    k[0, 0] = 2 * np.pi / (size * PIXEL)
    low, width = np.asarray(LOW), (np.asarray(HIGH) - LOW) / cells
    centres = [
        jnp.asarray(l + w * (np.arange(cells) + 0.5), jnp.float32) for l, w in zip(low, width, strict=True)
    ]

    def unit_modes(omega_m):
        """lambda of amplitude 1, [*batch, N, N]."""
        return matter_power(jnp.asarray(k), omega_m[..., None, None], 1.0) / (DEPTH * PIXEL**2)

    def amplitude(omega_m, sigma_8, w_0):
        return sigma_8 * growth(omega_m, w_0)

    def simulate(key, theta):
        squared = jnp.square(amplitude(*jnp.moveaxis(theta, -1, 0)))
        modes = squared[..., None, None] * unit_modes(theta[..., 0])
        white = jnp.fft.fft2(draw_normal(key, modes.shape))
        field = jnp.fft.ifft2(jnp.sqrt(modes) * white).real
        return jnp.exp(field - 0.5 * modes.mean((-2, -1), keepdims=True)).reshape(*theta.shape[:-1], pixels)

    def likelihood(omega_m, sigma_8, w_0, x):
        """Of maps [*batch, N^2]: with s = A^2 the mean of the Gaussian is -s v / 2 and its modes' variances s lambda."""
        modes, positive = unit_modes(omega_m), (x > 0).all(-1)
        log_x = jnp.log(jnp.where(positive[..., None], x, 1.0))
        power = jnp.square(abs(jnp.fft.fft2(log_x.reshape(*x.shape[:-1], size, size), norm="ortho")))
        half_mean, total, first = 0.5 * modes.mean((-2, -1)), log_x.sum(-1), modes[..., 0, 0]
        s = jnp.square(amplitude(omega_m, sigma_8, w_0))
        of_mean = half_mean * (2 * total + s * half_mean * pixels) / first  # which is in the first mode alone
        quadratic = (power / modes).sum((-2, -1)) / s + of_mean
        log_det = jnp.log(2 * math.pi * modes).sum((-2, -1)) + pixels * jnp.log(s)
        return jnp.where(positive, -0.5 * (quadratic + log_det) - total, -jnp.inf)

    def log_likelihood(theta, x):
        theta, x = as_wide(theta, x)
        return likelihood(theta[..., 0], theta[..., 1], theta[..., 2], x)

    def cell_likelihoods(x):
        """At the centre of each cell, [*batch, cells^3]."""
        omega_m, sigma_8, w_0 = centres
        at = as_wide(x)[..., None, None, None, :]
        joint = likelihood(omega_m[:, None, None], sigma_8[:, None], w_0, at)
        return joint.reshape(*joint.shape[:-3], -1)

    def posterior_log_prob(theta, x):
        log_evidence = jax.nn.logsumexp(cell_likelihoods(x), axis=-1) - 3 * math.log(cells)
        log_prior = prior["prior_log_prob"](theta)
        whole = log_prior + log_likelihood(theta, x) - log_evidence
        return jnp.where(jnp.isfinite(log_prior), whole, -jnp.inf)

    def posterior_sample(key, x, count):
        which, where = jax.random.split(key)
        flat = jax.random.choice(which, cells**3, (count,), p=jax.nn.softmax(cell_likelihoods(x)))
        place = jnp.stack(jnp.unravel_index(flat, (cells,) * 3), -1)
        return jnp.asarray(low + width * (place + jax.random.uniform(where, place.shape)), jnp.float32)

    return Simulator(
        **prior,
        simulate=simulate,
        log_likelihood=log_likelihood,
        posterior_sample=posterior_sample,
        posterior_log_prob=posterior_log_prob,
        image=(size, size),
    )
