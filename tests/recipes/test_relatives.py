"""The recipes of DRAW and of the self-supervised VAE: what they build, refuse, and what is read back of a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, evaluate, recipes, train
from dlvm_jax.data import Spec
from dlvm_jax.models.super_resolution import average_pool
from dlvm_jax.recipes import DRAW, SelfVAE
from experiments.run import OnData
from tests.models.test_draw import moved

BITS = Spec("toy", "bits", "", (4, 4, 1), 60, 2, True, 1.0)
LEVELS = BITS._replace(protocol="levels", levels=8, event_shape=(8, 4, 3))
REALS = BITS._replace(protocol="scaled", levels=0, discrete=False)
SMALL_DRAW = DRAW(latent_dim=2, glimpses=3, width=6, read=2, write=3)
SMALL_SELF = SelfVAE(latent_dim=2, hidden=(6,))


def examples(spec, count=5):
    """Data of a spec, the same for each count."""
    rng = np.random.RandomState(0)
    x = rng.randint(0, spec.levels, (count, *spec.event_shape)) if spec.discrete else rng.rand(count, 4, 4, 1)
    return jnp.asarray(x, jnp.float32)


def built(recipe, spec):
    """The model, moved parameters and examples."""
    model = recipe.build(spec, {})
    return model, moved(jax.jit(model.init)(jax.random.key(0)), 0.1), examples(spec)


def learns(recipe, spec):
    """A finite loss, a gradient for every array, samples that the data may have, codes and what they show."""
    model, params, x = built(recipe, spec)

    @jax.jit
    def outcomes(params, key):
        (loss, _), gradient = jax.value_and_grad(model.objective, has_aux=True)(params, key, x)
        codes = model.encode(params, x, key)
        drawn = model.density.sample(params, key, shape=(7,))[0]
        return loss, gradient, codes, model.decode(params, codes), drawn

    loss, gradient, codes, decoded, drawn = outcomes(params, jax.random.key(1))
    assert np.isfinite(loss) and codes.ndim == 2 and decoded.shape == x.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)
    assert drawn.shape == (7, *spec.event_shape) and np.isfinite(drawn).all()
    if spec.discrete:
        assert np.isin(drawn, np.arange(spec.levels)).all()
    assert model.density.kind == "weight"


def test_recipes_come_back_from_json():
    for recipe in (
        DRAW(read=2, write=5, likelihood="normal"),
        SelfVAE(scales=3, hidden=(8, 4), prior="flow"),
    ):
        assert recipes.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe
        assert not set(recipe.names()) & set(OnData.names())  # a script's settings are those of both


@pytest.mark.slow
def test_the_code_of_draw_is_its_latent_vectors():
    """In the order of the glimpses; the film ends with the image that a code shows."""
    model, params, x = built(SMALL_DRAW, BITS)

    @jax.jit
    def outcomes(params):
        codes = model.encode(params, x)
        return codes, model.decode(params, codes), model.parts.infer(params, None, x)

    codes, decoded, (z, _, canvas) = outcomes(params)
    np.testing.assert_allclose(codes.reshape(5, 3, 2), jnp.moveaxis(z, 0, 1), atol=1e-6)
    np.testing.assert_allclose(decoded, jax.nn.sigmoid(canvas[..., 0]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, spec",
    [
        ({"read": 3, "write": 2, "likelihood": "categorical"}, LEVELS),
        ({"read": 2, "likelihood": "normal"}, REALS),
        ({"write": 5}, BITS),
        ({"likelihood": "fixed-normal", "std": 0.3}, REALS),
    ],
    ids=["categorical", "read alone", "write alone", "fixed scale"],
)
def test_draw_learns_data_of_any_kind(settings, spec):
    learns(DRAW(latent_dim=2, glimpses=3, width=6, **settings), spec)


@pytest.mark.slow
def test_the_code_of_a_self_supervised_vae_has_a_vector_for_each_scale():
    """Each its own posterior's mean; decoding goes from the smallest copy to the image, and rounds between."""
    model, params, x = built(SelfVAE(latent_dim=2, hidden=(6,), scales=3), LEVELS)
    own, parts = (params["y"]["y"], params["y"]["x"], params["x"]), model.parts

    @jax.jit
    def outcomes(params):
        codes = model.encode(params, x)
        terms = model.density.terms(params, jax.random.key(0), x)
        return codes, model.decode(params, codes), terms

    @jax.jit
    def expected(own, codes):
        y = average_pool(x)
        given = average_pool(y), (y, average_pool(y)), (x, y)
        means = [
            p.posterior.mean(q["posterior"], g) for p, q, g in zip(parts.scales, own, given, strict=True)
        ]
        image = parts.scales[0].decoder.mean(own[0]["decoder"], codes[:, 0])
        for number in (1, 2):
            small = codes[:, number], jnp.floor(image + 0.5)
            image = parts.scales[number].decoder.mean(own[number]["decoder"], small)
        return jnp.stack(means, axis=1), image

    codes, decoded, terms = outcomes(params)
    means, image = expected(own, codes.reshape(5, 3, 2))
    np.testing.assert_allclose(codes.reshape(5, 3, 2), means, atol=1e-5)
    np.testing.assert_allclose(decoded, image, atol=1e-4)
    assert terms["rates"].shape == (5, 5)  # u, its copy, the next latent vector, its copy, that of x
    drawn = jax.eval_shape(parts.of_x_given_y.sample, params["x"], jax.random.key(0), average_pool(x))
    assert drawn[0].shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, spec",
    [
        ({"scales": 3}, LEVELS),
        ({"net": "conv", "likelihood": "logistic-mixture"}, LEVELS),
        ({"net": "gated-conv", "prior": "flow"}, BITS),
        ({"prior": "mixture", "components": 3, "dtype": "bfloat16"}, BITS),
    ],
    ids=["three scales", "conv", "gated-conv and flow", "mixture and bfloat16"],
)
def test_a_self_supervised_vae_learns_with_any_parts(settings, spec):
    learns(SelfVAE(latent_dim=2, hidden=(6,), **settings), spec)


def test_what_does_not_go_together_is_one_line():
    """Settings and data, each with what to do."""
    wide = BITS._replace(event_shape=(28, 20, 1))
    for recipe, spec, message in (
        (
            SelfVAE(),
            BITS._replace(event_shape=(5, 4, 1)),
            r"scales=2 halves .* 5 x 4 pixels .*crop or resize",
        ),
        (SelfVAE(scales=4), wide, "scales=4 halves images 3 .*, and 28 x 20 pixels halve 2 .*; use scales=3"),
        (
            SelfVAE(),
            BITS._replace(event_shape=(16,)),
            r"is of images \[H, W, C\], .* of toy have shape \(16,\)",
        ),
        (SelfVAE(), REALS, "is of integer levels, the protocol 'scaled' has real values; use .* 'levels'"),
        (SelfVAE(likelihood="bernoulli"), LEVELS, "a bernoulli likelihood needs bits"),
        (SelfVAE(likelihood="normal"), LEVELS, "unknown likelihood 'normal'; there are bernoulli"),
        (SelfVAE(prior="vamp"), BITS, "unknown prior 'vamp'; there are standard"),
        (SelfVAE(components=3), BITS, "belongs to prior mixture"),
        (SelfVAE(scales=1), BITS, "scales must be at least 2, got 1"),
        (SelfVAE(hidden=()), BITS, "hidden needs at least one positive width"),
        (DRAW(), BITS._replace(event_shape=(16,)), r"paints images \[H, W, C\], .* have shape \(16,\)"),
        (DRAW(likelihood="normal"), BITS, "needs real data, .*; use the protocol 'dequantised'"),
        (DRAW(likelihood="shared-normal"), REALS, "unknown likelihood 'shared-normal'"),
        (DRAW(likelihood="fixed-normal", std=0.0), REALS, "needs a positive standard deviation, got 0"),
        (DRAW(std=2.0), BITS, "belongs to likelihood fixed-normal"),
        (DRAW(read=0), BITS, "read must be at least 1, got 0"),
        (DRAW(glimpses=0), BITS, "glimpses must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe.build(spec, {})
    assert SelfVAE().transform is None and SelfVAE(likelihood="categorical").transform == "levels"
    assert DRAW(likelihood="normal").transform == "dequantised"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [SMALL_DRAW, SMALL_SELF], ids=["DRAW", "SelfVAE"])
def test_a_run_is_read_back_and_evaluated(recipe, tmp_path):
    """Fitted for a few steps: samples, reconstructions and a likelihood with its rates, the same after loading."""
    images = np.random.RandomState(1).rand(60, 4, 4, 1) < 0.3
    source = data.from_arrays(images, test=images[:20])
    fitted = train.fit(
        recipe, source, out=tmp_path / "run", steps=6, batch_size=10, evaluations=2, progress=False
    )
    again = train.load(tmp_path / "run")
    assert again.recipe == recipe
    x = np.asarray(source.test)
    for call in (
        lambda model: model.sample(jax.random.key(0), 3),
        lambda model: model.encode(x),
        lambda model: model.reconstruct(x),
    ):
        np.testing.assert_array_equal(call(again), call(fitted))
    record = evaluate.log_likelihood(again, x, samples=20, progress=False)
    assert record.estimator == "iwae" and record.log_likelihood >= record.elbo - 1e-6
    assert len(record.rates) == 3 and sum(record.rates) == pytest.approx(record.kl, rel=1e-5)
