"""Simple codes against counts by hand, and the published figures of MNIST."""

import lzma
import os

import numpy as np
import pytest

from dlvm_jax import data
from dlvm_jax.evaluate.baseline_code_lengths import baseline_code_lengths


def test_by_hand():
    """Every probability recomputed one element at a time, in an image where each code has another context."""
    rng = np.random.RandomState(0)
    train, test = rng.randint(0, 9, (4, 3, 3, 2)), rng.randint(0, 9, (2, 3, 3, 2))
    band = lambda v: 0 if v == 0 else 1 + (v - 1) * 6 // 8

    def context(x, n, i, j, c):
        at = lambda i, j: band(x[n, i, j, c]) if i >= 0 and 0 <= j < 3 else 0
        return at(i, j - 1), at(i - 1, j), at(i - 1, j - 1), at(i - 1, j + 1)

    def bits(which):
        """`which` names the table of an element."""
        seen = [(which(train, *place), train[place]) for place in np.ndindex(*train.shape)]
        share = [(np.sum(train == v) + 100 / 9) / (train.size + 100) for v in range(9)]
        total = 0.0
        for place in np.ndindex(*test.shape):
            table, value = which(test, *place), test[place]
            here = [v for t, v in seen if t == table]
            base = share[value] if table is not None else 1 / 9
            total -= np.log2((here.count(value) + 100 * base) / (len(here) + 100))
        return total / test.size

    found = baseline_code_lengths(train, test, 9)
    assert found["histogram"] == pytest.approx(bits(lambda *place: None))
    assert found["histogram of each place"] == pytest.approx(bits(lambda x, n, i, j, c: (i, j, c)))
    assert found["table of four neighbours"] == pytest.approx(bits(context))
    assert found["xz"] == 8 * len(lzma.compress(test.astype(np.uint8).tobytes(), preset=9)) / test.size


@pytest.mark.slow
def test_figures_of_mnist():
    """Whole histogram 1.967, of each place 1.689, xz 1.392; the table 1.225 where the validation images train it too."""
    if not os.environ.get("DLVM_DATA"):
        pytest.skip("MNIST needs DLVM_DATA")
    mnist = data.load("mnist", "levels")
    found = baseline_code_lengths(mnist.train, mnist.test, mnist.levels)
    rounded = {name: round(bits, 3) for name, bits in found.items()}
    assert (rounded["histogram"], rounded["histogram of each place"], rounded["xz"]) == (1.967, 1.689, 1.392)
    assert found["table of four neighbours"] == pytest.approx(1.225, abs=0.004)
