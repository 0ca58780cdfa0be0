r"""Training objectives: every one is the squared error of the clean point times a known function of time.

$\ell = w(t)\,\|x_0-\hat x_0\|^2$: predicting another target or weighting in another way changes w alone.
"""

import jax.numpy as jnp

from dlvm_jax.functional.diffusion.process import Process, diffusion, sigma
from dlvm_jax.functional.diffusion.targets import TARGETS, coefficients, from_x0
from dlvm_jax.functional.numerics import sum_event
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["WEIGHTS", "denoising_loss", "weight"]

WEIGHTS = (*TARGETS, "likelihood", "min_snr", "edm")


def weight(name: str, process: Process, t: Numeric, cap: float = 5.0, data_std: float = 0.5) -> Array:
    r"""Weight of the squared error of the clean point in an objective, with $\lambda = \log(\alpha^2/\sigma^2)$.

    $w(t) = a(t)^2$ for the plain squared error of a target $a\,x_0+b\,x_t$ (epsilon, "simple": $e^\lambda$);
    likelihood: $-\tfrac12\dot\lambda\,e^{\lambda}$; min_snr: $\min(e^\lambda, \mathrm{cap})$; edm: $e^\lambda+1/s^2$, which is
    $(\sigma^2+s^2)/(\sigma s)^2$ for $\alpha=1$

    Shapes: t any -> same.  Under "likelihood" the integral over t is the diffusion term of the bound, in nats.  Raises
    ValueError for an unknown name.  Source: Kingma & Gao 2023; Hang et al. 2023 (min_snr);
    Karras, Aittala, Aila, Laine 2022, table 1 (edm).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> [float(weight(name, edm(), 2.0).round(5)) for name in ("x0", "epsilon", "edm")]
    [1.0, 0.25, 4.25]
    """
    snr = jnp.exp(process.log_snr(jnp.asarray(t, float)))
    if name == "likelihood":
        return 0.5 * jnp.square(diffusion(process, t) / sigma(process, t)) * snr
    if name == "min_snr":
        return jnp.minimum(snr, cap)
    if name == "edm":
        return snr + 1 / data_std**2
    if name in TARGETS:
        return jnp.square(coefficients(process, name, t)[0])
    raise ValueError(f"a weight is one of {', '.join(WEIGHTS)}, got {name!r}")


def denoising_loss(
    process: Process,
    target: str,
    prediction: Array,
    x0: Array,
    x_t: Array,
    t: Numeric,
    weight: Numeric,
    event_ndim: int = 1,
) -> Array:
    r"""Weighted squared error of a prediction of any target, summed over the event.

    $\ell = w(t)\,\|x_0-\hat x_0\|^2 = \frac{w(t)}{a(t)^2}\,\|\mathrm{target}-\mathrm{prediction}\|^2$

    With `weight("epsilon", process, t)` it is the simple loss of Ho et al., whatever the network predicts.
    Shapes: `prediction`, `x0`, `x_t` [*batch, *event]; t, `weight` scalar or [*batch] -> [*batch].  Raises ValueError for an
    unknown target and for other shapes.  Source: Ho, Jain, Abbeel 2020, eq. 14; Salimans & Ho 2022, section 4.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> from dlvm_jax.functional.diffusion.objectives import weight
    >>> x0, eps, w = jnp.zeros((1, 2)), jnp.ones((1, 2)), weight("epsilon", edm(), 2.0)
    >>> denoising_loss(edm(), "epsilon", 0 * eps, x0, 2 * eps, 2.0, w).tolist()
    [2.0]
    """
    error = from_x0(process, target, x0, x_t, t) - prediction
    if error.shape != jnp.shape(x_t):
        raise ValueError(
            f"prediction, x0 and x_t have one shape, got {jnp.shape(prediction)}, {jnp.shape(x0)} and {jnp.shape(x_t)}"
        )
    square = sum_event(jnp.square(error), event_ndim)
    scale = weight / jnp.square(coefficients(process, target, t)[0])
    if jnp.broadcast_shapes(scale.shape, square.shape) != square.shape:
        raise ValueError(
            f"t and weight are scalars or have the batch's shape {square.shape}, got {jnp.shape(t)} and {jnp.shape(weight)}"
        )
    return scale * square
