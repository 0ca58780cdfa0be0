"""The recipe of diffusion models: what it measures, builds, refuses, and what is read back of a run."""

import dataclasses
import json
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, recipes, train
from dlvm_jax.data import Spec
from dlvm_jax.functional.diffusion import process, schedules
from dlvm_jax.models import diffusion
from dlvm_jax.models.diffusion_latents import ode_map
from dlvm_jax.recipes.diffusion import NETS, OBJECTIVES, PROCESSES, SAMPLERS, TARGETS, sampling_times
from experiments import run as common
from experiments.autoencoder.__main__ import Config as AutoencoderConfig
from experiments.diffusion.__main__ import Config as DiffusionConfig
from experiments.diffusion.prior import Config as PriorConfig
from tests.train.common import assert_same
from tests.train.test_fitting import in_another_process

TINY = recipes.Diffusion(net="flat", width=8, depth=1, sample_steps=3)
IMAGES = np.random.RandomState(0).randint(0, 4, (60, 4, 4, 1)).astype(np.uint8)
LABELS = np.arange(60) % 3


def images(**options):
    return data.from_arrays(
        IMAGES, test=IMAGES[:10], labels=LABELS, test_labels=LABELS[:10], levels=4, **options
    )


def vectors():
    x = np.random.RandomState(1).randn(80, 2).astype(np.float32) * [1.0, 3.0] + 2
    return data.from_arrays(x.astype(np.float32), test=x[:10].astype(np.float32))


def fit(out, recipe=TINY, source=None, **settings):
    settings = {"steps": 6, "batch_size": 10, "warm_up": 1, "evaluations": 2, **settings}
    return train.fit(recipe, source or images(), out=out, progress=False, **settings)


def built(recipe, source):
    return recipe.build(source.spec, recipe.constants(source, 0))


def moved(params, scale=0.3):
    """Parameters with no array at its start value: last layers start at zero."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return jax.tree.unflatten(
        tree, [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def test_a_recipe_comes_back_from_json():
    recipe = recipes.Diffusion(log_snr=(-4.0, 9.0), fourier=(3, 4), condition="label", guidance=1.5)
    assert recipes.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe


def test_settings_of_script_and_recipe_have_different_names():
    """A script's configuration inherits from both: a name of both would be one setting with two meanings."""
    for config, recipe in (
        (DiffusionConfig, recipes.Diffusion),
        (AutoencoderConfig, recipes.Autoencoder),
        (PriorConfig, recipes.Recipe),
    ):
        assert not set(recipe.names()) & set(common.OnData.names()), config


def test_constants_are_measured_on_the_training_data():
    source = images()
    found = TINY.constants(source, 0)
    seen = np.asarray(source.train, float) / 1.5 - 1
    assert float(found["data_std"]) == pytest.approx(np.sqrt((seen**2).mean()), rel=1e-12)
    counts = 1 + np.array([(source.train == level).sum() for level in range(4)])
    np.testing.assert_allclose(np.exp(found["level_log_prob"]), counts / counts.sum(), rtol=1e-6)
    real = vectors()
    found = recipes.Diffusion().constants(real, 0)
    assert float(found["data_std"]) == pytest.approx(np.asarray(real.train, float).std(), rel=1e-12)
    np.testing.assert_array_equal(found["bins"], [real.train.min(), real.train.max()])


def test_constants_of_transformed_data_are_of_what_the_model_sees():
    """Bits drawn from grey levels 0..3 are ones in a share that is their mean: within 5 deviations, false alarms 6e-7."""
    source = images(protocol="binarised")
    found = TINY.constants(source, 0)
    share, count = source.train.mean() / 3, source.train.size
    assert len(found["level_log_prob"]) == 2 and float(found["data_std"]) == 1.0
    assert abs(np.exp(found["level_log_prob"][1]) - share) < 5 * np.sqrt(share * (1 - share) / count)


def test_validation_repeats_few_examples_and_takes_no_more_than_2000():
    few = TINY.held_out((IMAGES[:3], LABELS[:3]))
    assert len(few[0]) == len(few[1]) == 1998
    np.testing.assert_array_equal(few[1], np.repeat(LABELS[:3], 666))
    assert len(TINY.held_out(np.zeros((50, 2), np.float32))) == 20_000
    assert len(TINY.held_out(np.zeros((3000, 2), np.uint8))) == 2000


def test_vectors_are_trained_longer(tmp_path):
    """The default length depends on the data; what is given counts."""
    spec = images().spec
    assert TINY.training_for(spec)["steps"] == 1000
    assert TINY.training_for(spec._replace(event_shape=(2,)))["steps"] == 4000
    assert DiffusionConfig().steps is None and DiffusionConfig().clip == 1.0


def test_a_network_says_the_odds_of_few_levels_alone():
    """16 bits would be 65,536 outputs for each number."""
    spec = images().spec
    assert TINY.resolved(spec).target == TINY.resolved(spec._replace(levels=1024)).target == "levels"
    assert TINY.resolved(spec._replace(levels=65_536)).target == "edm"
    # older runs, with the odds of all levels, load
    older = {"data_std": np.array(1.0), "level_log_prob": np.zeros(2000, np.float32)}
    assert TINY.build(spec._replace(levels=2000), older).parts.denoiser.target == "levels"


QUICK = [
    {"net": "transformer", "condition": "label", "fourier": (1, 2), "dtype": "bfloat16"},
    {"process": "vp", "objective": "epsilon", "target": "v"},
]
SLOW = [
    {"process": "learned", "target": "x0", "sampler": "ancestral"},
    {"process": "sub-vp", "objective": "x0", "target": "score", "sampler": "euler-maruyama"},
    {"process": "edm", "objective": "edm", "target": "edm", "sampler": "heun"},
    {"process": "rectified", "objective": "v", "target": "velocity", "sampler": "dpm-3"},
    {"process": "ddpm", "objective": "min_snr", "target": "epsilon", "sampler": "ddim"},
    {"process": "cosine", "target": "levels"},
    *({"net": name, "dropout": 0.2} for name, net in NETS.items() if net.images),
]


def test_every_name_of_a_part_stands_in_a_case():
    for part, names in {
        "process": PROCESSES,
        "target": TARGETS,
        "objective": OBJECTIVES,
        "sampler": SAMPLERS,
    }.items():
        seen = {options.get(part, getattr(TINY, part)) for options in QUICK + SLOW}
        assert set(names) - {"bins"} <= seen, part  # bins are of real numbers


@pytest.mark.parametrize(
    "options", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)], ids=str
)
def test_every_part_builds_a_model_of_images(options):
    """Loss, bound and samples are finite, samples are levels, gradients reach every array."""
    recipe = dataclasses.replace(TINY, **options)
    model = built(recipe, images())
    params = moved(model.init(jax.random.key(0)), 0.1)
    x = jnp.asarray(IMAGES[:6], jnp.float32)
    batch = (x, jnp.asarray(LABELS[:6])) if model.labels else x
    (loss, _), gradient = jax.jit(jax.value_and_grad(model.objective, has_aux=True))(
        params, jax.random.key(1), batch, 0
    )
    assert np.isfinite(loss)
    # of 4 x 4 pixels one place is left where a U-Net attends: whatever its query and key, all weight lies there
    idle = ("['query']", "['key']") if options.get("net") == "unet" else ()
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all() and ((leaf != 0).any() or any(part in name for part in idle)), name
    context = batch[1] if model.labels else None
    draw = jax.jit(jax.vmap(lambda key: model.density.log_prob(params, key, x, context)))
    bound = draw(jax.random.split(jax.random.key(2), 32))
    assert bound.shape == (32, 6) and np.isfinite(bound).all() and bound.mean() < 0
    drawn, _ = jax.jit(lambda p, k: model.density.sample(p, k, context, (2,)))(params, jax.random.key(3))
    assert drawn.reshape(-1, 4, 4, 1).shape == (2 * (6 if model.labels else 1), 4, 4, 1)
    assert np.isin(drawn, np.arange(4)).all()


@pytest.mark.slow
def test_samples_are_guided_and_the_bound_is_not():
    """Samples of a conditional model are those of the guided denoiser, whatever its bound says."""
    source = images()
    plain, guided = (
        built(dataclasses.replace(TINY, condition="label", guidance=weight), source) for weight in (0.0, 3.0)
    )
    params, labels = moved(plain.init(jax.random.key(0))), jnp.array([0, 1, 2])
    draw = lambda model: model.density.sample(params, jax.random.key(1), labels, (4,))[0]
    assert draw(plain).shape == (4, 3, 4, 4, 1) and not np.array_equal(draw(plain), draw(guided))
    steered = diffusion.guided(plain.parts.denoiser, 3, 3.0)
    sampler = lambda noise, denoise: (SAMPLERS["dpm-2"].build(noise, denoise), sampling_times(noise, 3))
    expected = diffusion.bound_density(steered, sampler, 4).sample(params, jax.random.key(1), labels, (4,))[0]
    np.testing.assert_array_equal(draw(guided), expected)
    x = jnp.asarray(IMAGES[:3], jnp.float32)
    bounds = [model.density.log_prob(params, jax.random.key(2), x, labels) for model in (plain, guided)]
    np.testing.assert_array_equal(*bounds)


@pytest.mark.parametrize("levels", [None, 3])
def test_latents_by_ode_of_a_gaussian(levels):
    """With the exact denoiser of N(0, s^2) data the flow is x -> x sqrt(v_T / v_t), v_t = alpha^2 s^2 + sigma^2: order four."""
    s, noise = 0.7, schedules.linear_log_snr(-6.0, 6.0)

    def denoise(params, x, t, context=None, key=None):
        alpha, sigma = process.alpha(noise, t), process.sigma(noise, t)
        return alpha * s**2 / (alpha**2 * s**2 + sigma**2) * x

    model = diffusion.Denoiser(lambda key: {}, lambda params: noise, denoise, denoise, "x0", (3,))
    encode, decode = ode_map(model, levels=levels)
    variance = lambda t: process.alpha(noise, t) ** 2 * s**2 + process.sigma(noise, t) ** 2
    ratio = jnp.sqrt(variance(noise.t_max) / variance(noise.t_min))
    x = jnp.array([[0.0, 1.0, 2.0]])
    start = x if levels is None else process.alpha(noise, noise.t_min) * (x - 1)
    z = encode({}, x)
    np.testing.assert_allclose(z, start * ratio, atol=1e-4)
    np.testing.assert_allclose(decode({}, z), x, atol=1e-4 if levels is None else 0)
    if levels is not None:
        drawn = encode({}, jnp.broadcast_to(x, (4000, 1, 3)), jax.random.key(0)) / ratio - start
        assert (
            abs(drawn.std() / process.sigma(noise, noise.t_min) - 1) < 0.03
        )  # 4.6 deviations, false alarms 4e-6


@pytest.mark.slow
def test_a_run_is_read_back_in_another_process(tmp_path):
    """A conditional model of levels: samples, bound, codes; another sampler may go on with the run, another process may not."""
    recipe = dataclasses.replace(TINY, condition="label")
    fitted = fit(tmp_path / "run", recipe)
    x, labels = (IMAGES[:3], LABELS[:3]), np.arange(3)
    assert fitted.sample(jax.random.key(3), 2, labels).shape == (2, 3, 4, 4, 1)
    expected = {
        "sample": fitted.sample(jax.random.key(3), 2, labels),
        "log_prob": fitted.log_prob(jax.random.key(7), x),
        "encode": fitted.encode(x),
        "reconstruct": fitted.reconstruct(x),
    }
    assert expected["log_prob"].shape == (3,) and expected["encode"].shape == (3, 4, 4, 1)
    np.testing.assert_array_equal(expected["reconstruct"], fitted.decode(expected["encode"], labels))
    np.testing.assert_array_equal(
        expected["reconstruct"], IMAGES[:3]
    )  # the solver's error is far below a level
    np.savez(tmp_path / "expected.npz", x=IMAGES[:3], **expected)
    code = """
import sys, jax, numpy as np
from dlvm_jax import train
fitted, there = train.load(sys.argv[1]), np.load(sys.argv[2])
labels = np.arange(3)
x = there["x"], labels
np.testing.assert_array_equal(fitted.sample(jax.random.key(3), 2, labels), there["sample"])
np.testing.assert_array_equal(fitted.log_prob(jax.random.key(7), x), there["log_prob"])
np.testing.assert_array_equal(fitted.encode(x), there["encode"])
print(fitted.step, fitted.model.parts.denoiser.target)
"""
    printed = in_another_process(code, tmp_path / "run", tmp_path / "expected.npz")
    assert printed.split() == [str(fitted.step), "levels"]
    other = fit(tmp_path / "run", dataclasses.replace(recipe, sampler="heun", guidance=2.0), resume=True)
    assert_same(other.params, fitted.params)
    assert other.recipe.guidance == 2.0 and train.load(tmp_path / "run").recipe.sampler == "heun"
    with pytest.raises(ValueError, match="process 'linear-log-snr' there, 'edm' here"):
        fit(tmp_path / "run", dataclasses.replace(recipe, process="edm"), resume=True)


@pytest.mark.slow
def test_vectors_have_real_samples_and_latents(tmp_path):
    fitted = fit(tmp_path / "run", recipes.Diffusion(width=8, depth=1, sample_steps=3), vectors())
    drawn = fitted.sample(jax.random.key(0), 5)
    assert drawn.shape == (5, 2) and np.isfinite(drawn).all()
    x = np.float32([[0.5, -1.0], [2.0, 3.0]])
    assert fitted.log_prob(jax.random.key(0), x).shape == (2,)
    np.testing.assert_allclose(fitted.reconstruct(x), x, atol=0.05)
    assert fitted.model.parts.denoiser.target == "bins" and fitted.model.parts.levels is None


SPEC = Spec("toy", "levels", "", (4, 4, 1), 60, 4, True, 1.0)
REAL = types.MappingProxyType({"discrete": False, "levels": 0})


@pytest.mark.parametrize(
    ("settings", "spec", "message"),
    [
        ({"process": "sde"}, {}, "unknown process 'sde'; there are linear-log-snr, "),
        (
            {"process": "vp", "log_snr": (-6.0, 10.0)},
            {},
            "belongs to process linear-log-snr or learned, not to",
        ),
        ({"log_snr": (6.0, -6.0)}, {}, "low < high"),
        ({"log_snr": (float("nan"), 3.0)}, {}, "log_snr must be finite"),
        ({"dropout": 1.0}, {}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"guidance": 1.0}, {}, "guidance steers to a label; add condition='label'"),
        ({"process": "learned", "objective": "epsilon"}, {}, "trained by objective='bound' alone"),
        ({"condition": "label"}, {}, "needs labels, and toy has none; leave it out"),
        ({"net": "mlp"}, {}, "net='mlp' is for vectors, .* use net='flat' or 'unet' or 'transformer'"),
        ({"net": "unet"}, {"event_shape": (2,)}, "net='unet' is for images, .* use net='mlp'"),
        ({"target": "bins"}, {}, "target='bins' is for real numbers, the protocol 'levels' has integers"),
        ({"target": "levels"}, REAL, "target='levels' is for integers, the protocol 'levels' has real"),
        (
            {"net": "unet", "fourier": (3,)},
            {},
            "belongs to net mlp or flat or transformer, not to net='unet'",
        ),
        ({"dropout": 0.1}, {"event_shape": (2,)}, "dropout=0.1 belongs to net flat or unet or transformer"),
        ({"net": "transformer", "width": 30}, {}, "divisible by its 4 heads, got 30; use 32"),
        ({"patch": 3}, {}, "patches of 3 x 3 do not tile"),
        (
            {"process": "ddpm", "sample_steps": 1500},
            {},
            "at most the 1000 steps of the table .*'ddpm', got 1500",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, spec, message):
    constants = {"data_std": 1.0, "level_log_prob": np.zeros(4, np.float32), "bins": np.array([0.0, 1.0])}
    with pytest.raises(ValueError, match=message):
        recipes.Diffusion(**settings).build(SPEC._replace(**spec), constants)


@pytest.mark.parametrize("recipe", [recipes.Diffusion(condition="label"), recipes.VAE(condition="label")])
def test_labels_without_training_examples_are_named(recipe):
    gaps = data.from_arrays(
        IMAGES, test=IMAGES[:10], labels=2 * LABELS, test_labels=2 * LABELS[:10], levels=4
    )
    with pytest.warns(UserWarning, match=r"no training example has the label 1, 3 of 0\.\.4"):
        recipe.constants(gaps, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe.constants(images(), 0)
