"""Networks of diffusion models: shapes for any leading batch, float32 outputs, gradients everywhere, no mixing of examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.nets import denoisers

IMAGE, VECTOR = (8, 8, 1), (3,)
NETS = {
    "mlp": (denoisers.DenoisingMLP((16, 8)), VECTOR, None),
    "mlp with a vector": (denoisers.DenoisingMLP((16, 16)), VECTOR, jnp.ones((2, 3, 5))),
    "flat": (denoisers.VDMResNet(8, 2, patch=2, exponents=(1, 2)), IMAGE, None),
    "flat with attention": (denoisers.VDMResNet(8, 1, attention=True), IMAGE, None),
    "flat bfloat16": (denoisers.VDMResNet(8, 2, patch=2, dtype=jnp.bfloat16), IMAGE, None),
    "unet with classes": (denoisers.UNet(8, (1, 2), 1, classes=4), IMAGE, jnp.array([[0, 1, 4], [2, 2, 3]])),
    "flat of levels": (denoisers.VDMResNet(8, 1, patch=2, outputs=3), (8, 8, 2), None),
    "unet of levels": (denoisers.UNet(8, (1, 2), 1, outputs=3), (8, 8, 2), None),
    "transformer of levels": (denoisers.Transformer(16, 1, 4, heads=2, outputs=3), (8, 8, 2), None),
    "transformer": (denoisers.Transformer(16, 2, 4, heads=2), IMAGE, None),
}


# Compiling is nearly all the cost here, so neither optimised code nor threefry's many unrolled rounds.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def perturbed(module, *inputs):
    """Parameters as they begin, and away from their zeros, so that every path matters."""
    params, rng = quick(module.init)(jax.random.key(1, impl="unsafe_rbg"), *inputs), np.random.RandomState(2)
    return params, jax.tree.map(lambda leaf: leaf + 0.3 * rng.randn(*leaf.shape).astype(leaf.dtype), params)


SLOW = (
    "unet with classes",
    "mlp",
    "flat of levels",
    "flat with attention",
    "flat bfloat16",
    "mlp with a vector",
    "unet of levels",
    "transformer of levels",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETS]
)
def test_network(name):
    module, event, context = NETS[name]
    x, log_snr = jax.random.normal(jax.random.key(0), (2, 3, *event)), jnp.linspace(-5, 12, 6).reshape(2, 3)
    first = None if context is None else context[0, :1]
    start, params = perturbed(module, x[0, :1], log_snr[0, :1], first)
    label = None if context is None else context[1, 2:]

    @quick
    def outcomes(params):
        """Of the whole batch, with a gradient, and of one example by itself: compiled together."""

        def loss(params):
            out = module.apply(params, x, log_snr, context)
            return jnp.square(out).sum(), out

        gradient, out = jax.grad(loss, has_aux=True)(params)
        return out, module.apply(params, x[1, 2:], log_snr[1, 2:], label)[0], gradient

    assert not outcomes(start)[0].any(), "the last layer starts at zero"
    out, alone, gradient = outcomes(params)
    outputs = getattr(module, "outputs", None)
    assert out.shape == (x.shape if outputs is None else (*x.shape, outputs)) and out.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    # an example by itself gives the same: no mixing over the batch (bfloat16 sums in another order)
    np.testing.assert_allclose(
        out[1, 2], alone, atol=np.abs(out).max() * (0.05 if "bfloat16" in name else 1e-5)
    )
    dead = {
        jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(gradient) if not np.any(leaf)
    }
    # softmax ignores what all keys share
    assert {path for path in dead if "'key'" not in path or "bias" not in path} == set()


@pytest.mark.parametrize(
    "name", ["transformer", *(pytest.param(n, marks=pytest.mark.slow) for n in ("flat", "unet with classes"))]
)
def test_dropout_needs_a_key_and_changes_the_output(name):
    module, event, context = NETS[name]
    module = module.clone(dropout=0.5)
    x, log_snr = jnp.ones((3, *event)), jnp.zeros(3)
    context = None if context is None else context[0]
    _, params = perturbed(module, x, log_snr, context)
    draw = quick(
        lambda seed: module.apply(params, x, log_snr, context, False, rngs={"dropout": jax.random.key(seed)})
    )
    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.abs(draw(0) - draw(1)).max() > 0
    same = quick(lambda params: [net.apply(params, x, log_snr, context) for net in (module, NETS[name][0])])
    np.testing.assert_allclose(*same(params), rtol=1e-6)


def test_log_snr_and_class_reach_the_output():
    module = denoisers.DenoisingMLP((16,), classes=3)
    x = jnp.ones((1, 2))
    _, params = perturbed(module, x, jnp.zeros(1), jnp.array([0]))
    out = lambda log_snr, label: module.apply(params, x, jnp.array([log_snr]), jnp.array([label]))
    assert np.abs(out(0.0, 0) - out(0.5, 0)).max() > 1e-3
    assert np.abs(out(0.0, 0) - out(0.0, 3)).max() > 1e-3


def test_embedding_of_log_snr():
    """Frequencies from 1/16, a period of 100, to 4: log-SNRs are some tens apart and their tenths count."""
    got = denoisers.sinusoids(jnp.array(2.0), 6)
    angles = 2.0 * np.array([1 / 16, 0.5, 4.0])
    np.testing.assert_allclose(got, np.append(np.sin(angles), np.cos(angles)), atol=1e-6)


def test_blocks_begin_as_the_identity():
    """Residual block and attention add to their input something that starts at zero; the U-Net has both."""
    x, embedding = jnp.arange(32.0).reshape(1, 2, 4, 4), jnp.ones((1, 8))
    for block, inputs in ((denoisers.ResBlock(4), (x, embedding)), (denoisers.SpatialAttention(), (x,))):
        out, _ = quick(block.init_with_output)(jax.random.key(0), *inputs)
        np.testing.assert_array_equal(out, x)
    module = denoisers.UNet(4, (1,), 1)
    made = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 4, 4, 1)), jnp.zeros(1))["params"]
    assert [name for name in made if "Attention" in name] == ["SpatialAttention_0"]
    assert sum("ResBlock" in name for name in made) == 1 + 2 + 2  # down, middle, up


def test_patches_that_do_not_tile_are_refused():
    for module in (
        denoisers.VDMResNet(4, 1, patch=3),
        denoisers.UNet(4, (1, 1, 1)),
        denoisers.Transformer(4, 1, 3),
    ):
        with pytest.raises(ValueError, match="do not tile images"):
            module.init(jax.random.key(0), jnp.ones((1, 10, 10, 1)), jnp.zeros(1))


def test_fourier_features_show_fine_digits():
    x = jnp.array([0.1, 0.2]).reshape(1, 1, 2)
    features = denoisers.fourier_features(x, (0, 3))
    expected = np.concatenate(
        [x, np.sin(np.pi * x), np.cos(np.pi * x), np.sin(8 * np.pi * x), np.cos(8 * np.pi * x)], -1
    )
    np.testing.assert_allclose(features, expected, atol=1e-5)
