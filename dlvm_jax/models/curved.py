"""Curved latent spaces: the sphere with von Mises-Fisher posteriors, hyperbolic space with wrapped normal ones."""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional import densities, hyperbolic, spherical
from dlvm_jax.models import spaces
from dlvm_jax.models.density import Density, Net, batch_of, check_batches, check_dim, check_event

__all__ = ["standard_wrapped_normal", "uniform_sphere", "von_mises_fisher", "wrapped_normal"]


def _check_curvature(curvature):
    if not 0 < curvature < math.inf:
        raise ValueError(f"hyperbolic space of curvature -c needs a positive finite c, got {curvature}")


def uniform_sphere(dim: int) -> Density:
    """The uniform density on the unit sphere of R^dim; raises ValueError for dim below 2."""
    spherical.check_dim(dim)

    def log_prob(params, key, z, context=None):
        z = check_event(z, dim)
        return spherical.uniform_sphere_log_prob(z)

    def sample(params, key, context=None, shape=()):
        z = spherical.uniform_sphere_sample(key, dim, shape + batch_of(context))
        return z, log_prob(params, None, z)

    mean = lambda params, context=None: jnp.zeros(dim)
    return Density(lambda key: {}, sample, log_prob, "exact", mean, space=spaces.sphere(dim))


def von_mises_fisher(net: Net, dim: int) -> Density:
    """The conditional von Mises-Fisher density on the unit sphere of R^dim (Davidson et al. 2018).

    net: context -> [*batch, dim + 1], a direction, and a number whose softplus plus 1 is the concentration

    The 1 keeps a posterior from the uniform law, where its direction would have no gradient.
    """
    spherical.check_dim(dim)

    def law(params, context):
        out = net.apply(params, context)
        if out.shape[-1] != dim + 1:
            raise ValueError(f"a law on the sphere in R^{dim} needs {dim + 1} numbers, got {out.shape[-1]}")
        return spherical.to_sphere(out[..., :dim]), 1 + jax.nn.softplus(out[..., dim])

    def log_prob(params, key, z, context=None):
        z = check_event(z, dim)
        direction, concentration = law(params, context)
        check_batches(z.shape[:-1], concentration.shape)
        return spherical.von_mises_fisher_log_prob(z, direction, concentration)

    def sample(params, key, context=None, shape=()):
        q = law(params, context)
        z = spherical.von_mises_fisher_sample(key, *q, shape)
        return z, spherical.von_mises_fisher_log_prob(z, *q)

    def mean(params, context=None):
        direction, concentration = law(params, context)
        return spherical.mean_resultant_length(concentration, dim)[..., None] * direction

    return Density(net.init, sample, log_prob, "exact", mean, space=spaces.sphere(dim))


def _wrapped(init, law, dim, curvature):
    """The wrapped normal with (mean, log_std) = law(params, context); a draw is scored by its tangent vector, which is exact.

    A draw too far out for its number type is moved back (see `hyperbolic`).  What a standard prior gains by that is added to its
    log-density, so that the ratio of both is that of the true draw.
    """
    check_dim(dim)
    _check_curvature(curvature)

    def log_prob(params, key, z, context=None):
        z = check_event(z, dim)
        mean, log_std = law(params, context)
        check_batches(z.shape[:-1], mean.shape[:-1])
        return hyperbolic.wrapped_normal_log_prob(z, mean, log_std, curvature)

    def sample(params, key, context=None, shape=()):
        mean, log_std = law(params, context)
        tangent = densities.normal_sample(key, jnp.zeros_like(mean), log_std, shape)
        log_density = hyperbolic.tangent_log_prob(tangent, log_std, curvature)
        x = hyperbolic.exp_map(mean, tangent, curvature)
        stopped = jax.lax.stop_gradient((x, mean, log_std, log_density))
        at_x = hyperbolic.wrapped_normal_log_prob(stopped[0], stopped[1], stopped[2], curvature)
        kept = jnp.abs(at_x - stopped[3]) < 0.1
        radius = hyperbolic.end_distance(mean, tangent, curvature)
        true = jnp.zeros_like(tangent).at[..., 0].set(radius)
        origin = jnp.zeros_like(x)
        gain = hyperbolic.wrapped_normal_log_prob(x, origin, 0.0, curvature)
        gain = gain - hyperbolic.tangent_log_prob(true, 0.0, curvature)
        return x, jnp.where(kept, log_density, log_density + gain)

    return Density(
        init,
        sample,
        log_prob,
        "exact",
        space=spaces.hyperbolic(dim, curvature),
    )


def standard_wrapped_normal(dim: int, curvature: float) -> Density:
    """The wrapped normal around the origin with unit deviations, on the Poincare ball of curvature -c in R^dim.

    Densities of this file's wrapped normals are with respect to the Riemannian volume.
    Raises ValueError unless dim is a positive integer, and the curvature c positive and small enough for float32 to hold
    the draws.
    """
    check_dim(dim)
    _check_curvature(curvature)
    reach = math.sqrt(dim) + 5  # no draw is farther: 5 deviations of a radius whose own deviation is below 1
    largest = (14 / reach) ** 2  # `hyperbolic` holds points up to 14 / sqrt(c)
    if curvature > largest:
        raise ValueError(
            f"float32 cannot hold draws in {dim} dimensions at curvature -{curvature:g}; "
            f"choose a curvature c of at most {math.floor(100 * largest) / 100:g}, or fewer dimensions"
        )

    def law(params, context):
        zeros = jnp.zeros((*batch_of(context), dim))
        return zeros, zeros

    return _wrapped(lambda key: {}, law, dim, curvature)


def wrapped_normal(net: Net, dim: int, curvature: float) -> Density:
    """The conditional wrapped normal density on the Poincare ball of curvature -c (Nagano et al. 2019, Mathieu et al. 2019).

    net: context -> [*batch, dim, 2], the centre as a tangent vector at the origin, and log-standard deviations.
    """

    def law(params, context):
        out = net.apply(params, context)
        if out.shape[-2:] != (dim, 2):
            raise ValueError(f"a wrapped normal law needs [*batch, {dim}, 2] numbers, got shape {out.shape}")
        centre = out[..., 0]
        return hyperbolic.exp_map(jnp.zeros_like(centre), centre, curvature), out[..., 1]

    return _wrapped(net.init, law, dim, curvature)
