"""Noise processes of diffusion models, fixed or trained."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from dlvm_jax.functional.diffusion import process, schedules

__all__ = ["Schedule", "fixed", "learned"]


class Schedule(NamedTuple):
    """A noise process that may be trained.

    init:    (key) -> params
    process: (params) -> Process
    """

    init: Callable
    process: Callable


def fixed(noise: process.Process) -> Schedule:
    """A schedule without parameters."""
    return Schedule(lambda key: {}, lambda params: noise)


def learned(low: float = -5.0, high: float = 13.3, knots: int = 16) -> Schedule:
    """A monotone schedule of log-SNR between fixed ends, which `vlb_loss` trains to less variance of the bound.

    Source: Kingma, Salimans, Poole, Ho 2021, section 3.2 and appendix I.2.
    """
    return Schedule(
        lambda key: {"logits": jnp.zeros(knots)},
        lambda params: schedules.piecewise_log_snr(low, high, params["logits"]),
    )
