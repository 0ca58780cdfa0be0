r"""Guidance: denoisers that are steered to a class or a condition.

Each takes denoisers `denoise(x, t) -> E[x_0 | x_t]` and gives another one, so every solver runs with it.  A change d of the
score is a change sigma^2 / alpha d of the clean point.  What guidance samples is not the density
raised to a power: see `classifier_free`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlvm_jax.functional.diffusion.process import Process, alpha, expand_to_event, sigma
from dlvm_jax.functional.numerics import as_float
from dlvm_jax.functional.types import Array, Denoiser, Numeric

__all__ = ["classifier", "classifier_free"]


def classifier_free(
    conditional: Denoiser, unconditional: Denoiser, weight: Numeric | Callable[[Numeric], Numeric]
) -> Denoiser:
    r"""Classifier-free guidance: away from the unconditional prediction.

    $\hat x_0 = (1+w)\,\hat x_0(x_t, c) - w\,\hat x_0(x_t)$

    w = 0 is conditional, w = -1 unconditional; other texts call 1 + w the scale.  The coefficients sum to one, so it is the
    same in every target (`targets`).  The result is not a sampler of p(x) p(c | x)^(1 + w): for Gaussians of variances v_c and
    v_u the flow ends with v_c (v_c / v_u)^w.
    weight: w, or a function t -> w, which may be zero outside an interval of noise levels.
    Shapes: denoisers (x [*batch, *event], t) -> denoiser of the same.
    Source: Ho & Salimans 2022, eq. 6; Kynkäänniemi et al. 2024 (intervals).

    >>> denoise = classifier_free(lambda x, t: x, lambda x, t: 0 * x, 2.0)
    >>> denoise(jnp.ones(1), 1.0).tolist()
    [3.0]
    """

    def denoise(x, t):
        w = as_float(expand_to_event(weight(t) if callable(weight) else weight, x))
        return (1 + w) * conditional(x, t) - w * unconditional(x, t)

    return denoise


def classifier(
    process: Process, denoise: Denoiser, log_classifier: Callable[[Array, Any], Array], scale: Numeric = 1.0
) -> Denoiser:
    r"""Classifier guidance: the score plus the gradient of a classifier of noisy points.

    $\hat x_0 = \hat x_0(x_t) + s\,\frac{\sigma_t^2}{\alpha_t}\,\nabla_{x_t}\log p(c\mid x_t)$

    Exact for scale s = 1 and the exact classifier, by Bayes' rule.
    log_classifier: (x, t) -> log p(c | x_t) of the wanted class, [*batch].
    Shapes: a denoiser (x [*batch, *event], t) -> denoiser of the same.
    Raises ValueError when log_classifier does not return one number for each example.  Source: Dhariwal & Nichol 2021, eq. 14.

    >>> from dlvm_jax.functional.diffusion.schedules import edm
    >>> guided = classifier(edm(), lambda x, t: 0 * x, lambda x, t: jax.nn.log_sigmoid(x).sum(-1))
    >>> guided(jnp.zeros((3, 1)), 2.0)[0].tolist()
    [2.0]
    """

    def total(x, t):
        log_prob = log_classifier(x, t)
        if log_prob.ndim >= x.ndim or log_prob.shape != x.shape[: log_prob.ndim]:
            raise ValueError(
                f"a classifier gives one log-probability for each example of {x.shape}, got {log_prob.shape}"
            )
        return log_prob.sum()

    def guided(x, t):
        x = as_float(x)
        gain = jnp.square(sigma(process, t)) / alpha(process, t)
        return denoise(x, t) + scale * expand_to_event(gain, x) * jax.grad(total)(x, t)

    return guided
