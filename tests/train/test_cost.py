"""Operations counted in programs whose count is known by hand."""

import jax
import jax.numpy as jnp
import pytest

from dlvm_jax.train.cost import flops

SQUARE = jnp.ones((4, 4))


def layers(w, x):
    return jax.lax.scan(lambda h, w: (h @ w, None), x, w)[0].sum()


def test_a_scan_counts_each_turn_and_a_gradient_two_more_products():
    w, x = jnp.ones((8, 16, 16)), jnp.ones((4, 16))
    once = 2 * 8 * 4 * 16 * 16
    assert flops(layers, w, x) == once
    assert flops(jax.grad(layers), w, x) == 3 * once
    assert flops(jax.jit(jax.vmap(layers, in_axes=(0, None))), jnp.stack([w, w]), x) == 2 * once


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_a_convolution_is_a_product_at_each_place(strides):
    x, kernel = jnp.ones((2, 8, 8, 5)), jnp.ones((3, 3, 5, 7))
    dimensions = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, strides, "SAME", dimension_numbers=dimensions)
    places = 2 * 8 * 8 // (strides[0] * strides[1])
    assert flops(convolve, x, kernel) == 2 * places * 7 * 3 * 3 * 5


def test_of_a_conditional_the_expensive_branch_counts():
    choose = lambda x: jax.lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)
    assert flops(choose, SQUARE) == 2 * 2 * 4**3


def test_shapes_are_enough():
    assert flops(lambda x: x @ x, jax.ShapeDtypeStruct((4, 4), jnp.float32)) == 2 * 4**3
