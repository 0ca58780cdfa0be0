"""Annealed importance sampling of a VAE's likelihood, with the record of its acceptance."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from dlvm_jax.evaluate.examples import as_precise_as
from dlvm_jax.functional import annealing, bounds
from dlvm_jax.models.density import require_kind
from dlvm_jax.models.spaces import REALS, check_points
from dlvm_jax.models.vae import Parts

__all__ = ["AnnealedRecord", "annealed_log_likelihoods"]


class AnnealedRecord(NamedTuple):
    """Estimates of log p(x) [N] in nats, their effective sample sizes [N], and the acceptance [temperatures, N] of each step."""

    log_likelihoods: np.ndarray
    effective_samples: np.ndarray
    acceptance: np.ndarray

    def line(self) -> str:
        """The figures as one line of text; the acceptance should be near 0.65 at every temperature."""
        values, examples = self.log_likelihoods, len(self.log_likelihoods)
        error = values.std(ddof=1) / math.sqrt(examples) if examples > 1 else math.nan
        by_temperature = self.acceptance.mean(axis=1)
        return (
            f"log p(x) ~ {values.mean():.2f} +- {error:.2f} nats (ais, {len(by_temperature)} temperatures, {examples} "
            f"examples, {np.median(self.effective_samples):.1f} effective chains; acceptance {by_temperature.mean():.2f}, "
            f"from {by_temperature.min():.2f} to {by_temperature.max():.2f} over temperatures)"
        )


@lru_cache(maxsize=8)
def _run(parts, chains, temperatures):
    betas = annealing.sigmoid_betas(temperatures)

    @jax.jit
    def run(params, key, x):
        def log_prior(z):
            return parts.prior.log_prob(params["prior"], None, z)

        def log_joint(z):
            return log_prior(z) + parts.decoder.log_prob(params["decoder"], None, x, z)

        def start(key):
            return parts.prior.sample(params["prior"], key, None, (chains, len(x)))[0]

        keys = jax.random.split(key, 4)
        steps = annealing.adapt_step_size(keys[0], log_prior, log_joint, start(keys[1]), betas)
        result = annealing.ais(keys[2], log_prior, log_joint, start(keys[3]), betas, steps)
        evidence = bounds.evidence(result.log_w)
        return evidence.log_evidence, evidence.effective_sample_size, result.acceptance

    return run


def annealed_log_likelihoods(
    parts: Parts,
    params: Any,
    x: np.ndarray,
    *,
    key: jax.Array,
    chains: int = 16,
    temperatures: int = 500,
    block: int = 50,
    progress: Callable[[int], None] = lambda done: None,
) -> AnnealedRecord:
    """An `AnnealedRecord`: log p(x) of each example from annealing the prior into the joint (Wu et al. 2017).

    parts: of a VAE with a latent space R^M, exact prior and decoder
    x: [N, *event]
    temperatures: steps from prior to joint, each 10 leapfrog steps of every chain, after as many of a pilot run that finds
        step sizes for an acceptance of 0.65
    block: examples computed at a time
    progress: called after each block with the number of examples done

    The encoder takes no part, so the estimate does not suffer from a bad one.
    Raises ValueError for a prior or decoder that is not exact, a prior on a curved space, and for (x, context).
    """
    if isinstance(x, tuple):
        raise ValueError("annealing is of an unconditional VAE; there is a context")
    if np.ndim(x) < 2:
        raise ValueError(f"the examples are [N, *event], got an array of shape {np.shape(x)}")
    if not len(x):
        raise ValueError("there are no examples to anneal for")
    require_kind(parts.prior, ("exact",), "annealing from the prior")
    require_kind(parts.decoder, ("exact",), "annealing to the joint density")
    if parts.prior.space != REALS:
        raise ValueError(f"annealing moves through R^M, got a prior on {parts.prior.space}")
    check_points(parts.decoder.space, x)
    own, size, results = parts.tied(params), min(block, len(x)), []
    run = _run(parts, chains, temperatures)
    with jax.default_matmul_precision("highest"):
        for number, begin in enumerate(range(0, len(x), size)):
            rows = as_precise_as(params, x[begin : begin + size])
            padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
            values = run(own, jax.random.fold_in(key, number), padded)
            results.append([np.asarray(value)[..., : len(rows)] for value in values])
            progress(begin + len(rows))
    return AnnealedRecord(*(np.concatenate(value, axis=-1) for value in zip(*results, strict=True)))
