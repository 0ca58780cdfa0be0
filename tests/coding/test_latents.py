"""Cells of latent numbers under a mixture: they cost what it says, and are drawn from it."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from dlvm_jax.coding.latents import CELL, LIMIT, mixture_cells
from dlvm_jax.coding.stack import Stack

pytest.importorskip("constriction")


def test_cells_of_a_mixture_cost_what_it_says_and_are_drawn_from_it():
    rng = np.random.RandomState(0)
    mean, log_std, weights = (
        np.array([[-2.0, 1], [1, 0], [4, 3]]),
        0.5 * rng.randn(3, 2),
        np.array([0.5, 0.2, 0.3]),
    )
    (middle, log_spread), codec = mixture_cells(mean, log_std, np.log(weights))
    std, spread = np.exp(log_std), np.exp(log_spread)
    np.testing.assert_allclose(middle, weights @ mean)
    np.testing.assert_allclose(spread**2, weights @ (std**2 + mean**2) - middle**2)

    stack = Stack(rng.randint(0, 2**32, 20_000, np.uint32), seal=True)
    before, index = stack.bits, codec.pop(stack, 3000)
    z = middle + spread * CELL * (index - LIMIT)
    half = spread * CELL / 2
    of = lambda a: (a[:, None] - mean) / std
    log_mass = np.log(norm.cdf(of(z + half)) - norm.cdf(of(z - half)) + 1e-300).sum(-1)
    bits = -logsumexp(np.log(weights) + log_mass, axis=1).sum() / np.log(2)
    assert (
        abs(before - stack.bits - bits) < 64 + 1e-3 * bits
    )  # tables have 24 bits, and each cell one of 2^24 at least
    np.testing.assert_allclose(z.mean(0), middle, atol=6 * spread.max() / np.sqrt(3000))  # false alarms 4e-9
    near = np.argmin(np.abs(z[:, :1] - mean[:, 0]) / std[:, 0] + np.log(std[:, 0]), axis=1)
    correlation = np.corrcoef(z.T)[0, 1]
    exact = (weights @ (mean[:, 0] * mean[:, 1]) - middle.prod()) / spread.prod()
    assert abs(correlation - exact) < 6 / np.sqrt(3000) and len(np.unique(near)) == 3
    codec.push(stack, index)
    assert stack.bits == before


def test_both_tails_of_a_mixture_cost_the_same():
    """A number 12 deviations from one component and 24 from the other says whose the next is, on either side of them."""
    mean, log_std, log_weights = (
        np.array([[0.3, 0], [-0.3, 0.5]]),
        np.log(np.full((2, 2), 0.05)),
        np.log([0.1, 0.9]),
    )
    bits = []
    for side in (1, -1):
        (middle, log_spread), codec = mixture_cells(side * mean, log_std, log_weights)
        cells = np.round((side * np.array([0.9, 0.0]) - middle) / (np.exp(log_spread) * CELL)) + LIMIT
        stack = Stack()
        codec.push(stack, np.tile(cells.astype(int), (100, 1)))
        bits.append(stack.bits)
    assert abs(bits[0] - bits[1]) <= 32  # a stack grows by words
