"""The chain rule: the joint density of (z2, z1) as a density of the vector that holds both.

The parts may be densities of any space, and the result stands wherever a density may.  Hierarchical VAEs are `top_down`.
"""

import math

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_array
from dlvm_jax.models.density import KINDS, Density, join
from dlvm_jax.models.spaces import REALS, pair

__all__ = ["joint", "reorder"]


def joint(first: Density, second: Density, dim: int, markov: bool = False) -> Density:
    """The density p(z2 | c) p(z1 | z2, c) of the vector [z2, z1], z2 its first `dim` elements.

    first: the density of z2 (under the context c)
    second: that of z1 under z2, with c, or without it where `markov`

    The kind is the weaker of the two.  `mean` is that of z2, and that of z1 at the mean of z2, which is E[z1] only where it is
    linear in z2.  As a prior p(z2) p(z1 | z2) and a posterior q(z2 | x) q(z1 | x, z2) it makes the two-layer
    VAE of Tomczak & Welling 2018.  That of Burda, Grosse, Salakhutdinov 2016 has q(z1 | x) q(z2 | z1): a Markov chain whose
    first variable is z1 (`reorder`).
    """
    given = (lambda z, context: z) if markov else join
    kind = max(first.kind, second.kind, key=KINDS.index)

    def init(key):
        keys = jax.random.split(key)
        return {"first": first.init(keys[0]), "second": second.init(keys[1])}

    def log_prob(params, key, z, context=None):
        keys = (None, None) if key is None else jax.random.split(key)
        z = as_array(z)
        z2, z1 = z[..., :dim], z[..., dim:]
        top = first.log_prob(params["first"], keys[0], z2, context)
        return top + second.log_prob(params["second"], keys[1], z1, given(z2, context))

    def sample(params, key, context=None, shape=()):
        keys = jax.random.split(key)
        z2, top = first.sample(params["first"], keys[0], context, shape)
        draw = lambda key, z2: second.sample(params["second"], key, given(z2, context))
        if context is not None and not shape:
            z1, below = draw(keys[1], z2)
        else:  # what a part is given has one batch axis, and each draw its own randomness
            flat = z2.reshape(math.prod(shape), *z2.shape[len(shape) :])
            if context is None:
                z1, below = draw(keys[1], flat)
            else:
                z1, below = jax.vmap(draw)(jax.random.split(keys[1], len(flat)), flat)
            z1 = z1.reshape(*z2.shape[:-1], -1)
            below = None if below is None else below.reshape(z2.shape[:-1])
        value = None if top is None or below is None else top + below
        return jnp.concatenate([z2, z1], axis=-1), value

    def mean(params, context=None):
        """The mean of z2, and the mean of z1 at it."""
        z2 = first.mean(params["first"], context)
        z1 = second.mean(params["second"], given(z2, context))
        return jnp.concatenate([jnp.broadcast_to(z2, (*z1.shape[:-1], dim)), z1], axis=-1)

    def share(params, posterior_params):
        """The first part's parameters with those of the posterior's first part."""
        return {**params, "first": first.share(params["first"], posterior_params["first"])}

    has_mean = first.mean is not None and second.mean is not None
    return Density(
        init,
        sample,
        log_prob,
        kind,
        mean if has_mean else None,
        reparameterised=first.reparameterised and second.reparameterised,
        space=pair(first.space, second.space),
        share=share if first.share else None,
    )


def reorder(density: Density, dim: int) -> Density:
    """The density of the vector [b, a], given that of [a, b], a its first `dim` elements.  Shapes as those of `joint`.

    Raises ValueError for one of a curved space.
    """
    if density.space != REALS:
        raise ValueError(f"only vectors of R^M are reordered, got a density on {density.space}")

    def log_prob(params, key, z, context=None):
        return density.log_prob(params, key, jnp.roll(as_array(z), dim, axis=-1), context)

    def sample(params, key, context=None, shape=()):
        z, value = density.sample(params, key, context, shape)
        return jnp.roll(z, -dim, axis=-1), value

    def mean(params, context=None):
        return jnp.roll(density.mean(params, context), -dim, axis=-1)

    return density._replace(
        sample=sample, log_prob=log_prob, mean=density.mean and mean, normal=None, terms=None
    )
