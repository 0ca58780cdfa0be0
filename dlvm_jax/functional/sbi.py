r"""Losses, and a proposal, of simulation-based inference: from pairs of parameters and data to a posterior, likelihood or ratio.

Pairs $(\theta,x)$ come from the joint $p(\theta)p(x\mid\theta)$.  These losses are those that no other file has.  Neural
posterior and likelihood estimation by maximum likelihood descend $-\log q(\theta\mid x)$ and $-\log q(x\mid\theta)$.  NRE-A is
`adversarial.discriminator_loss` of logits of joint and of independent pairs.  A flow-matching posterior (FMPE) has
`flows.continuous.flow_matching_loss` with a velocity that sees x, a score posterior (NPSE) `diffusion.objectives.denoising_loss`.
A ratio is $f(\theta,x) = \log\frac{p(x\mid\theta)}{p(x)}$, so that $p(\theta\mid x) = p(\theta)e^{f}$.
"""

import jax
import jax.numpy as jnp

from dlvm_jax.functional.numerics import as_wide
from dlvm_jax.functional.types import Array, Numeric

__all__ = ["atomic_loss", "balance", "contrastive_loss", "ratio_loss", "truncation", "weighted_loss"]


def weighted_loss(log_q: Array, log_prior: Array, log_proposal: Array) -> Array:
    r"""Importance-weighted posterior estimation (SNPE-B): parameters from a proposal count as if from the prior.

    $-\frac{p(\theta)}{\tilde p(\theta)}\log q(\theta\mid x),\quad \theta\sim\tilde p$

    Its minimiser is the posterior under p.  The weights have a large variance where the proposal is narrow.
    Shapes: `log_q`, `log_prior`, `log_proposal` broadcast to [*batch] -> [*batch], nats.  The weight carries no gradient.
    Source: Lueckmann et al. 2017 (the importance-weighted loss).

    >>> float(weighted_loss(jnp.float32(-3.0), jnp.float32(0.0), jnp.float32(0.0)))
    3.0
    """
    log_q, log_prior, log_proposal = as_wide(log_q, log_prior, log_proposal)
    return -jax.lax.stop_gradient(jnp.exp(log_prior - log_proposal)) * log_q


def _atoms(logits):
    if logits.ndim < 1 or len(logits) < 2:
        raise ValueError(f"a contrast is among at least two parameters [M, *batch], got shape {logits.shape}")
    return logits


def contrastive_loss(logits: Array) -> Array:
    r"""Contrastive ratio estimation (NRE-B): which of M parameters made x.

    $-\log\frac{e^{f(\theta_1,x)}}{\sum_{m=1}^Me^{f(\theta_m,x)}},\quad (\theta_1,x)\sim p(\theta,x),\ \theta_{m>1}\sim p(\theta)$

    The minimiser is the ratio up to any function of x.
    Shapes: `logits` [M, *batch], the joint pair first -> [*batch], nats.  Raises ValueError for fewer than two.
    Source: Durkan, Murray, Papamakarios 2020.

    >>> round(float(contrastive_loss(jnp.zeros(4))), 6)
    1.386294
    """
    logits = _atoms(as_wide(logits))
    return -jax.nn.log_softmax(logits, axis=0)[0]


def atomic_loss(log_q: Array, log_prior: Array) -> Array:
    r"""Atomic posterior estimation (NPE-C, also SNPE-C, APT): right for parameters of any proposal, without its density.

    $-\log\frac{q(\theta_1\mid x)/p(\theta_1)}{\sum_{m=1}^Mq(\theta_m\mid x)/p(\theta_m)}$

    The contrast of M parameters by log q - log p.  Adding c(x) to log q leaves it unchanged, so that mass outside of the prior
    is free: q should live on the prior's support.
    Shapes: `log_q`, `log_prior` [M, *batch], the parameter of x first -> [*batch], nats.  Raises ValueError for fewer than two.
    Source: Greenberg, Nonnenmacher, Macke 2019 (atomic proposals).

    >>> round(float(atomic_loss(jnp.array([-1.0, -1.0]), jnp.zeros(2))), 6)
    0.693147
    """
    log_q, log_prior = as_wide(log_q, log_prior)
    return contrastive_loss(log_q - log_prior)


def ratio_loss(marginal_logits: Array, joint_logits: Array, gamma: Numeric = 1.0) -> Array:
    r"""Contrastive ratio estimation with an independent class (NRE-C), whose minimiser is the ratio itself.

    $-\frac1{1+\gamma}\log\frac{K}{K+\gamma\sum_ke^{f(\theta_k',x)}}
        -\frac{\gamma}{1+\gamma}\log\frac{\gamma e^{f(\theta_1,x)}}{K+\gamma\sum_ke^{f(\theta_k,x)}}$

    All K of $\theta'$ are independent of x; of $\theta$ all but the first.  K = 1 with gamma = 1 is half of NRE-A; gamma to
    infinity is NRE-B.
    Shapes: `marginal_logits`, `joint_logits` [K, *batch] -> [*batch], nats.  Raises ValueError for different shapes.
    Source: Miller, Weniger, Forre 2022.

    >>> round(float(ratio_loss(jnp.zeros(1), jnp.zeros(1))), 6)
    0.693147
    """
    marginal, joint, gamma = as_wide(marginal_logits, joint_logits, gamma)
    if marginal.shape != joint.shape or not marginal.ndim or gamma.ndim:
        raise ValueError(
            f"logits are [K, *batch], both alike, and gamma is a number, got {marginal.shape}, {joint.shape} and {gamma.shape}"
        )
    shift = jnp.log(gamma) - jnp.log(jnp.asarray(len(marginal), gamma.dtype))
    none = jax.nn.softplus(shift + jax.nn.logsumexp(marginal, axis=0))
    first = jax.nn.softplus(shift + jax.nn.logsumexp(joint, axis=0)) - shift - joint[0]
    return (none + gamma * first) / (1 + gamma)


def balance(joint_logits: Array, marginal_logits: Array) -> Array:
    r"""The penalty of balanced ratio estimation (BNRE): a balanced classifier makes conservative posteriors.

    $\big(\mathbb E_{p(\theta,x)}[s(f)] + \mathbb E_{p(\theta)p(x)}[s(f)] - 1\big)^2,\quad s(f) = \frac{1}{1+e^{-f}}$

    The exact ratio is balanced.  It is added to NRE-A, 100 times in the paper.
    Shapes: logits [N] and [P] -> scalar.  Source: Delaunoy et al. 2022.

    >>> float(balance(jnp.zeros(3), jnp.zeros(2)))
    0.0
    """
    joint, marginal = as_wide(joint_logits, marginal_logits)
    return jnp.square(jnp.mean(jax.nn.sigmoid(joint)) + jnp.mean(jax.nn.sigmoid(marginal)) - 1)


def truncation(log_q: Array, left_out: Numeric = 1e-4) -> Array:
    r"""Where a truncated proposal ends (TSNPE): parameters of a lower density given the observation are not simulated.

    $\tau = \mathrm{quantile}_\epsilon\log q(\theta_s\mid x_o),\ \theta_s\sim q(\theta\mid x_o),\quad
        \tilde p(\theta)\propto p(\theta)\,1[\log q(\theta\mid x_o)\ge\tau]$

    $\log q\ge\tau$ is the smallest region that holds $1-\epsilon$ of q.  There the proposal is the prior times a constant:
    maximum likelihood finds the posterior under the prior, cut off at the region, without weights.
    left_out: epsilon.
    Shapes: `log_q` [S, *batch], of draws of q -> [*batch], nats.  Source: Deistler, Goncalves, Macke 2022.

    >>> float(truncation(jnp.array([-1.0, -3.0, -2.0]), 0.5))
    -2.0
    """
    log_q, left_out = as_wide(log_q, left_out)
    return jnp.quantile(log_q, left_out, axis=0, method="lower")
