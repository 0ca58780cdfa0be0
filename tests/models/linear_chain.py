"""A hierarchical VAE that is linear and Gaussian: its evidence, and its exact posterior in both directions."""

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional import densities
from dlvm_jax.functional.hierarchical import precision_weighted
from dlvm_jax.models import density
from dlvm_jax.models.density import Net
from dlvm_jax.models.top_down import Group, Stage, features_of, top_down

NOISE = 0.7  # of x
# Orthogonal columns: each latent unit is a chain of its own.
W = np.linalg.qr(np.random.RandomState(0).randn(5, 2))[0] * [1.5, 0.6]
X = np.random.RandomState(1).randn(4, 5)
KEY = jax.random.key(0)


def scales(layers):
    """Slope and noise of each group of a chain z_l = a z_{l-1} + s eps, [layers - 1, 2] each."""
    rng = np.random.RandomState(layers)
    return 0.5 + rng.rand(layers - 1, 2), 0.3 + rng.rand(layers - 1, 2)


def log_evidence(x, layers):
    """log p(x) of the chain, by the covariance of x."""
    variance = np.ones(2)
    for slope, noise in zip(*scales(layers), strict=True):
        variance = slope**2 * variance + noise**2
    covariance = W @ np.diag(variance) @ W.T + NOISE**2 * np.eye(5)
    return densities.multivariate_normal_log_prob(
        x, jnp.zeros(5), jnp.linalg.cholesky(jnp.asarray(covariance))
    )


def messages(layers):
    """What x says of each layer alone, from the bottom up: mean [2, 5] @ x, and variance [2]."""
    square = (W**2).sum(0)
    mean, variance = W.T / square[:, None], NOISE**2 / square
    found = [(mean, variance)]
    for slope, noise in list(zip(*scales(layers), strict=True))[::-1]:
        mean, variance = mean / slope[:, None], (variance + noise**2) / slope**2
        found.append((mean, variance))
    return found


def fixed(function):
    """A network without parameters."""
    return Net(lambda key: {}, lambda params, *inputs: function(*inputs))


def law(mean, variance):
    """Raw parameters of a Gaussian."""
    return jnp.stack([mean, jnp.broadcast_to(0.5 * jnp.log(variance), mean.shape)], axis=-1)


LIKELIHOOD = density.conditional(fixed(lambda h: law(h @ W.T, NOISE**2)), density.normal(), (5,))


def linear_stage(layers, posterior=None):
    """The groups of the chain; the state is the latent above."""
    group = Group(
        (2,),
        lambda key: {},
        lambda params, h: ((params["a"] * h, jnp.broadcast_to(jnp.log(params["s"]), h.shape)), h),
        posterior,
        lambda params, h, z: z,
    )
    return Stage(group, layers - 1, fixed(lambda z: z))


def with_scales(model, layers):
    """The model, and its parameters."""
    params = model.density.init(KEY)
    params["stages"][0]["groups"] = dict(zip("as", map(jnp.asarray, scales(layers)), strict=True))
    return model, params


def chain(layers, kl="sampled"):
    """The chain with its exact posterior from the top down, each group by the precision-weighted product."""
    heard = messages(layers)[::-1]  # from the top down

    def encode(x):
        own = jnp.stack([law(x @ mean.T, variance) for mean, variance in heard[1:]])
        return law(x @ heard[0][0].T, heard[0][1]), features_of([None], [own])

    def head(f):
        return jnp.stack(precision_weighted(f[..., 0], f[..., 1], 0.0, 0.0), axis=-1)

    posterior = density.conditional(fixed(head), density.normal(), (2,))
    stage = linear_stage(layers, lambda params, h, f, p: precision_weighted(f[..., 0], f[..., 1], *p))
    parts = density.standard_normal(2), posterior, fixed(encode), [stage], LIKELIHOOD
    return with_scales(top_down(*parts, dim=2, kl=kl), layers)


def bottom_up(layers):
    """The same with the exact posterior from the bottom up: that of the lowest layer, then p(z_{l-1} | z_l)."""
    slope, noise = scales(layers)
    variances = [np.ones(2)]
    for a, s in zip(slope, noise, strict=True):
        variances.append(a**2 * variances[-1] + s**2)
    mean, variance = messages(layers)[0]
    shrink = variances[-1] / (variances[-1] + variance)
    nets = [fixed(lambda x: law(shrink * (x @ mean.T), shrink * variance))]
    for a, s, v in list(zip(slope, noise, variances, strict=False))[::-1]:
        gain = a * v / (a**2 * v + s**2)
        nets.append(fixed(lambda z, gain=gain, a=a, v=v: law(gain * z, (1 - gain * a) * v)))
    posterior = [density.conditional(net, density.normal(), (2,)) for net in nets]
    stage = linear_stage(layers)
    return with_scales(
        top_down(density.standard_normal(2), posterior, None, [stage], LIKELIHOOD, dim=2), layers
    )
