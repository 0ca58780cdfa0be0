"""Integer frequencies and the stack of symbols: lengths as the frequencies say, and everything comes back."""

import numpy as np
import pytest
from scipy.stats import norm

from dlvm_jax.coding.stack import PRECISION, Stack, frequencies

pytest.importorskip("constriction")
RNG = np.random.RandomState(0)
WHOLE = 2**PRECISION


def random_tables(count, levels):
    return frequencies(np.log(RNG.dirichlet(np.full(levels, 0.05), count) + 1e-300))


@pytest.mark.parametrize("levels", [2, 256, 3000])
def test_frequencies_are_at_least_one_sum_to_the_whole_and_are_near(levels):
    log_probs = np.log(RNG.dirichlet(np.full(levels, 0.05), 50) + 1e-300)
    found = frequencies(log_probs)
    assert found.min() >= 1 and (found.sum(-1) == WHOLE).all()
    assert np.abs(found / WHOLE - np.exp(log_probs)).max() <= (levels + 1) / WHOLE
    np.testing.assert_array_equal(
        frequencies(log_probs + 7.0), found
    )  # unnormalised ones too, by the same rounding
    np.testing.assert_array_equal(frequencies([[0.0, -np.inf]]), [[WHOLE - 1, 1]])


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [-np.inf, -np.inf]])
def test_no_table_is_refused(bad):
    with pytest.raises(ValueError, match="NaN or no probability"):
        frequencies([bad])


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_symbols_come_back_and_cost_what_their_frequencies_say(levels):
    """To 1e-6 of the length and the 64 bits that the coder's own state may add."""
    tables = random_tables(20_000, levels)
    symbols = (RNG.rand(20_000, 1) > (np.cumsum(tables, -1) / WHOLE)).sum(-1)
    symbols[:2000] = RNG.randint(0, levels, 2000)  # improbable ones too
    stack = Stack()
    stack.push(symbols, tables)
    expected = -np.log2(tables[np.arange(20_000), symbols] / WHOLE).sum()
    assert abs(stack.bits - expected) < 64 + 1e-6 * expected
    again = Stack(stack.words())
    for part in np.split(np.arange(20_000), [1, 500]):  # in pieces, the first first
        np.testing.assert_array_equal(again.pop(tables[part]), symbols[part])


def test_bits_come_back():
    """What is popped without having been pushed are draws; pushed again, the words are those of the beginning."""
    words = RNG.randint(0, 2**32, 4000, np.uint32)
    stack, tables = Stack(words, seal=True), frequencies(np.log(np.tile([0.5, 0.3, 0.2], (20_000, 1))))
    before, drawn = stack.bits, stack.pop(tables)
    counts = np.bincount(drawn, minlength=3)
    assert abs(before - stack.bits - 20_000 * 1.4855) < 6 * np.sqrt(20_000) + 64
    assert ((counts - 20_000 * np.array([0.5, 0.3, 0.2])) ** 2 / 4000).sum() < 40  # false alarms 1e-7
    with pytest.raises(ValueError, match="do not come back"):
        Stack(np.array([5], np.uint32)).words(unseal=True)
    stack.push(drawn, tables)
    np.testing.assert_array_equal(stack.words(unseal=True), words)


def test_normal_cells_cost_what_the_normal_law_says():
    mean, std, limit = 300 * RNG.randn(5000), 100 * np.exp(RNG.randn(5000)), 2**13
    stack = Stack(RNG.randint(0, 2**32, 5000, np.uint32), seal=True)
    before, index = stack.bits, stack.pop_normal(mean, std, limit)
    cells = norm.cdf((index + 0.5 - mean) / std) - norm.cdf((index - 0.5 - mean) / std)
    exact = -np.log2(cells * (1 - (2 * limit + 1) / WHOLE) + 1 / WHOLE).sum()
    assert abs(before - stack.bits - exact) < 64 + 1e-4 * exact  # the coder rounds each cell to 2^-24
    kolmogorov = np.abs(np.sort(norm.cdf((index - mean) / std)) - (np.arange(5000) + 0.5) / 5000).max()
    assert kolmogorov < 0.04  # of 5000 draws, false alarms 2 exp(-2 * 5000 * 0.04^2) = 2e-7
    stack.push_normal(index, mean, std, limit)
    assert stack.bits == before


def test_stirring_is_undone_and_makes_uneven_bits_even():
    """Cells far from the middle of their law are drawn again from their own code; from the stirred one come cells of that law."""
    law = np.zeros(4000), np.full(4000, 128.0), 2**10
    stack = Stack(RNG.randint(0, 2**32, 500, np.uint32), seal=True)
    stack.push_normal(np.full(4000, 150), *law)
    before, pieces = stack.words(), 1500
    assert (stack.pop_normal(*law) == 150).all()
    stack = Stack(before)
    stack.stir(pieces)
    drawn = stack.pop_normal(*law)
    assert abs(drawn.mean()) < 6 * 128 / np.sqrt(4000) and abs(drawn.std() / 128 - 1) < 6 / np.sqrt(
        8000
    )  # false alarms 4e-9
    stack.push_normal(drawn, *law)
    stack.stir(pieces, back=True)
    np.testing.assert_array_equal(stack.words(), before)


def test_the_whole_of_a_short_stack_is_stirred_and_back():
    """Of every length in bits, up to 250."""
    bit = frequencies(np.zeros((1, 2)))
    for seed in range(20):
        stack = Stack(np.random.RandomState(seed).randint(0, 2**32, 8, np.uint32), seal=True)
        for _ in range(250):
            before = stack.words()
            stack.stir(1000)
            stack.stir(1000, back=True)
            np.testing.assert_array_equal(stack.words(), before)
            stack.pop(bit)


def test_without_the_coder_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("dlvm_jax.coding.stack.constriction", None)
    with pytest.raises(ValueError, match=r"pip install 'dlvm_jax\[coding\]'"):
        Stack()
