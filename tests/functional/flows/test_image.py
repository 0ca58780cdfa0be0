"""Noise of dequantisation: as fine as float32 can tell from its neighbours, and no finer."""

import numpy as np
import pytest

from dlvm_jax.functional.flows import image


@pytest.mark.parametrize("bits", [16, 12, 9, 8, 1])
def test_noise_has_the_most_steps_that_float32_holds(bits):
    """Level plus (step + 1/2) / steps is exact at the top level; with twice the steps, where there are below 2^15, it is not."""
    levels = 2**bits
    steps = image.noise_steps(levels)

    def exact(steps):
        value = levels - 1 + (2.0 * np.array([0, steps // 2, steps - 1]) + 1) / (2 * steps)
        return (value.astype(np.float32) == value).all()

    assert exact(steps) and steps <= 2**15
    assert steps == 2**15 or not exact(2 * steps)
