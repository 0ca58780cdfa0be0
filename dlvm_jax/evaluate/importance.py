"""How far a density q is from an unnormalised target p = p~ / Z, from the log-weights log p~(x) - log q(x) of samples x of q.

Nothing here sees a part of the target where q has no samples; only a Z known beforehand reveals it.
"""

import math
from typing import NamedTuple

import numpy as np

from dlvm_jax.functional.divergences import MonteCarlo
from dlvm_jax.models.spaces import check_numbers

__all__ = ["ImportanceDiagnostics", "importance_diagnostics"]


class ImportanceDiagnostics(NamedTuple):
    """The figures of `importance_diagnostics`, in nats but for the last; each with a standard error.

    log_partition: log Z, estimated
    kl: KL(q || p) with that estimate;  kl_known: with a known log Z, or None
    effective: effective sample size, percent of the number of samples
    """

    log_partition: MonteCarlo
    kl: MonteCarlo
    kl_known: MonteCarlo | None
    effective: MonteCarlo


def importance_diagnostics(
    log_weights: np.ndarray, log_partition: float | None = None
) -> ImportanceDiagnostics:
    r"""log Z, KL(q || p) and effective sample size.

    log_weights: [N], of samples of q
    log_partition: log Z, if known

    $\log\hat Z = \log\tfrac1N\sum_n w_n,\quad \mathrm{KL} = \log\hat Z - \tfrac1N\sum_n\log w_n,\quad
        \mathrm{ESS} = \frac{(\sum_n w_n)^2}{N\sum_n w_n^2}$

    Standard errors by the delta method.  Raises ValueError for fewer than two weights, and for NaN.
    Source: Rezende et al. 2020, section 3; Kong 1992 (effective sample size).
    """
    check_numbers(log_weights, "log-weights")
    log_weights = np.asarray(log_weights, np.float64)
    if log_weights.ndim != 1 or len(log_weights) < 2:
        raise ValueError(f"expected log-weights [N] of at least 2 samples, got shape {log_weights.shape}")

    if np.isnan(log_weights).any() or not np.isfinite(log_weights.max()):
        raise ValueError(
            "log-weights are numbers, or -inf where the target is zero, got nan, inf or no finite one"
        )

    def error(influence):
        return float(np.std(influence, ddof=1) / math.sqrt(len(influence)))

    estimate = float(np.logaddexp.reduce(log_weights)) - math.log(len(log_weights))
    weights = np.exp(log_weights - estimate)  # of mean 1
    share = 1 / np.mean(weights**2)
    kl = float(estimate - log_weights.mean())
    known = None
    if log_partition is not None:
        known = MonteCarlo(float(log_partition - log_weights.mean()), error(log_weights))
    return ImportanceDiagnostics(
        log_partition=MonteCarlo(estimate, error(weights)),
        kl=MonteCarlo(kl, error(weights - log_weights)),
        kl_known=known,
        effective=MonteCarlo(100 * float(share), 100 * error(2 * share * weights - share**2 * weights**2)),
    )
