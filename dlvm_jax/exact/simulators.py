r"""Simulators whose likelihood, and mostly also posterior, is known: benchmark tasks of simulation-based inference.

A `Simulator` is a prior over parameters theta [D] and a law of data x [C] given them, as pure functions.
Source of the tasks: Lueckmann, Boelts, Greenberg, Goncalves, Macke 2021.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from dlvm_jax.functional.densities import normal_log_prob
from dlvm_jax.functional.numerics import as_wide, draw_normal, log_normal_interval, norm
from dlvm_jax.functional.types import Array, Key, Shape

__all__ = [
    "Simulator",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "gaussian_mixture",
    "repeated",
    "slcp",
    "two_moons",
    "uniform_prior",
]


class Simulator(NamedTuple):
    """A prior and a conditional law as pure functions; log-densities are in nats.

    prior_sample:   (key, shape) -> theta [*shape, D]
    prior_log_prob: (theta) -> [*batch], -inf outside of the support
    simulate:       (key, theta [*batch, D]) -> x [*batch, C]
    low, high:      ends of the prior's support, [D] each, infinite where it has none

    and, where they are known:
    log_likelihood: (theta, x) -> [*batch]; of bernoulli_glm up to a constant of x
    posterior_sample:   (key, x [C], count) -> [count, D]
    posterior_log_prob: (theta, x) -> [*batch]
    repeat:             (n) -> the simulator of n independent x; see `repeated`
    image:              height and width of an x that is an image, row by row
    """

    prior_sample: Callable[[Key, Shape], Array]
    prior_log_prob: Callable[[Array], Array]
    simulate: Callable[[Key, Array], Array]
    low: np.ndarray
    high: np.ndarray
    log_likelihood: Callable[[Array, Array], Array] | None = None
    posterior_sample: Callable[[Key, Array, int], Array] | None = None
    posterior_log_prob: Callable[[Array, Array], Array] | None = None
    repeat: Callable[[int], "Simulator"] | None = None
    image: tuple[int, int] | None = None


def _each(x: Array, count: int) -> Array:
    """So many x, one after another, as rows: [*batch, count * C] -> [*batch, count, C]."""
    return x.reshape(*x.shape[:-1], count, -1)


def repeated(simulator: Simulator, count: int) -> Simulator:
    r"""The simulator of several independent x of the same parameters, one after another.

    $p(x_1,\ldots,x_n\mid\theta) = \prod_{i=1}^np(x_i\mid\theta)$

    count: n.
    Its posterior is known where the simulator has `repeat`.
    Shapes: theta [*batch, D], x [*batch, n C].  Raises ValueError for less than one.
    Source: Miller, Weniger, Forre 2022 (ratios of independent observations).

    >>> repeated(two_moons(), 3).simulate(jax.random.key(0), jnp.zeros((5, 2))).shape
    (5, 6)
    """
    if count < 1:
        raise ValueError(f"there is at least one observation, got {count}")
    if count == 1 or simulator.repeat is not None:
        return simulator if count == 1 else simulator.repeat(count)

    def simulate(key, theta):
        each = jnp.broadcast_to(theta[..., None, :], (*theta.shape[:-1], count, theta.shape[-1]))
        return simulator.simulate(key, each).reshape(*theta.shape[:-1], -1)

    def log_likelihood(theta, x):
        return simulator.log_likelihood(as_wide(theta)[..., None, :], _each(as_wide(x), count)).sum(-1)

    return simulator._replace(
        simulate=simulate,
        log_likelihood=simulator.log_likelihood and log_likelihood,
        posterior_sample=None,
        posterior_log_prob=None,
    )


def uniform_prior(low: Any, high: Any) -> dict[str, Any]:
    r"""The prior of a `Simulator` that is uniform on a box.

    $p(\theta) = \prod_i\frac{1[l_i\le\theta_i\le h_i]}{h_i-l_i}$

    low, high: its corners, [D] each.
    Shapes: -> the fields prior_sample, prior_log_prob, low and high.  Raises ValueError for corners that bound no box.
    Source: Lueckmann et al. 2021.

    >>> round(float(uniform_prior([-1.0, 0.0], [1.0, 3.0])["prior_log_prob"](jnp.ones(2))), 4)
    -1.7918
    """
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    if low.shape != high.shape or low.ndim != 1 or not (np.isfinite(high - low) & (low < high)).all():
        raise ValueError(f"a box has corners low < high, [D] each, got {low.tolist()} and {high.tolist()}")
    log_volume = float(np.log(high - low).sum())

    def log_prob(theta):
        theta = as_wide(theta)
        inside = ((theta >= low) & (theta <= high)).all(-1)
        return jnp.where(inside, -log_volume, -jnp.inf)

    sample = lambda key, shape: jax.random.uniform(key, (*shape, len(low)), minval=low, maxval=high)
    return {"prior_sample": sample, "prior_log_prob": log_prob, "low": low, "high": high}


def _log_mass(mean, std, low, high):
    """Log-probability of a box under a diagonal Gaussian."""
    width = jnp.broadcast_to((high - low) / std, mean.shape)
    return log_normal_interval((low - mean) / std, (high - mean) / std, width).sum(-1)


def _truncated_normal(key, mean, std, low, high, shape):
    """Draws of a diagonal Gaussian within a box, [*shape, D]: by the inverse of its distribution function in the lower tail."""
    a, b = (low - mean) / std, (high - mean) / std
    flip = a + b > 0
    a, b = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    u = jax.random.uniform(key, (*shape, *a.shape))
    z = jnp.clip(ndtri(ndtr(a) + u * (ndtr(b) - ndtr(a))), a, b)
    return mean + std * jnp.where(flip, -z, z)


VARIANCE = 0.1  # of the prior and of the noise of gaussian_linear


def gaussian_linear(dim: int = 10, count: int = 1) -> Simulator:
    r"""Gaussian parameters, seen with Gaussian noise.

    $\theta\sim\mathcal N(0,\tfrac1{10}I),\ x_i\mid\theta\sim\mathcal N(\theta,\tfrac1{10}I),\quad
        \theta\mid x_{1:n}\sim\mathcal N\big(\tfrac{n}{n+1}\bar x,\tfrac1{10(n+1)}I\big)$

    count: n, one in the benchmark.
    Shapes: theta [*batch, dim], x [*batch, n dim].  Source: Lueckmann et al. 2021.

    >>> gaussian_linear(3).simulate(jax.random.key(0), jnp.zeros((5, 3))).shape
    (5, 3)
    """
    log_std, posterior_log_std = 0.5 * math.log(VARIANCE), 0.5 * math.log(VARIANCE / (count + 1))
    normal = lambda key, shape: math.sqrt(VARIANCE) * draw_normal(key, shape)
    centre = lambda x: count / (count + 1) * _each(as_wide(x), count).mean(-2)
    end = np.full(dim, np.inf, np.float32)
    return Simulator(
        prior_sample=lambda key, shape: normal(key, (*shape, dim)),
        prior_log_prob=lambda theta: normal_log_prob(theta, 0.0, log_std),
        simulate=lambda key, theta: jnp.tile(theta, count) + normal(key, (*theta.shape[:-1], count * dim)),
        low=-end,
        high=end,
        log_likelihood=lambda theta, x: normal_log_prob(x, jnp.tile(theta, count), log_std),
        posterior_sample=lambda key, x, draws: centre(x) + normal(key, (draws, dim)) / math.sqrt(count + 1),
        posterior_log_prob=lambda theta, x: normal_log_prob(theta, centre(x), posterior_log_std),
        repeat=lambda times: gaussian_linear(dim, times * count),
    )


def gaussian_linear_uniform(dim: int = 10, count: int = 1) -> Simulator:
    r"""Uniform parameters, seen with Gaussian noise: the posterior is a Gaussian cut off at the box.

    $\theta\sim U(-1,1)^D,\ x_i\mid\theta\sim\mathcal N(\theta,\tfrac1{10}I),\quad
        p(\theta\mid x_{1:n}) = \prod_j\frac{\mathcal N(\theta_j\mid\bar x_j,s^2)}
        {\Phi(\frac{1-\bar x_j}s)-\Phi(\frac{-1-\bar x_j}s)},\ s^2 = \tfrac1{10n}$

    count: n, one in the benchmark.
    Shapes: theta [*batch, dim], x [*batch, n dim].  Source: Lueckmann et al. 2021.

    >>> bool(abs(gaussian_linear_uniform(3).posterior_sample(jax.random.key(0), 9 * jnp.ones(3), 5)).max() <= 1)
    True
    """
    noise, prior = math.sqrt(VARIANCE), uniform_prior(-np.ones(dim), np.ones(dim))
    std = noise / math.sqrt(count)
    centre = lambda x: _each(as_wide(x), count).mean(-2)

    def posterior_log_prob(theta, x):
        inside, mean = jnp.isfinite(prior["prior_log_prob"](theta)), centre(x)
        whole = normal_log_prob(theta, mean, math.log(std)) - _log_mass(mean, std, -1.0, 1.0)
        return jnp.where(inside, whole, -jnp.inf)

    def simulate(key, theta):
        return jnp.tile(theta, count) + noise * draw_normal(key, (*theta.shape[:-1], count * dim))

    return Simulator(
        **prior,
        simulate=simulate,
        log_likelihood=lambda theta, x: normal_log_prob(x, jnp.tile(theta, count), math.log(noise)),
        posterior_sample=lambda key, x, draws: _truncated_normal(key, centre(x), std, -1.0, 1.0, (draws,)),
        posterior_log_prob=posterior_log_prob,
        repeat=lambda times: gaussian_linear_uniform(dim, times * count),
    )


def gaussian_mixture() -> Simulator:
    r"""The common mean of a broad and a narrow Gaussian.

    $\theta\sim U(-10,10)^2,\ x\mid\theta\sim\tfrac12\mathcal N(\theta,I)+\tfrac12\mathcal N(\theta,\tfrac1{100}I)$

    The posterior is the mixture of both around x, each cut off at the box and weighted by its mass there.
    Shapes: theta and x [*batch, 2].  Source: Lueckmann et al. 2021 (Sisson et al. 2007).

    >>> simulator = gaussian_mixture()
    >>> round(float(simulator.log_likelihood(jnp.zeros(2), jnp.zeros(2))), 4)
    2.0841
    """
    stds, low, high = jnp.array([[1.0], [0.1]]), -10.0, 10.0
    prior = uniform_prior(np.full(2, low), np.full(2, high))

    def simulate(key, theta):
        which, noise = jax.random.split(key)
        broad = jax.random.bernoulli(which, 0.5, (*theta.shape[:-1], 1))
        return theta + jnp.where(broad, 1.0, 0.1) * draw_normal(noise, theta.shape)

    def log_likelihood(theta, x):
        each = [normal_log_prob(x, theta, math.log(std)) for std in (1.0, 0.1)]
        return jnp.logaddexp(*each) - math.log(2)

    def log_masses(x):
        return jnp.stack([_log_mass(x, std, low, high) for std in (1.0, 0.1)], -1)

    def posterior_log_prob(theta, x):
        log_mass = jax.nn.logsumexp(log_masses(x), axis=-1) - math.log(2)
        inside = jnp.isfinite(prior["prior_log_prob"](theta))
        return jnp.where(inside, log_likelihood(theta, x) - log_mass, -jnp.inf)

    def posterior_sample(key, x, count):
        which, where = jax.random.split(key)
        std = stds[jax.random.categorical(which, log_masses(x), shape=(count,))]
        return _truncated_normal(where, jnp.broadcast_to(x, (count, 2)), std, low, high, ())

    return Simulator(
        **prior,
        simulate=simulate,
        log_likelihood=log_likelihood,
        posterior_sample=posterior_sample,
        posterior_log_prob=posterior_log_prob,
    )


TRIES = 1000  # rounds of rejection until a draw is given up


def two_moons() -> Simulator:
    r"""A crescent, moved by parameters of which only an absolute value is seen: the posterior is two crescents.

    $\theta\sim U(-1,1)^2,\ x = p + \tfrac1{\sqrt2}(-|\theta_1+\theta_2|, \theta_2-\theta_1),\
        p = (r\cos a+\tfrac14, r\sin a),\ a\sim U(-\tfrac\pi2,\tfrac\pi2),\ r\sim\mathcal N(\tfrac1{10},\tfrac1{100^2})$

    Given x both signs of theta_1 + theta_2 are equally likely and theta is a rotation of p, so that draws are exact: those
    outside of the box are made again.  They are NaN for an x from which the prior is out of reach.
    Shapes: theta and x [*batch, 2].  Source: Greenberg, Nonnenmacher, Macke 2019; Lueckmann et al. 2021.

    >>> two_moons().simulate(jax.random.key(0), jnp.zeros((5, 2))).shape
    (5, 2)
    """
    radius, spread, offset, root = 0.1, 0.01, jnp.array([0.25, 0.0]), math.sqrt(2)
    prior = uniform_prior(-np.ones(2), np.ones(2))

    def crescent(key, shape):
        angle, length = jax.random.split(key)
        a = jax.random.uniform(angle, shape, minval=-jnp.pi / 2, maxval=jnp.pi / 2)
        r = radius + spread * draw_normal(length, shape)
        return jnp.stack([r * jnp.cos(a), r * jnp.sin(a)], -1) + offset

    def shift(theta):
        first, second = theta[..., 0], theta[..., 1]
        return jnp.stack([-abs(first + second), second - first], -1) / root

    def log_likelihood(theta, x):
        theta, x = as_wide(theta, x)
        p = x - shift(theta) - offset
        r = norm(p)
        density = normal_log_prob(r[..., None], radius, math.log(spread)) - jnp.log(math.pi * r)
        return jnp.where(p[..., 0] > 0, density, -jnp.inf)

    def posterior_sample(key, x, count):
        def propose(key):
            key_p, key_sign = jax.random.split(key)
            p = crescent(key_p, (count,))
            reach, across = (
                p[:, 0] - x[0],
                x[1] - p[:, 1],
            )  # |theta_1 + theta_2| and theta_2 - theta_1, over sqrt 2
            total = jnp.where(jax.random.bernoulli(key_sign, 0.5, (count,)), reach, -reach)
            theta = jnp.stack([total - across, total + across], -1) / root
            return theta, (reach >= 0) & (abs(theta) <= 1).all(-1)

        def again(carry):
            tries, theta, found = carry
            new, inside = propose(jax.random.fold_in(key, tries))
            return tries + 1, jnp.where((inside & ~found)[:, None], new, theta), found | inside

        start = 0, jnp.full((count, 2), jnp.nan), jnp.zeros(count, bool)
        return jax.lax.while_loop(lambda carry: (carry[0] < TRIES) & ~carry[2].all(), again, start)[1]

    return Simulator(
        **prior,
        simulate=lambda key, theta: crescent(key, theta.shape[:-1]) + shift(theta),
        log_likelihood=log_likelihood,
        posterior_sample=posterior_sample,
    )


JITTER = 1e-6  # added to the variances of slcp, whose standard deviations may be zero


def slcp() -> Simulator:
    r"""Simple likelihood, complex posterior: four points of a Gaussian in the plane, in squares of parameters.

    $\theta\sim U(-3,3)^5,\ x_1,\ldots,x_4\mid\theta\sim\mathcal N\Big((\theta_1,\theta_2),
        \big(\begin{smallmatrix}s_1^2&\rho s_1s_2\\\rho s_1s_2&s_2^2\end{smallmatrix}\big)\Big),\
        s_1 = \theta_3^2,\ s_2 = \theta_4^2,\ \rho = \tanh\theta_5$

    The posterior has four modes, by the signs of theta_3 and theta_4.
    Shapes: theta [*batch, 5], x [*batch, 8], the points one after another.
    Source: Papamakarios, Sterratt, Murray 2019; Lueckmann et al. 2021.

    >>> slcp().simulate(jax.random.key(0), jnp.ones((5, 5))).shape
    (5, 8)
    """

    def factor(theta):
        """Mean and the entries of the lower Cholesky factor."""
        s1, s2, rho = jnp.square(theta[..., 2]), jnp.square(theta[..., 3]), jnp.tanh(theta[..., 4])
        first = jnp.sqrt(jnp.square(s1) + JITTER)
        below = rho * s1 * s2 / first
        second = jnp.sqrt(jnp.square(s2) + JITTER - jnp.square(below))
        return (part[..., None] for part in (theta[..., 0], theta[..., 1], first, below, second))

    def simulate(key, theta):
        mean1, mean2, first, below, second = factor(theta)
        z = draw_normal(key, (2, *theta.shape[:-1], 4))
        points = jnp.stack([mean1 + first * z[0], mean2 + below * z[0] + second * z[1]], -1)
        return points.reshape(*theta.shape[:-1], 8)

    def log_likelihood(theta, x):
        theta, x = as_wide(theta, x)
        mean1, mean2, first, below, second = factor(theta)
        z1 = (x[..., ::2] - mean1) / first
        z2 = (x[..., 1::2] - mean2 - below * z1) / second
        log_scale = jnp.log(first) + jnp.log(second)
        return jnp.sum(-0.5 * (jnp.square(z1) + jnp.square(z2)) - log_scale - math.log(2 * math.pi), axis=-1)

    return Simulator(
        **uniform_prior(np.full(5, -3.0), np.full(5, 3.0)), simulate=simulate, log_likelihood=log_likelihood
    )
