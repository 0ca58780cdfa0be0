"""Networks: shapes for any leading batch, float32 outputs, gradients everywhere."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import nets
from dlvm_jax.nets import conv
from dlvm_jax.nets.causal_transformer import attention, causal_attention
from dlvm_jax.nets.conv import Conv, GatedConv

NETS = {
    "slides": (nets.MLP((300,), (2, 2)), (784,)),
    "kingma": (nets.MLP((500,), (20, 2), activation=jnp.tanh), (784,)),
    "image": (nets.MLP((16, 8), (3, 2), event_ndim=3), (8, 8, 1)),
    "gated": (nets.MLP((16, 8), (3, 2), gated=True), (10,)),
    "residual": (nets.MLP((16, 16, 8), (3, 2), connect="residual"), (10,)),
    "dense": (nets.MLP((16, 8), (3, 2), connect="dense"), (10,)),
    "bfloat16": (nets.MLP((16,), (3, 2), dtype=jnp.bfloat16), (10,)),
    "conv encoder": (nets.ConvEncoder((4, 8), (3, 2)), (9, 8, 1)),
    "conv decoder": (nets.ConvDecoder((8, 4), (9, 8, 1, 2)), (3,)),
    "gated conv encoder": (nets.GatedConvEncoder((4, 8), (3, 2)), (9, 8, 1)),
    "gated conv decoder": (nets.GatedConvDecoder((8, 4), (9, 8, 1, 2)), (3,)),
    "conv bfloat16": (nets.ConvDecoder((8, 4), (28, 28, 1, 1), dtype=jnp.bfloat16), (3,)),
}


@pytest.mark.parametrize("name", NETS)
def test_network(name):
    module, event = NETS[name]
    x = jax.random.normal(jax.random.key(0), (2, 3, *event))
    params = jax.jit(module.init)(jax.random.key(1), x[0, :1])

    @jax.jit
    def outcomes(params):
        """Of the whole batch, of each example by itself, and a gradient."""
        alone = jax.vmap(jax.vmap(lambda one: module.apply(params, one[None])[0]))(x)
        gradient = jax.grad(lambda p: jnp.square(module.apply(p, x)).sum())(params)
        return module.apply(params, x), alone, gradient

    out, alone, gradient = outcomes(params)
    assert out.shape == (2, 3, *module.out_shape) and out.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    # no mixing over the batch (bfloat16 sums in another order)
    np.testing.assert_allclose(out, alone, atol=0.05 if "bfloat16" in name else 1e-5)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_pooled_convolutions_do_not_see_where_something_is():
    """Moved by four pixels, which two halvings see as one; unpooled they do see it."""
    images = np.zeros((2, 24, 24, 1), np.float32)  # empty at the edges
    images[0, 4:10, 4:10] = images[1, 12:18, 8:14] = np.random.RandomState(0).randn(6, 6, 1)
    for pooled in (True, False):
        net = nets.ConvEncoder((2, 3), (4,), pooled=pooled)
        first, second = jax.jit(net.init_with_output)(jax.random.key(1), images)[0]
        assert abs(first - second).max() < 1e-6 if pooled else abs(first - second).max() > 1e-3


def test_bfloat16_computes_in_bfloat16():
    """Rounding of eight bits shows: about 0.4 % of the outputs, and none of it in float32."""
    x = jax.random.normal(jax.random.key(0), (50, 10))
    wide, narrow = (nets.MLP((64,), (8,), dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    params = wide.init(jax.random.key(1), x)
    difference = np.abs(narrow.apply(params, x) - wide.apply(params, x)) / np.abs(wide.apply(params, x)).max()
    assert 1e-4 < difference.mean() < 1e-2


def test_gated_convolutions_have_the_size_of_the_papers():
    """64 latent numbers of 28 x 28 pixels: 3.07 M parameters (van den Berg et al. 2018), counted layer by layer.

    The published decoder's first layer has one bias for each channel, ours for each number: 2 x (3136 - 64) more.
    """

    def size(module, *shape):
        params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    gated = lambda inputs, features, places=25: 2 * features * (inputs * places + 1)
    encoder = (
        gated(1, 32) + gated(32, 32) + gated(32, 64) + 2 * gated(64, 64) + gated(64, 256, 49) + 257 * 128
    )
    decoder = gated(64, 64, 49) + gated(64, 64) + gated(64, 32) + 3 * gated(32, 32) + 33
    assert round((encoder + decoder) / 1e6, 2) == 3.07
    assert size(nets.GatedConvEncoder((32, 64), (64, 2)), 28, 28, 1) == encoder
    assert size(nets.GatedConvDecoder((64, 32), (28, 28, 1, 1)), 64) == decoder + 2 * (3136 - 64)


def test_upsampling_is_the_transposed_convolution():
    """Of stride 2, kernel 5, padding 2 and one more row and column at the end; then the gate."""
    x, up = jax.random.normal(jax.random.key(0), (2, 3, 4, 6)), GatedConv(5, up=True)
    params = up.init(jax.random.key(1), x)
    kernel = params["params"]["Conv_0"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(x, kernel, (1, 1), ((2, 3),) * 2, (2, 2), dimension_numbers=layout)
    assert out.shape == (2, 6, 8, 10)
    expected = out[..., :5] * jax.nn.sigmoid(out[..., 5:])
    np.testing.assert_allclose(up.apply(params, x), expected, atol=1e-5)


def test_tuple_inputs_are_joined_and_broadcast():
    module = nets.MLP((4,), (2,))
    z, c = jnp.ones((5, 3, 2)), jnp.ones((3, 4))
    params = module.init(jax.random.key(0), (z, c))
    assert params["params"]["Dense_0"]["kernel"].shape == (6, 4)
    assert module.apply(params, (z, c)).shape == (5, 3, 2)


@pytest.mark.parametrize(
    ("strides", "padding"), [(1, "SAME"), (2, "SAME"), ((1, 2), "VALID"), (2, ((2, 0), (1, 1)))], ids=str
)
@pytest.mark.parametrize("cached", [720, conv.CACHED], ids=["two at once", "all at once"])
def test_convolution_and_its_derivatives_are_flax_own(strides, padding, cached, x64, monkeypatch):
    """Value, gradients in both arguments, forward mode and second derivative, float64 against `nn.Conv` of Flax."""
    monkeypatch.setattr(conv, "CACHED", cached)  # the first case's patches have 360 numbers an image
    ours, theirs = Conv(3, (3, 2), strides, padding=padding), nn.Conv(3, (3, 2), strides, padding=padding)
    x = jax.random.normal(jax.random.key(0), (3, 5, 6, 2))
    params = theirs.init(jax.random.key(1), x)

    def all_of(module):
        value = lambda params, x: jnp.sum(jnp.sin(module.apply(params, x)))
        _, forward = jax.jvp(lambda x: module.apply(params, x), (x,), (jnp.cos(x),))
        both = jax.grad(value, (0, 1))(params, x)
        second = jax.grad(lambda x: jnp.sum(jax.grad(value)(params, x)["params"]["kernel"] ** 2))(x)
        along = jax.jvp(lambda p: module.apply(p, x), (params,), (jax.tree.map(jnp.cos, params),))
        return module.apply(params, x), forward, both, second, along

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), all_of(ours), all_of(theirs))


def test_first_weights_of_hidden_layers_and_head_are_as_asked():
    tanh = nets.MLP((4, 4), (2,), kernel_init=nn.initializers.constant(0.3), head_init=nn.initializers.ones)
    params = tanh.init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    kernels = {name: leaf for name, leaf in params.items() if name.startswith("Dense")}
    assert len(kernels) == 2 and all((leaf["kernel"] == jnp.float32(0.3)).all() for leaf in kernels.values())
    assert (params["Head_0"]["Dense_0"]["kernel"] == 1).all()


@pytest.mark.parametrize(("width", "context"), [(5, False), (12, True), (12, False), (40, True)])
def test_masked_network_of_any_width_sees_all_coordinates_before_and_none_after(width, context):
    """A hidden layer narrower than the number of coordinates leaves none out of the last output."""
    dim = 13
    net = nets.MADE((width, width), dim, 1)
    inputs = (jnp.ones((1, dim)), jnp.ones((1, 2))) if context else jnp.ones((1, dim))
    params = jax.tree.map(
        lambda leaf: jax.random.uniform(jax.random.key(leaf.size), leaf.shape, minval=0.1, maxval=0.2),
        net.init(jax.random.key(0), inputs),
    )
    row = lambda x: net.apply(params, (x, inputs[1]) if context else x)[0, :, 0]
    jacobian = np.asarray(jax.jacobian(row)(jnp.ones((1, dim))))[:, 0]
    assert not np.triu(jacobian).any()
    assert jacobian[-1, :-1].all()


def test_a_sequence_is_coded_as_an_image_of_one_column_by_kernels_of_one_column():
    """A kernel of an image that is zero but in the column that meets the only one of the image does the same."""
    x = jax.random.normal(jax.random.key(0), (2, 12, 3))
    sequence, image = (nets.GridEncoder(4, 2, 1, 2, 5, axes=axes) for axes in (1, 2))
    params = jax.jit(sequence.init)(jax.random.key(0), x)
    assert {a.shape[1] for a in jax.tree.leaves(params) if a.ndim == 4} == {1}
    columns = lambda a: np.stack([a[:, 0] * (i == (len(a) - 1) // 2) for i in range(len(a))], 1)
    wide = jax.tree.map(lambda a: columns(np.asarray(a)) if a.ndim == 4 else a, params)
    found = jax.jit(sequence.apply)(params, x)
    assert found.shape == (2, 6, 5)
    np.testing.assert_allclose(
        found, jax.jit(image.apply)(wide, x[:, :, None]).reshape(2, 6, 5), rtol=1e-5, atol=1e-6
    )


def test_codes_of_a_sequence_are_decoded_in_their_order():
    """Without residual blocks a place reaches the frames of its neighbours two places away, and no others."""
    module = nets.GridDecoder(4, 1, 0, 1, (3, 2), axes=1)
    z, context = jax.random.normal(jax.random.key(0), (8, 5)), jnp.array([1.0, 0.0])
    params = jax.jit(module.init)(jax.random.key(0), (z, context))

    @jax.jit
    def outcomes(z):
        of = lambda z, context: module.apply(params, (z, context))
        return jax.jacobian(of)(z, context), of(z, context), of(z, 1 - context)

    slopes, one, other = outcomes(z)
    assert slopes.shape == (16, 3, 2, 8, 5)
    reached = (np.abs(slopes).max((1, 2, 4)) > 0).T
    frames, places = np.arange(16), np.arange(8)[:, None]
    np.testing.assert_array_equal(reached, abs(frames // 2 - places) <= 2)
    assert (one != other).all()


@pytest.mark.parametrize("places", [1, 19])  # fewer than the blocks, and a last block that is shorter
def test_attention_and_its_derivatives_are_those_of_the_formula(places, x64):
    """Blocks of queries change nothing."""
    inputs = jnp.asarray(np.random.RandomState(places).normal(size=(4, 2, 3, places, 5)))
    *inputs, weights = inputs
    seen = np.tri(places, dtype=bool)

    def formula(query, keys, values):
        logits = query @ jnp.swapaxes(keys, -1, -2) / np.sqrt(5)
        return jax.nn.softmax(jnp.where(seen, logits, -jnp.inf)) @ values

    def both(f):
        value, back = jax.vjp(f, *inputs)
        return value, back(weights)

    expected = both(formula)
    for ours in (causal_attention, lambda *inputs: attention(*inputs, seen)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), both(ours), expected
        )
