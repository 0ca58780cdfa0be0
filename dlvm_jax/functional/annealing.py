r"""Annealed importance sampling of log p(x), by Hamiltonian Monte Carlo along a geometric path.

The path $f_\beta = f_0^{1-\beta} f_1^\beta$ leads from a normalised density that can be sampled (`log_start`: the prior
p(z), or an encoder's q(z|x)) to an unnormalised one (`log_target`: the joint log p(x, z)).  Both are functions of z
[chains, *batch, *event] -> [chains, *batch]: one call evaluates all chains of all data, each on its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_integer, as_wide, sum_event
from dlvm_jax.functional.types import Array, Key, Numeric

__all__ = ["Annealed", "adapt_step_size", "ais", "sigmoid_betas"]

TARGET_ACCEPTANCE = 0.65  # optimal for HMC in high dimension (Neal 2011)
ADAPTATION_RATE = 0.2  # of the log step size, for an acceptance wrong by one
STEP_JITTER = 0.2  # a trajectory of one length for ever may close on itself and never mix (Neal 2011)


class Annealed(NamedTuple):
    """Log-weights [chains, *batch], mean acceptance [temperatures, *batch], final states [chains, *batch, *event]."""

    log_w: Array
    acceptance: Array
    z: Array


def sigmoid_betas(temperatures: int) -> Array:
    r"""Inverse temperatures that are dense near 0 and 1, where the distribution changes fastest.

    $\beta_t = \frac{s_t - s_0}{s_T - s_0},\quad s_t = \mathrm{sigmoid}\big(4\,(2t/T - 1)\big),\ t = 0..T$

    Shapes: `temperatures` $T$, a Python integer -> [T + 1], from 0 to 1.
    Raises ValueError for fewer than one temperature.  Source: Grosse, Ghahramani, Adams 2015.

    >>> sigmoid_betas(2).tolist()
    [0.0, 0.5, 1.0]
    """
    if as_integer(temperatures, "the number of temperatures") < 1:
        raise ValueError(f"annealing needs at least one temperature, got {temperatures}")
    s = jax.nn.sigmoid(4 * jnp.linspace(-1.0, 1.0, temperatures + 1))
    return (s - s[0]) / (s[-1] - s[0])


def _value_and_gradient(function, z):
    """Values [chains, *batch] and gradients [chains, *batch, *event] of a density of independent points."""
    value, pullback = jax.vjp(function, z)
    return value, pullback(jnp.ones_like(value))[0]


def _hmc(key, log_density, z, step_size, leapfrog_steps):
    """One Hamiltonian Monte Carlo transition, which leaves the density invariant: new state, acceptance probability."""
    key_momentum, key_uniform = jax.random.split(key)
    momentum = jax.random.normal(key_momentum, z.shape, z.dtype)
    before, gradient = _value_and_gradient(log_density, z)
    event_ndim = z.ndim - before.ndim

    def spread(values):
        return values.reshape(values.shape + (1,) * event_ndim)

    jitter, uniform = jax.random.uniform(key_uniform, (2, *before.shape), before.dtype)
    eps = spread(step_size * (1 + STEP_JITTER * (2 * jitter - 1)))

    def leapfrog(_, state):
        position, half, gradient, _ = state
        half = half + 0.5 * eps * gradient
        position = position + eps * half
        value, gradient = _value_and_gradient(log_density, position)
        return position, half + 0.5 * eps * gradient, gradient, value

    start = (z, momentum, gradient, before)
    proposal, final, _, after = jax.lax.fori_loop(0, leapfrog_steps, leapfrog, start)
    kinetic = 0.5 * (sum_event(jnp.square(momentum), event_ndim) - sum_event(jnp.square(final), event_ndim))
    log_ratio = after - before + kinetic
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)  # a trajectory that diverged is rejected
    z = jnp.where(spread(jnp.log(uniform) < log_ratio), proposal, z)
    return z, jnp.exp(jnp.minimum(log_ratio, 0.0))


def _checked(log_start, log_target, z0, betas, leapfrog_steps):
    """The start and betas, in the widest type that the densities have, so that all of the loop is of one type."""
    z0, betas = as_wide(z0), as_wide(betas)
    values = [jax.eval_shape(function, z0) for function in (log_start, log_target)]
    shapes = [value.shape for value in values]
    if not shapes[0] or shapes[0] != shapes[1] or shapes[0] != z0.shape[: len(shapes[0])]:
        raise ValueError(
            f"z0 [chains, *batch, *event] of shape {z0.shape} has log-densities [chains, *batch], got shapes "
            f"{shapes[0]} and {shapes[1]}"
        )
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(f"betas are a list of at least two inverse temperatures, got shape {betas.shape}")
    if as_integer(leapfrog_steps, "the number of leapfrog steps") < 1:
        raise ValueError(f"a trajectory needs at least one leapfrog step, got {leapfrog_steps}")
    dtype = jnp.result_type(z0, *values)
    return z0.astype(dtype), betas.astype(dtype)


def _path(log_start, log_target, beta):
    return lambda z: (1 - beta) * log_start(z) + beta * log_target(z)


def adapt_step_size(
    key: Key,
    log_start: Callable[[Array], Array],
    log_target: Callable[[Array], Array],
    z0: Array,
    betas: Array,
    step_size: Numeric = 0.5,
    leapfrog_steps: int = 10,
) -> Array:
    r"""Step sizes for `ais`, one for each temperature and each datum, from a pilot run that is thrown away.

    $\log\epsilon_{t+1} = \log\epsilon_t + \eta\,(\bar a_t - 0.65)$, $\bar a_t$ the acceptance averaged over the chains.

    A step size that follows the acceptance of the very chains it moves makes their transitions depend on their past, which
    no longer leaves $f_\beta$ invariant: the weights of such a run (Wu et al. adapt so) are slightly biased.  Give the
    pilot its own `key` and its own `z0`; given its step sizes, the weights of `ais` are then exactly unbiased.
    Shapes: `z0` [chains, *batch, *event] draws of the start, `betas` [T + 1], `step_size` broadcasts to [*batch] -> [T, *batch].
    Raises ValueError for other shapes, fewer than two betas or no leapfrog step.  Source: Wu et al. 2017 (in a pilot run here).

    >>> log_normal = lambda z: -0.5 * jnp.square(z).sum(-1)
    >>> z0 = jax.random.normal(jax.random.key(0), (20, 3, 2))
    >>> adapt_step_size(jax.random.key(1), log_normal, log_normal, z0, jnp.linspace(0, 1, 6)).shape
    (5, 3)
    """
    z0, betas = _checked(log_start, log_target, z0, betas, leapfrog_steps)

    def step(carry, inputs):
        z, log_step = carry
        key, beta = inputs
        z, acceptance = _hmc(key, _path(log_start, log_target, beta), z, jnp.exp(log_step), leapfrog_steps)
        change = ADAPTATION_RATE * (acceptance.mean(0) - TARGET_ACCEPTANCE)
        return (z, log_step + change), jnp.exp(log_step)

    batch = jax.eval_shape(log_start, z0).shape[1:]
    start = (z0, jnp.broadcast_to(jnp.log(jnp.asarray(step_size, z0.dtype)), batch))
    return jax.lax.scan(step, start, (jax.random.split(key, len(betas) - 1), betas[1:]))[1]


def ais(
    key: Key,
    log_start: Callable[[Array], Array],
    log_target: Callable[[Array], Array],
    z0: Array,
    betas: Array,
    step_size: Numeric,
    leapfrog_steps: int = 10,
) -> Annealed:
    r"""Annealed importance sampling: log-weights whose mean weight is the ratio of normalising constants, here p(x).

    $\log w = \sum_{t=1}^T (\beta_t-\beta_{t-1})\,[\log f_1(z_{t-1}) - \log f_0(z_{t-1})],\quad
      z_t \sim \mathcal T_{\beta_t}(\cdot\mid z_{t-1})$

    $z_0$ is drawn from the start and $\mathcal T_\beta$ is Hamiltonian Monte Carlo for $f_\beta = f_0^{1-\beta}f_1^\beta$.
    For any betas from 0 to 1 and any step sizes fixed beforehand (see `adapt_step_size`), $E[w] = p(x)$:
    `bounds.evidence(log_w)` gives the estimate of log p(x), a stochastic lower bound, with its standard error.
    With `betas` from 1 to 0 and `z0` drawn from the exact posterior (data simulated with their z; repeat the z for each
    chain), $E[w] = 1/p(x)$, and minus the log-mean weight is a stochastic upper bound: both together are a bidirectional
    Monte Carlo sandwich.  Its step sizes are `step_size[::-1]` of the forward run: the transition for beta_{t-1} takes the
    one found for beta_t, a neighbour's, which is as unbiased as any that is fixed beforehand.

    Shapes: `z0` [chains, *batch, *event], `betas` [T + 1], `step_size` broadcasts to [T, *batch] ->
    `Annealed` of log-weights [chains, *batch] in nats, acceptance [T, *batch], final z [chains, *batch, *event].
    Raises ValueError for other shapes, fewer than two betas or no leapfrog step.
    Source: Neal 2001; Wu et al. 2017; Grosse, Ghahramani, Adams 2015 (bidirectional).

    >>> log_start = lambda z: -0.5 * jnp.square(z).sum(-1)
    >>> z0 = jax.random.normal(jax.random.key(0), (20, 3, 2))
    >>> result = ais(jax.random.key(1), log_start, lambda z: log_start(z) - 7.0, z0, sigmoid_betas(5), 0.5)
    >>> bool(jnp.allclose(result.log_w, -7.0)), result.acceptance.shape
    (True, (5, 3))
    """
    z0, betas = _checked(log_start, log_target, z0, betas, leapfrog_steps)

    def step(carry, inputs):
        z, log_w = carry
        key, previous, beta, eps = inputs
        log_w = log_w + (beta - previous) * (log_target(z) - log_start(z))
        z, acceptance = _hmc(key, _path(log_start, log_target, beta), z, eps, leapfrog_steps)
        return (z, log_w), acceptance.mean(0)

    shape = jax.eval_shape(log_start, z0).shape
    steps = jnp.broadcast_to(jnp.asarray(step_size, z0.dtype), (len(betas) - 1, *shape[1:]))
    inputs = (jax.random.split(key, len(betas) - 1), betas[:-1], betas[1:], steps)
    (z, log_w), acceptance = jax.lax.scan(step, (z0, jnp.zeros(shape, z0.dtype)), inputs)
    return Annealed(log_w, acceptance, z)
