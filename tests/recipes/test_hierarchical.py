"""The hierarchical recipe: settings that do not go together, every cell and inference, the program's growth with depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, evaluate, recipes, train
from dlvm_jax.functional import divergences
from dlvm_jax.models import layered
from dlvm_jax.models.latents import Latents
from dlvm_jax.nets import cells, ladders
from dlvm_jax.recipes import Hierarchical
from tests.recipes.test_vae import IMAGES, dataset_of, everywhere, line

BITS = data.from_arrays(np.random.RandomState(0).rand(60, 7, 5) < 0.3)
COLOURS = data.from_arrays(np.random.RandomState(1).randint(0, 8, (60, 6, 4, 3)).astype(np.uint8), levels=8)
ROWS = data.from_arrays(np.random.RandomState(2).randn(60, 3).astype(np.float32))
TINY = {"latent_dim": 2, "groups": (1, 2), "latents": (2, 3), "widths": (4, 6), "hidden": (4, 4)}
KEY = jax.random.key(0)


@pytest.mark.parametrize("settings, message", [
    ({"latents": (2,)}, r"latents has one number for each of the 2 stages that groups=\(1, 2\) names, got \(2,\)"),
    ({"groups": (), "latents": (), "widths": (), "hidden": ()}, "for a single layer use recipes.VAE"),
    ({"groups": (1, 0)}, r"groups must be at least 1, got \(1, 0\)"),
    ({"cells": "vdvae", "inference": "bottom-up"}, "inference='bottom-up' does not go with cells='vdvae'"),
    ({"cells": "resnet"}, "there are dense, vdvae, nvae|cells must be one of"),
    ({"stride": 2}, "stride is of images"),
    ({"spectral": 0.1}, "spectral is of convolutions"),
    ({"inference": "bottom-up", "prior": "vamp"}, "needs inference from the top down"),
    ({"objective": "iwae"}, "needs samples of at least 2"),
    ({"objective": "iwae", "samples": 5, "free_nats": 1.0}, "weigh the KL of objective='elbo'"),
    ({"objective": "iwae", "samples": 5, "prior": "diffusion"}, "does not go with prior='diffusion'"),
    ({"balance": True}, "balance acts while beta grows"),
    ({"prior": "sphere"}, "sphere"),
    ({"condition": "label", "prior": "flow"}, "prior='flow' does not go with condition='label'; possible: standard, learned"),
    ({"condition": "quadrants-1"}, "quadrants-1"),
])  # fmt: skip
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message) as found:
        Hierarchical(**{**TINY, **settings}).check()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("settings, source, message", [
    ({"cells": "vdvae"}, ROWS, r"needs images \[H, W, C\], the examples have shape \(3,\); use cells='dense'"),
    ({"likelihood": "bernoulli"}, COLOURS, "a bernoulli likelihood needs bits"),
    ({"condition": "label"}, BITS, "condition='label' needs labels, and mine has none; leave it out"),
    ({"prior": "vamp", "components": 500}, BITS, "components is at most the 4. training examples"),
    (
        {"cells": "nvae", "groups": (1,) * 5, "latents": (2,) * 5, "widths": (4,) * 5, "hidden": (2,) * 5},
        BITS,
        "images of 7 x 5 cannot be halved for 5 stages with stride 1; give groups fewer numbers",
    ),
])  # fmt: skip
def test_data_that_do_not_fit(settings, source, message):
    with pytest.raises(ValueError, match=message):
        Hierarchical(**{**TINY, **settings}).check_data(source.spec)


def built(source, **settings):
    recipe = Hierarchical(**{**TINY, **settings})
    model = recipe.build(source.spec, recipe.constants(source, 0))
    return recipe, model


@pytest.mark.parametrize("settings, source", [
    ({}, ROWS),
    ({"inference": "precision-weighted"}, BITS),
    ({"inference": "bottom-up"}, BITS),
    ({"cells": "vdvae"}, BITS),
    ({"cells": "nvae", "stride": 2}, COLOURS),
    ({"cells": "vdvae", "likelihood": "logistic-mixture"}, COLOURS),
    ({"prior": "vamp", "components": 5}, BITS),
    ({"prior": "flow"}, COLOURS),
    ({"prior": "diffusion"}, BITS),
    ({"objective": "iwae", "samples": 3}, BITS),
    ({"dtype": "bfloat16", "remat": True}, BITS),
])  # fmt: skip
@pytest.mark.slow
def test_every_kind_has_finite_gradients_everywhere(settings, source):
    """Each array is trained, but for what only evaluation uses; terms add up; codes lead back to the same shapes."""
    recipe, model = built(source, **settings)
    params = jax.jit(model.init)(KEY)
    x = jnp.asarray(np.asarray(source.test[:4]), jnp.float32)
    gradient = jax.jit(jax.grad(lambda p: model.objective(p, KEY, x, 0)[0]))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    terms = jax.jit(model.density.terms)(params, KEY, x)
    np.testing.assert_allclose(terms["rates"].sum(-1), terms["kl"], rtol=1e-5, atol=1e-5)
    assert terms["rates"].shape == (4, 4) == (4, recipe.layers) and model.density.kind == "weight"
    z = jax.jit(model.encode)(params, x)
    assert jax.eval_shape(model.decode, params, z).shape == x.shape
    assert jax.eval_shape(lambda p: model.density.sample(p, KEY, shape=(3,)), params)[0].shape == (
        3,
        *x.shape[1:],
    )


CLASSES = data.from_arrays(np.random.RandomState(3).rand(60, 7, 5) < 0.3, labels=np.arange(60) % 3)


@pytest.mark.slow
def test_each_array_learns_given_a_label():
    """Also those that see the label; codes and samples given labels have the examples' shapes."""
    _, model = built(CLASSES, condition="label", prior="learned")
    params = jax.jit(model.params)(KEY)
    x = jnp.asarray(np.asarray(CLASSES.test[:4]), jnp.float32)
    batch = model.split((x, jnp.arange(4) % 3))
    gradient = jax.jit(jax.grad(lambda p: model.objective(p, KEY, batch, 0)[0]))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)
    z = jax.eval_shape(model.encode, params, batch)
    assert jax.eval_shape(model.decode, params, (z, batch[1])).shape == x.shape
    drawn = jax.eval_shape(lambda p: model.density.sample(p, KEY, batch[1], (3,)), params)[0]
    assert drawn.shape == (3, *x.shape)


@pytest.mark.slow
def test_likelihoods_given_a_label_are_those_of_a_quadrature():
    """Bits of 2 x 2 pixels, two layers of one number: all 16 images under each of three labels.

    The integral is over the noise of both layers.  Means of 4,000 weights are within 6 errors of it, counts of 4,000 draws
    within 6 deviations: false alarms are below 1e-6.
    """
    one = {"latent_dim": 1, "groups": (1,), "latents": (1,), "widths": (6,), "hidden": (6,)}
    recipe = Hierarchical(**one, prior="learned", condition="label")
    spec = dataset_of(IMAGES).spec
    model = recipe.build(spec, {})
    params = everywhere(model.init(KEY), jax.random.key(1))
    images = jnp.asarray(np.tile(IMAGES, (3, 1, 1, 1)), jnp.float32)
    x, context = model.split((images, jnp.repeat(jnp.arange(3), 16)))
    nodes, weight = line(61, 6.0)
    eps = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 1, 2).astype(np.float32)
    mass = np.outer(weight, weight).ravel() * np.exp(-0.5 * (eps[:, 0] ** 2).sum(1)) / (2 * np.pi)

    @jax.jit
    def by_quadrature(context):
        given = jnp.broadcast_to(context, (len(eps), 3))
        mean, log_std = model.parts.top_normal(params, given)
        noise = Latents(mean + jnp.exp(log_std) * eps[..., 0], (eps[None, ..., 1],))
        logits = model.parts.decode(params, noise, noise, 1, context=given)[0].reshape(-1, 1, 4)
        flat = IMAGES.reshape(16, 4)
        return mass @ jnp.where(flat == 1, logits, 1 - logits).prod(-1)

    p = np.concatenate([by_quadrature(context[16 * label]) for label in range(3)])
    np.testing.assert_allclose(p.reshape(3, 16).sum(1), 1, atol=1e-4)
    assert abs(p[:16] - p[16:32]).max() > 0.01
    draw = jax.jit(jax.vmap(lambda key: model.density.log_prob(params, key, x, context)))
    log_w = np.asarray(draw(jax.random.split(jax.random.key(2), 4000)), float)
    error = np.exp(log_w).std(0) / np.sqrt(len(log_w))
    assert (abs(np.exp(log_w).mean(0) - p) < 6 * error + 1e-5).all()
    assert (log_w.mean(0) < np.log(p)).all()
    drawn, _ = jax.jit(lambda key: model.density.sample(params, key, context[::16], (4000,)))(KEY)
    numbers = (np.asarray(drawn).reshape(4000, 3, 4) @ [8, 4, 2, 1]).astype(int)
    counts = np.stack([np.bincount(column, minlength=16) for column in numbers.T]).ravel()
    assert (abs(counts - 4000 * p) < 6 * np.sqrt(4000 * p * (1 - p)) + 4).all()


def test_one_example_and_a_broken_one():
    """A batch of one is its own row of a larger one, and an example that is nan spoils no other."""
    _, model = built(BITS)
    params = jax.jit(model.init)(KEY)
    x = jnp.asarray(np.asarray(BITS.test[:3]), jnp.float32)
    infer = jax.jit(lambda x: model.parts.decode(params, model.parts.infer(params, None, x))[0])
    whole = infer(x)
    np.testing.assert_allclose(infer(x[1:2]), whole[1:2], rtol=1e-5)
    broken = infer(x.at[0].set(jnp.nan))
    np.testing.assert_array_equal(broken[1:], whole[1:])
    assert np.isnan(broken[0]).all()


@pytest.mark.slow
def test_the_program_does_not_grow_with_the_groups():
    def size(count):
        _, model = built(BITS, cells="vdvae", groups=(1, count))
        params = jax.eval_shape(model.init, KEY)
        x = jnp.zeros((2, *BITS.spec.event_shape))
        text = str(jax.make_jaxpr(jax.grad(lambda p: model.objective(p, KEY, x, 0)[0]))(params))
        return text.count(" = ")

    assert size(4) == size(48)


@pytest.mark.slow
def test_remat_changes_memory_and_no_number():
    values = []
    for remat in (False, True):
        _, model = built(BITS, remat=remat)
        params = jax.jit(model.init)(KEY)
        x = jnp.asarray(np.asarray(BITS.test[:4]), jnp.float32)
        values.append(
            jax.jit(jax.value_and_grad(lambda p, x=x, m=model: m.objective(p, KEY, x, 0)[0]))(params)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *values)


def test_the_kl_of_a_shifted_posterior_is_bounded(x64):
    """In units of the prior: 1/2 (d^2 + e^(2 s) - 1) - s near zero, and below 12,000 nats whatever the network says."""
    said = jnp.stack(jnp.meshgrid(*[jnp.array([-1e6, -30.0, -0.01, 0.02, 30.0, 1e6])] * 2), axis=-1)
    for prior in ((2.0, -5.0), (-300.0, 5.0)):
        kl = divergences.kl_normal(*cells.law(said, prior), *prior, event_ndim=0)
        shift, scale = said[2:4, 2:4, 0], said[2:4, 2:4, 1]
        near = 0.5 * (shift**2 + jnp.expm1(2 * scale)) - scale
        np.testing.assert_allclose(kl[2:4, 2:4], near, rtol=2e-5)  # 2 (0.02 / 5)^2 / 3 by the tanh
        assert 1e4 < kl.max() < 1.2e4


def test_grids_round_up_and_images_return_to_their_size():
    assert ladders.grids(28, 20, 1, 4) == [(4, 3), (7, 5), (14, 10), (28, 20)]
    assert ladders.grids(7, 5, 2, 2) == [(2, 2), (4, 3)]
    x = np.random.RandomState(0).rand(2, 7, 5, 3).astype(np.float32)
    half = cells.resize(x, 4, 3)
    assert cells.resize(half, 7, 5).shape == x.shape
    np.testing.assert_allclose(half[:, 0, 0], x[:, :2, :2].mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(
        half[:, 3, 2], x[:, 6, 4], rtol=1e-6
    )  # at the edge the mean is of what is there
    with pytest.raises(ValueError, match="halved or doubled, got 7 x 5 to become 3 x 2"):
        cells.resize(x, 3, 2)


@pytest.mark.slow
def test_spectral_norms_are_those_of_the_decomposition_and_their_state_is_resumed(tmp_path):
    """Cut at step 3 of 6 and continued: the same bits, singular vectors among them; afterwards they are converged vectors."""
    recipe = Hierarchical(**TINY, cells="nvae", spectral=0.1)
    settings = {"batch_size": 8, "eval_every": 3, "progress": False, "schedule": "constant", "warm_up": 0}
    whole = train.fit(recipe, BITS, out=tmp_path / "whole", steps=6, **settings)
    train.fit(recipe, BITS, out=tmp_path / "cut", steps=3, **settings)
    cut = train.fit(recipe, BITS, out=tmp_path / "cut", steps=6, resume=True, **settings)
    jax.tree.map(np.testing.assert_array_equal, whole.params, cut.params)
    params, vectors = whole.params
    name = "stages/1/groups/params/cell/Conv_0/kernel"
    kernel = np.asarray(params["stages"][1]["groups"]["params"]["cell"]["Conv_0"]["kernel"])
    matrix = kernel.reshape(2, -1, kernel.shape[-1])  # two groups
    norms = np.linalg.svd(matrix, compute_uv=False)[..., 0]
    iterate = jax.jit(
        lambda vectors: layered.spectral(lambda *_: (0.0, {}), 1.0)((params, vectors), KEY, None)
    )
    for _ in range(21):
        loss, metrics = iterate(vectors)
        vectors = metrics["variables"]
    found = np.einsum("gmo,go->gm", matrix, metrics["variables"][name])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), norms, rtol=1e-3)
    assert float(loss) == float(metrics["spectral"]) > norms.sum()
    loaded = train.load(tmp_path / "whole")
    assert loaded.sample(KEY, 2).shape == (2, 7, 5, 1)
    record = evaluate.log_likelihood(loaded, BITS.test, samples=3)
    assert np.isfinite(record.log_likelihood) and len(record.rates) == recipe.layers


@pytest.mark.slow
def test_json_and_fit_and_codes(tmp_path):
    recipe = Hierarchical(**TINY)
    assert recipes.from_json(recipe.as_json()) == recipe
    fitted = train.fit(recipe, BITS, out=tmp_path / "run", steps=3, batch_size=8, progress=False)
    z = fitted.encode(BITS.test[:3])
    assert z.shape == (3, 2 + 2 + 2 * 3) and fitted.decode(z).shape == (3, 7, 5, 1)
    np.testing.assert_array_equal(fitted.decode(z), fitted.reconstruct(BITS.test[:3]))
    with pytest.raises(ValueError, match="vectors of 10 numbers, got an array of shape"):
        fitted.decode(z[:, :4])
