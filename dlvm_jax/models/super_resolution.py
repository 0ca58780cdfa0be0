"""A smaller copy of an image as a latent variable: the self-supervised VAE and the super-resolution VAE."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlvm_jax.models.density import KINDS, Density, join

__all__ = ["average_pool", "downscaled"]


def average_pool(x: jax.Array, factor: int = 2) -> jax.Array:
    """An image of levels, smaller by a factor: the mean of each square of pixels, rounded (halves go up), so again levels.

    Shapes: [*batch, H, W, C] -> [*batch, H / factor, W / factor, C].
    Raises ValueError where a side is no multiple of the factor.
    """
    height, width, channels = x.shape[-3:]
    if height % factor or width % factor:
        raise ValueError(
            f"images of {height} x {width} pixels are not made smaller by {factor}: a side is no multiple of it"
        )
    squares = x.reshape(*x.shape[:-3], height // factor, factor, width // factor, factor, channels)
    return jnp.floor(squares.mean((-4, -2)) + 0.5)


def downscaled(of_y: Density, of_x_given_y: Density, downscale: Callable[[jax.Array], jax.Array]) -> Density:
    r"""The density of x that starts from a smaller copy y: $p(x)=\sum_y p(y)\,p(x\mid y)$, with posterior $q(y\mid x)=1[y=d(x)]$.

    $\log p(x) \ge \log p(d(x)) + \log p(x\mid d(x))$

    of_y: p(y);  of_x_given_y: p(x | y), under y;  both under the context too, where there is one
    downscale: d, a function of x with discrete values, such as `average_pool`

    Where the parts are VAEs this is the two-term bound of the paper, with latent u of y and z of x given y; its prior p(z | u, y)
    is here p(z | y).  A third scale is a `downscaled` density as p(y).

    The kind is the weaker of the two, and never "exact".  Of the sum over y only y = d(x) is counted, so E[exp log_prob] is
    p(x, y = d(x)), at most p(x), and equal to it only if p(x|y) vanishes wherever d(x) is not y.  What a weight may be used for
    stays right: importance-weighted bounds are lower bounds, and rise to log p(x, y = d(x)).  As a posterior it would be wrong.

    `terms` takes y as a latent variable: "reconstruction" is that of x given y.  "rates" are the KLs of the latent variables of
    y, then -log p(y | them), which is the KL of y, then the KLs of those of x.
    Raises ValueError for a y with real values, whose posterior would be a point mass without a density.
    Source: Gatopoulos, Stol, Tomczak 2020 (super-resolution VAE); Gatopoulos & Tomczak 2020 (selfVAE).
    """
    if not of_y.space.levels:
        raise ValueError(
            f"a downscaled image is a latent variable only where it has integer levels, got a density on {of_y.space}; "
            "its posterior is a point mass"
        )
    kind = max("weight", of_y.kind, of_x_given_y.kind, key=KINDS.index)

    def init(key):
        keys = jax.random.split(key)
        return {"y": of_y.init(keys[0]), "x": of_x_given_y.init(keys[1])}

    def terms(params, key, x, context=None):
        keys = (None, None) if key is None else jax.random.split(key)
        y = downscale(x)
        small = _terms(of_y, params["y"], keys[0], y, context)
        large = _terms(of_x_given_y, params["x"], keys[1], x, join(y, context))
        rates = jnp.concatenate(
            [small["rates"], -small["reconstruction"][..., None], large["rates"]], axis=-1
        )
        kl = small["kl"] - small["reconstruction"] + large["kl"]
        return {"reconstruction": large["reconstruction"], "kl": kl, "rates": rates}

    def log_prob(params, key, x, context=None):
        both = terms(params, key, x, context)
        return both["reconstruction"] - both["kl"]

    def sample(params, key, context=None, shape=()):
        key_y, key_x = jax.random.split(key)
        count = math.prod(shape)
        y, _ = of_y.sample(params["y"], key_y, context, (count,))
        if context is None:
            x, _ = of_x_given_y.sample(params["x"], key_x, y)
        else:  # what a part is given has one batch axis
            draw = lambda key, y: of_x_given_y.sample(params["x"], key, (y, context))[0]
            x = jax.vmap(draw)(jax.random.split(key_x, count), y)
        return x.reshape(*shape, *x.shape[1:]), None

    space = of_x_given_y.space
    return Density(init, sample, log_prob, kind, terms=terms, reparameterised=False, space=space)


def _terms(part, params, key, x, context):
    """Terms with rates of any density: one without latent variables has none."""
    if part.terms is None:
        log_prob = part.log_prob(params, key, x, context)
        return {"reconstruction": log_prob, "kl": 0.0, "rates": jnp.zeros((*log_prob.shape, 0))}
    found = part.terms(params, key, x, context)
    return {"rates": found["kl"][..., None], **found}
