r"""What a network may predict at a noisy point, and how one prediction becomes another.

Every target is linear in the clean point and the noisy one, target = a(t) x_0 + b(t) x_t, and so is its expectation
given x_t: a prediction of one is a prediction of all.
"""

from typing import NamedTuple

import jax.numpy as jnp

from dlvm_jax.functional.diffusion.process import Process, alpha, diffusion, drift, expand_to_event, sigma
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["TARGETS", "Preconditioning", "coefficients", "from_x0", "preconditioning", "to_x0"]

TARGETS = ("x0", "epsilon", "score", "v", "velocity")


def coefficients(process: Process, target: str, t: Numeric) -> tuple[Array, Array]:
    r"""The coefficients a and b of a target.

    $\mathrm{target} = a(t)\,x_0 + b(t)\,x_t$, with $\epsilon = (x_t-\alpha_tx_0)/\sigma_t$ in: $\epsilon$ itself; the score
    of $q(x_t\mid x_0)$, $-\epsilon/\sigma_t$; $v = \alpha_t\epsilon-\sigma_tx_0$; the velocity
    $\dot x_t = \dot\alpha_tx_0+\dot\sigma_t\epsilon$

    Shapes: t any -> (a, b), same.  At a clean t they are finite for x0 alone.  Raises ValueError for an unknown target.  For
    alpha = 1 - t, sigma = t the velocity is $\epsilon - x_0$.
    Source: Salimans & Ho 2022, section 4 and appendix D; Albergo & Vanden-Eijnden 2023 (velocity).

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> a, b = coefficients(edm(), "epsilon", 2.0)
    >>> float(a.round(5)), float(b.round(5))
    (-0.5, 0.5)
    """
    t = jnp.asarray(t, float)
    scale, noise = alpha(process, t), sigma(process, t)
    if target == "x0":
        return jnp.ones_like(t), jnp.zeros_like(t)
    if target == "epsilon":
        return -scale / noise, 1 / noise
    if target == "score":
        return scale / noise**2, -1 / noise**2
    if target == "v":
        return -(scale**2) / noise - noise, scale / noise
    if target == "velocity":  # dot sigma / sigma = f + g^2 / (2 sigma^2)
        growth = 0.5 * (diffusion(process, t) / noise) ** 2
        return -scale * growth, drift(process, t) + growth
    raise ValueError(f"a target is one of {', '.join(TARGETS)}, got {target!r}")


def to_x0(process: Process, target: str, prediction: Array, x_t: Array, t: Numeric) -> Array:
    r"""The clean point that a prediction of any target implies.

    $\hat x_0 = (\mathrm{prediction} - b(t)\,x_t)/a(t)$

    Shapes: `prediction`, `x_t` [*batch, *event], t scalar or [*batch] -> [*batch, *event].  Raises ValueError for an unknown
    target.  Source: Ho, Jain, Abbeel 2020, eq. 15, for any target.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> to_x0(edm(), "epsilon", jnp.ones(1), jnp.array([5.0]), 2.0).tolist()
    [3.0]
    """
    a, b = coefficients(process, target, t)
    return (prediction - expand_to_event(b, x_t) * x_t) / expand_to_event(a, x_t)


def from_x0(process: Process, target: str, x0: Array, x_t: Array, t: Numeric) -> Array:
    r"""A target at a clean point (or at an expected one: its expectation).

    $a(t)\,x_0 + b(t)\,x_t$, inverse of `to_x0`

    Shapes: `x0`, `x_t` [*batch, *event], t scalar or [*batch] -> [*batch, *event].  Raises ValueError for an unknown target.
    Source: Tweedie's formula for the score, Efron 2011, eq. 1.4.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> from_x0(edm(), "score", jnp.array([3.0]), jnp.array([5.0]), 2.0).tolist()
    [-0.5]
    """
    a, b = coefficients(process, target, t)
    return expand_to_event(a, x_t) * x0 + expand_to_event(b, x_t) * x_t


class Preconditioning(NamedTuple):
    """Scales around a network F: the denoiser is skip x_t + out F(input x_t)."""

    input: Array
    skip: Array
    out: Array


def preconditioning(process: Process, t: Numeric, data_std: Numeric) -> Preconditioning:
    r"""Scales that give a network inputs and targets of variance one and amplify its errors least.

    $\hat x_0 = c_{skip}x_t + c_{out}F(c_{in}x_t):\quad c_{in} = 1/\sqrt{\alpha_t^2s^2+\sigma_t^2},\
        c_{skip} = \alpha_ts^2c_{in}^2,\ c_{out} = \sigma_ts\,c_{in}$, with s the standard deviation of the data

    Shapes: t any -> three of the same.  With alpha = 1 these are the paper's; for a variance-preserving process and s = 1,
    F predicts -v.  Source: Karras, Aittala, Aila, Laine 2022, table 1 and appendix B.6, for any alpha.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> [round(float(scale), 4) for scale in preconditioning(edm(), 2.0, 1.0)]
    [0.4472, 0.2, 0.8944]
    """
    scale, noise = alpha(process, t), sigma(process, t)
    shrink = 1 / jnp.sqrt(jnp.square(scale * data_std) + jnp.square(noise))
    return Preconditioning(shrink, scale * data_std**2 * shrink**2, noise * data_std * shrink)
