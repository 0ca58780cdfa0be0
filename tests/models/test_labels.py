"""Labels: one integer for each example, known to the model; and what a class-conditional model is without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax.data.dataset import Spec
from dlvm_jax.functional.diffusion import ancestral, schedules, solvers
from dlvm_jax.models import density, diffusion, latent_diffusion
from dlvm_jax.nets.denoisers import Conditioning, DenoisingMLP, Transformer, UNet, VDMResNet
from dlvm_jax.nets.mlp import concatenate_events
from dlvm_jax.recipes.conditions import condition_of

NETS = {
    "mlp": (DenoisingMLP((8,), classes=3), (2,)),
    "flat": (VDMResNet(8, 1, classes=3), (4, 4, 1)),
    "unet": (UNet(8, (1,), 1, classes=3), (4, 4, 1)),
    "transformer": (Transformer(8, 1, 2, heads=2, classes=3), (4, 4, 1)),
}
LABELS = jnp.array([0, 1, 2, 0, 1, 2])


def build(name="mlp", null_label=None):
    net, shape = NETS[name]
    noise = diffusion.fixed(schedules.linear_log_snr(-6.0, 12.0))
    return diffusion.denoiser(diffusion.denoising_net(net, shape, 0), noise, shape, null_label=null_label)


def density_of(model):
    return diffusion.bound_density(model, lambda p, d: (ancestral.ddim(p, d), solvers.log_snr_times(p, 3)))


@pytest.fixture(scope="module")
def params():
    rng, shapes = np.random.RandomState(0), jax.eval_shape(build().init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.randn(*a.shape), jnp.float32), shapes)


@pytest.mark.parametrize("name", NETS)
def test_labels_that_do_not_fit_the_batch_are_refused(name):
    """A column, one-hot rows, too few: in objectives, bounds and samples, while they are traced."""
    model = build(name)
    x, key = jnp.zeros((6, *model.event_shape)), jax.random.key(1)
    params, density = jax.eval_shape(model.init, key), density_of(model)
    guided = density_of(diffusion.guided(model, 3, 1.0))
    for labels in (LABELS[:, None], jnp.eye(3)[LABELS], LABELS[:3]):
        for use in (
            lambda params, y: diffusion.vlb_loss(model)(params, key, (x, y))[0],
            lambda params, y: diffusion.denoising(model)(params, key, (x, y))[0],
            lambda params, y: diffusion.drop_labels(diffusion.vlb_loss(model), 3, 0.1)(params, key, (x, y))[
                0
            ],
            lambda params, y: density.log_prob(params, key, x, y),
        ):
            with pytest.raises(ValueError, match="labels are one integer for each example"):
                jax.eval_shape(use, params, labels)
    # six draws of each of six labels: a column would be taken for labels of the draws
    for each, shape in ((density, ()), (guided, ()), (density, (6,))):
        draw = functools.partial(each.sample, key=key, context=LABELS[:, None], shape=shape)
        with pytest.raises(ValueError, match="labels are one integer for each example"):
            jax.eval_shape(draw, params)


def test_a_label_that_is_missing_is_the_null_label_or_refused(params):
    model, key, x = build(null_label=3), jax.random.key(1), jnp.ones((6, 2))
    density = density_of(model)
    run = jax.jit(lambda params, y: density.log_prob(params, key, x, y))
    none = run(params, None)
    np.testing.assert_allclose(none, run(params, jnp.full(6, 3)), rtol=1e-6)
    assert np.abs(none - run(params, LABELS)).max() > 1e-3
    plain = density_of(build())
    for use in (
        lambda params: plain.log_prob(params, key, x),
        lambda params: plain.sample(params, key, None, (6,))[0],
        lambda params: diffusion.vlb_loss(build())(params, key, x)[0],
    ):
        with pytest.raises(ValueError, match="conditioned on labels, and none was given"):
            jax.eval_shape(use, params)
    with pytest.raises(ValueError, match="conditioned on labels, and none was given"):
        diffusion.denoising_net(DenoisingMLP((8,), classes=3), (2,)).init(key)


def test_unknown_labels_are_refused_or_nan():
    """On the host a line; in compiled code NaN, and not another class: -1 is no last row, 4 no class and 1.5 not 1."""
    module, log_snr, bad = Conditioning(4, 3), jnp.zeros(4), jnp.array([-1, 4, 1.5, np.nan])
    params = module.init(jax.random.key(0), log_snr, jnp.zeros(4, int))
    run = jax.jit(lambda y: module.apply(params, log_snr, y))
    for label in bad:
        with pytest.raises(ValueError, match=r"labels are integers 0\.\.2, or 3 for none, got"):
            module.apply(params, log_snr, label)
    assert np.isnan(run(bad)).all()
    right = run(jnp.arange(4.0))
    assert np.isfinite(right).all() and len(np.unique(right, axis=0)) == 4
    np.testing.assert_array_equal(run(jnp.arange(4, dtype=jnp.uint8)), right)


def test_the_null_label_of_256_classes_is_no_byte():
    """Labels in 8 bits: 256 would wrap to class 0."""
    seen = []

    def objective(params, key, batch, step=None):
        seen.append(batch[1])
        return 0.0, {}

    labels = jnp.array([0, 255], jnp.uint8)
    diffusion.drop_labels(objective, 256, 1.0)(None, jax.random.key(0), (jnp.zeros((2, 1)), labels))
    model = build()._replace(denoise=lambda params, x, t, label, key: seen.append(label) or x)
    diffusion.guided(model, 256, 1.0).denoise(None, jnp.zeros((2, 1)), 0.5, labels)
    np.testing.assert_array_equal(seen[0], [256, 256])
    np.testing.assert_array_equal(seen[2], [256, 256])
    np.testing.assert_array_equal(seen[1], [0, 255])


def test_vectors_as_contexts_fit_their_batch():
    module, log_snr = Conditioning(4), jnp.zeros(6)
    params = jax.eval_shape(module.init, jax.random.key(0), log_snr, jnp.zeros((6, 2)))
    run = functools.partial(jax.eval_shape, lambda p, c: module.apply(p, log_snr, c), params)
    assert run(jnp.zeros((6, 2))).shape == (6, 4)
    for bad in (jnp.zeros(6), jnp.zeros((6, 1, 2)), jnp.zeros((5, 2)), jnp.zeros(())):
        with pytest.raises(ValueError, match="a context is one vector for each example"):
            run(bad)


def test_labels_of_a_conditional_vae():
    spec = Spec("dots", "none", "", (2,), 6, 0, False, 1.0, 3)
    split, x = condition_of("label", spec).split, jnp.zeros((6, 2))
    np.testing.assert_array_equal(split((x, LABELS))[1], np.eye(3)[LABELS])
    for bad in (LABELS[:, None], LABELS[:3], jnp.eye(3)[LABELS]):
        with pytest.raises(ValueError, match="labels are one integer for each example"):
            split((x, bad))
    for bad in (-1, 3, 0.5):
        with pytest.raises(ValueError, match=r"labels are integers 0\.\.2, got"):
            split((x, jnp.full(6, bad)))
        assert np.isnan(jax.jit(split)((x, jnp.full(6, bad)))[1]).all()


def test_columns_pair_no_examples_with_every_context():
    """Labels or one-hot rows of shape [B, 1, ...] for a network of the context, as of a decoder, a flow or a VAE's encoder."""
    given = density.conditional(
        density.Net(lambda key: {}, lambda params, label: jnp.zeros((*label.shape, 2, 2))),
        density.normal(),
        (2,),
    )
    x = jnp.zeros((6, 2))
    assert given.log_prob({}, None, x, LABELS).shape == (6,)
    assert given.log_prob({}, None, x, jnp.zeros((5, 6))).shape == (5, 6)  # samples of the context
    with pytest.raises(ValueError, match=r"one batch, got batches \(6,\) and \(6, 1\)"):
        given.log_prob({}, None, x, LABELS[:, None])
    assert concatenate_events((x, jnp.zeros((5, 6, 3))), 1).shape == (5, 6, 5)
    with pytest.raises(ValueError, match="every pair of examples"):
        concatenate_events((x, jax.nn.one_hot(LABELS[:, None], 3)), 1)


def test_what_cannot_be_meant_is_refused_where_it_is_made():
    net, noise = diffusion.denoising_net(DenoisingMLP((8,)), (2,)), diffusion.fixed(schedules.edm())
    for options in ({"data_std": 0.0}, {"data_std": np.nan}, {"target": "bins", "bins": (1.0, 1.0)}):
        with pytest.raises(ValueError, match="a positive deviation and a range that rises"):
            diffusion.denoiser(net, noise, (2,), **options)
    model = build()
    with pytest.raises(ValueError, match="made without a sampler"):
        diffusion.bound_density(model, None).sample(None, jax.random.key(0))
    with pytest.raises(ValueError, match=r"events of shape \(2,\), got an array of shape \(6, 3\)"):
        density_of(model).log_prob(
            jax.eval_shape(model.init, jax.random.key(0)), jax.random.key(0), jnp.zeros((6, 3)), LABELS
        )
    with pytest.raises(ValueError, match="a standard deviation is positive"):
        latent_diffusion.standardised(density.standard_normal(2), jnp.zeros(2), jnp.array([1, 0]))
